"""A head fitted in closed form on the features of a frozen backbone: the first step of LP-FT.

Fine-tuning from a random head distorts pretrained features before the head has learned; fine-tuning
from a fitted head does not (Kumar et al. 2022, arXiv 2202.10054, "LP-FT").
"""

from __future__ import annotations

from torch import nn

from unprompt.errors import RecipeError
from unprompt.models.bank.bank import unit
from unprompt.models.embedder import Embedder
from unprompt.models.heads import ClassesHead
from unprompt.pairs.table import PairsTable
from unprompt.training.data.features import features_of, head_score
from unprompt.training.head.classes import fit_classes_head
from unprompt.training.head.ridge import best_ridge


def fit_linear_probe(model: Embedder, train: PairsTable, val: PairsTable) -> tuple[float, float]:
    """Set the head by ridge regression from frozen features to prompt embeddings.

    A linear head takes the penalty that scores best on the validation split. A ``classes`` head is
    fitted by `fit_classes_head`, which chooses its penalty by leaving sources of the training split
    out.

    Returns:
        The penalty, and the mean cosine on the validation split.

    Raises:
        RecipeError: the head is neither linear nor of classes.
    """
    if model.architecture.head.type == "mlp":
        raise RecipeError("schedule.linear_probe fits a linear head; set model.head.type=linear")
    known, unseen = features_of(model, train), features_of(model, val)
    if isinstance(model.head, ClassesHead):
        rows = train.take(known.rows)
        sources = [source or "unknown" for source in rows.column("source")]
        fit = fit_classes_head(
            model.head, known.values, unit(known.embeddings), sources, rows.prompts
        )
        return fit.penalty, head_score(model, unseen)
    weights, penalty, score = best_ridge(
        known.values, known.embeddings, unseen.values, unseen.embeddings
    )
    weights.copy_to(last_layer(model.head))
    return penalty, score


def last_layer(head: nn.Module) -> nn.Linear:
    """The last layer of a linear head or an ``mlp``."""
    assert isinstance(head, nn.Sequential)  # noqa: S101 - what create_head builds
    layer = head[-1]
    assert isinstance(layer, nn.Linear)  # noqa: S101 - likewise
    return layer
