"""Prompt text to prompt embedding: encoders on torch or ONNX, and an on-disk cache."""

from unprompt.encoding.embedding_cache import EmbeddingCache, TextEncoder, encode
from unprompt.encoding.encoder import PromptEncoder, load_encoder
from unprompt.encoding.encoder_config import EncoderError
from unprompt.encoding.sources import DEFAULT_ENCODER

__all__ = [
    "DEFAULT_ENCODER",
    "EmbeddingCache",
    "EncoderError",
    "PromptEncoder",
    "TextEncoder",
    "encode",
    "load_encoder",
]
