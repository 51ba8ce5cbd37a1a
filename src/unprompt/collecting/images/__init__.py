"""Image generation for `unprompt generate`: its backends, and the folder that it writes.

`backends` names them, `diffusion` runs pipelines of diffusers, `generation_folder` keeps images.
"""
