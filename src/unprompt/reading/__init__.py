"""The exact route: the prompt as the image file's own metadata states it."""

from unprompt.reading.batch import read_many
from unprompt.reading.result import Field, Lora, Prompt, Reading, Settings
from unprompt.reading.source import read, read_fields
from unprompt.reading.writing import write_prompt

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
