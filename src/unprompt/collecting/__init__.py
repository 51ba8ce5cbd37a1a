"""Sources of pairs: downloaded, harvested from folders, or generated from composed prompts.

The verbs are in `download_dataset`, `harvest`, `compose` and `generate`; the folders hold their
parts. `journal` lets interrupted work continue.
"""
