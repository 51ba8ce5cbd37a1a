"""SwarmUI (before: StableSwarmUI): a JSON object with ``sui_image_params``."""

from __future__ import annotations

from unprompt.reading.carrier import Carrier
from unprompt.reading.keyed import read_keyed
from unprompt.reading.result import Reading, as_text

PLACES = ("parameters", "UserComment", "exif:UserComment", "comment", "Comment")


def read(carrier: Carrier) -> Reading | None:
    """The parameters as the user gave them; a graph beside them holds the prompt as expanded."""
    for field, value in carrier.objects("sui_image_params", *PLACES):
        stated = value.get("sui_image_params")
        if isinstance(stated, dict):
            models = value.get("sui_models")
            for model in models if isinstance(models, list) else ():
                if isinstance(model, dict) and model.get("param") == "model":
                    stated = {**stated, "model_hash": model.get("hash")}
            version = as_text(stated.get("swarm_version"))
            return read_keyed(stated, str(field), "SwarmUI", version)
    return None
