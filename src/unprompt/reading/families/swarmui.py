"""SwarmUI (before: StableSwarmUI): a JSON object with ``sui_image_params``."""

from __future__ import annotations

from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.key_values import read_key_values
from unprompt.reading.result import Reading, as_text

PLACES = ("parameters", "UserComment", "exif:UserComment", "comment", "Comment")


def read(texts: ImageTexts) -> Reading | None:
    """The parameters as the user gave them."""
    for field, value in texts.objects("sui_image_params", *PLACES):
        stated = value.get("sui_image_params")
        if isinstance(stated, dict):
            models = value.get("sui_models")
            for model in models if isinstance(models, list) else ():
                if isinstance(model, dict) and model.get("param") == "model":
                    stated = {**stated, "model_hash": model.get("hash")}
            version = as_text(stated.get("swarm_version"))
            return read_key_values(stated, str(field), "SwarmUI", version)
    return None
