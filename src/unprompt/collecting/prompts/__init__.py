"""Sources of prompts for `unprompt compose`.

`grammar` composes prompts from the lists in ``words/``, `wordnet` adds nouns, `completion` lets a
language model continue prompts, and `diversity` measures the result.
"""
