"""CoCa, the captioner: it reads an image and writes a prompt."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from unprompt.models.coca.configuration import CoCaConfig
from unprompt.models.coca.kv_cache import CoCaCache
from unprompt.models.coca.modeling import CoCaForConditionalGeneration, CoCaModel
from unprompt.models.coca.outputs import CoCaImageOutput, CoCaOutput
from unprompt.models.coca.processing import CoCaProcessor

CoCa = CoCaForConditionalGeneration
"""Short name of the captioner: ``CoCa.from_open_clip(...)``, ``CoCa.from_pretrained(...)``."""

AutoConfig.register(CoCaConfig.model_type, CoCaConfig)
AutoModel.register(CoCaConfig, CoCaModel)
AutoModelForImageTextToText.register(CoCaConfig, CoCaForConditionalGeneration)
AutoProcessor.register(CoCaConfig, CoCaProcessor)

__all__ = [
    "CoCa",
    "CoCaCache",
    "CoCaConfig",
    "CoCaForConditionalGeneration",
    "CoCaImageOutput",
    "CoCaModel",
    "CoCaOutput",
    "CoCaProcessor",
]
