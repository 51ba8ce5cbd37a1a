"""The exact route: read the prompt from the metadata of the image file."""

from unprompt.reading.read_batch import read_many
from unprompt.reading.read_image import read, read_fields
from unprompt.reading.result import Field, Lora, Prompt, Reading, Settings
from unprompt.reading.write_image import write_prompt

__all__ = [
    "Field",
    "Lora",
    "Prompt",
    "Reading",
    "Settings",
    "read",
    "read_fields",
    "read_many",
    "write_prompt",
]
