"""Sources of pairs: downloaded, harvested from folders, or generated from composed prompts.

A module for each verb, `download`, `harvest`, `compose` and `generate`; a folder for what each of
them needs; `journal` lets them continue where they were stopped.
"""
