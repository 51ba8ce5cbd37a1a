"""Near-duplicate prompts: exact search, groups and the row that each group keeps."""
