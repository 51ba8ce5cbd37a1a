"""Near-duplicate prompts: found exactly, grouped, and removed by a rule.

`dedup_file` works from file to file; `deduplication` in memory: it folds `identical_prompts`, finds
near pairs by `exact_search` (its first step is in `cosine_bounds`) or `approximate_search`, and
keeps one of each by the `neighbour_pairs` found. `dedup_report` shows the result.
"""
