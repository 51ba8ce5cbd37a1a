"""unprompt: from image back to prompt."""

__version__ = "0.1.0"
