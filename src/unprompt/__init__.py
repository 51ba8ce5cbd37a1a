"""From image back to prompt: recover the text prompt behind an AI-generated image.

>>> import unprompt
>>> answer = unprompt.predict("picture.png")  # doctest: +SKIP
>>> answer.prompt, answer.route  # doctest: +SKIP

Names are loaded at their first use, so ``import unprompt`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unprompt.collecting.compose import compose as compose
    from unprompt.collecting.download_dataset import download as download
    from unprompt.collecting.generate import generate as generate
    from unprompt.collecting.harvest import harvest as harvest
    from unprompt.curating.dedup.deduplication import deduplicate as deduplicate
    from unprompt.curating.encode_file import encode_file as encode_file
    from unprompt.curating.filter import Rules as Rules
    from unprompt.curating.filter import filter_pairs as filter_pairs
    from unprompt.curating.split import split_by_group as split_by_group
    from unprompt.encoding import encode as encode
    from unprompt.encoding import load_encoder as load_encoder
    from unprompt.errors import MissingExtraError as MissingExtraError
    from unprompt.errors import ModelNotFoundError as ModelNotFoundError
    from unprompt.errors import OutputError as OutputError
    from unprompt.errors import RecipeError as RecipeError
    from unprompt.errors import TableError as TableError
    from unprompt.errors import TrainingError as TrainingError
    from unprompt.errors import UnpromptError as UnpromptError
    from unprompt.errors import UnreadableImageError as UnreadableImageError
    from unprompt.evaluating.evaluation import Evaluation as Evaluation
    from unprompt.evaluating.evaluation import evaluate as evaluate
    from unprompt.evaluating.fit_calibration import calibrate as calibrate
    from unprompt.evaluating.fit_ensemble_weights import merge_answers as merge_answers
    from unprompt.evaluating.html_report import write_report as write_report
    from unprompt.models.bank.bank import Bank as Bank
    from unprompt.models.coca import CoCa as CoCa
    from unprompt.models.embedder import Embedder as Embedder
    from unprompt.pairs.convert import convert as convert
    from unprompt.pairs.convert import read_pairs as read_pairs
    from unprompt.pairs.table import Pair as Pair
    from unprompt.pairs.table import PairsTable as PairsTable
    from unprompt.pairs.table import load as load_table  # noqa: F401
    from unprompt.pairs.table import save as save_table  # noqa: F401
    from unprompt.predicting.answer import Answer as Answer
    from unprompt.predicting.bank_search import search_bank as search_bank
    from unprompt.predicting.build_models import build_bank as build_bank
    from unprompt.predicting.build_models import build_interrogator as build_interrogator
    from unprompt.predicting.build_models import build_knn as build_knn
    from unprompt.predicting.loading import load_model as load_model
    from unprompt.predicting.options import PredictOptions as PredictOptions
    from unprompt.predicting.predict_files import predict_files as predict_files
    from unprompt.predicting.predictor import Predictor as Predictor
    from unprompt.predicting.predictor import predict as predict
    from unprompt.progress import progress_bars as progress_bars
    from unprompt.reading import Reading as Reading
    from unprompt.reading import Settings as Settings
    from unprompt.reading import read as read
    from unprompt.reading import write_prompt as write_prompt
    from unprompt.reading.read_files import read_files as read_files
    from unprompt.training.export import export as export
    from unprompt.training.head.zero_shot import fit_zero_shot_head as fit_zero_shot_head
    from unprompt.training.merge_weights import merge_weights as merge_weights
    from unprompt.training.recipe import Recipe as Recipe
    from unprompt.training.recipe import load_recipe as load_recipe
    from unprompt.training.run import train as train

__version__ = "0.1.0"

_HOMES = {
    "Answer": "predicting.answer",
    "Bank": "models.bank.bank",
    "CoCa": "models.coca",
    "Embedder": "models.embedder",
    "Evaluation": "evaluating.evaluation",
    "MissingExtraError": "errors",
    "ModelNotFoundError": "errors",
    "OutputError": "errors",
    "Pair": "pairs.table",
    "PairsTable": "pairs.table",
    "PredictOptions": "predicting.options",
    "Predictor": "predicting.predictor",
    "Reading": "reading",
    "Recipe": "training.recipe",
    "RecipeError": "errors",
    "Rules": "curating.filter",
    "Settings": "reading",
    "TableError": "errors",
    "TrainingError": "errors",
    "UnpromptError": "errors",
    "UnreadableImageError": "errors",
    "build_bank": "predicting.build_models",
    "build_interrogator": "predicting.build_models",
    "build_knn": "predicting.build_models",
    "calibrate": "evaluating.fit_calibration",
    "compose": "collecting.compose",
    "convert": "pairs.convert",
    "deduplicate": "curating.dedup.deduplication",
    "download": "collecting.download_dataset",
    "encode": "encoding",
    "encode_file": "curating.encode_file",
    "evaluate": "evaluating.evaluation",
    "export": "training.export",
    "filter_pairs": "curating.filter",
    "fit_zero_shot_head": "training.head.zero_shot",
    "generate": "collecting.generate",
    "harvest": "collecting.harvest",
    "load_encoder": "encoding",
    "load_model": "predicting.loading",
    "load_recipe": "training.recipe",
    "load_table": "pairs.table:load",
    "merge_answers": "evaluating.fit_ensemble_weights",
    "merge_weights": "training.merge_weights",
    "predict": "predicting.predictor",
    "predict_files": "predicting.predict_files",
    "progress_bars": "progress",
    "read": "reading",
    "read_files": "reading.read_files",
    "read_pairs": "pairs.convert",
    "save_table": "pairs.table:save",
    "search_bank": "predicting.bank_search",
    "split_by_group": "curating.split",
    "train": "training.run",
    "write_prompt": "reading",
    "write_report": "evaluating.html_report",
}
"""Module of each public name. If the name differs inside the module, it follows a colon.

The imports above are for type checkers; ``tests/test_package.py`` compares both lists.
"""

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unprompt' has no attribute '{name}'")
    module, _, inner = _HOMES[name].partition(":")
    value = getattr(import_module(f"unprompt.{module}"), inner or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
