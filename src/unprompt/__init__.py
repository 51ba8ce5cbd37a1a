"""From image back to prompt: recover the text prompt behind an AI-generated image.

>>> import unprompt
>>> answer = unprompt.predict("picture.png")  # doctest: +SKIP
>>> answer.prompt, answer.route  # doctest: +SKIP

Names are loaded when they are first used, so that ``import unprompt`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unprompt.encoding import encode
    from unprompt.errors import UnpromptError
    from unprompt.evaluating.evaluation import evaluate
    from unprompt.models.coca import CoCa
    from unprompt.models.embedder import Embedder
    from unprompt.pairs.table import Pair, PairsTable
    from unprompt.predicting.answer import Answer
    from unprompt.predicting.predictor import Predictor, predict
    from unprompt.progress import progress_bars
    from unprompt.reading import Reading, read, write_prompt
    from unprompt.training.run import train

__version__ = "0.1.0"

_HOMES = {
    "Answer": "unprompt.predicting.answer",
    "CoCa": "unprompt.models.coca",
    "Embedder": "unprompt.models.embedder",
    "Pair": "unprompt.pairs.table",
    "PairsTable": "unprompt.pairs.table",
    "Predictor": "unprompt.predicting.predictor",
    "Reading": "unprompt.reading",
    "UnpromptError": "unprompt.errors",
    "encode": "unprompt.encoding",
    "evaluate": "unprompt.evaluating.evaluation",
    "predict": "unprompt.predicting.predictor",
    "progress_bars": "unprompt.progress",
    "read": "unprompt.reading",
    "train": "unprompt.training.run",
    "write_prompt": "unprompt.reading",
}

__all__ = [
    "Answer",
    "CoCa",
    "Embedder",
    "Pair",
    "PairsTable",
    "Predictor",
    "Reading",
    "UnpromptError",
    "encode",
    "evaluate",
    "predict",
    "progress_bars",
    "read",
    "train",
    "write_prompt",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unprompt' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
