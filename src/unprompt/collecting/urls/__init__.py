"""Data sets on the web, for `unprompt download`.

`preset_list` describes them (``presets/``), `url_list` reads lists of URLs, `public_addresses` lets
img2dataset connect only to public addresses, `diffusiondb_parts` fetches DiffusionDB's zip files.
"""
