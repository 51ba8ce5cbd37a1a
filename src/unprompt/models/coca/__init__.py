"""CoCa, the captioner: image → prompt text."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from unprompt.models.coca.cache import CoCaCache
from unprompt.models.coca.configuration import CoCaConfig
from unprompt.models.coca.modeling import (
    CoCaForConditionalGeneration,
    CoCaImageOutput,
    CoCaModel,
    CoCaOutput,
)

AutoConfig.register(CoCaConfig.model_type, CoCaConfig)
AutoModel.register(CoCaConfig, CoCaModel)
AutoModelForImageTextToText.register(CoCaConfig, CoCaForConditionalGeneration)

__all__ = [
    "CoCaCache",
    "CoCaConfig",
    "CoCaForConditionalGeneration",
    "CoCaImageOutput",
    "CoCaModel",
    "CoCaOutput",
]
