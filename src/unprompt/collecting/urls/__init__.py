"""Data sets on the web, for `unprompt download`.

`preset_list` knows them (``presets/``), `url_list` reads lists of URLs, `public_addresses` limits
where img2dataset connects to, and `diffusiondb_parts` fetches DiffusionDB's zip files.
"""
