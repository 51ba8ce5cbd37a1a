"""Sources of prompts for `unprompt compose`.

A `grammar` over the lists in ``words/``, nouns of `wordnet`, and `completion` by a language model;
`diversity` measures the result.
"""
