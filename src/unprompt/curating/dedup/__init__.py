"""Near-duplicate prompts: found exactly, grouped, and removed by a rule.

`dedup_file` reads and writes files; `deduplication` works in memory. It folds `identical_prompts`,
finds candidates by `exact_search` (with `cosine_bounds`) or `approximate_search`, tests them in
`neighbour_pairs`, and chooses which rows to keep. `dedup_report` shows the result.
"""
