"""A search for the learning rate: the loss of a few steps while the rate rises.

This is the learning-rate range test (Smith 2015, arXiv 1506.01186). The rate rises from a very low
one by a constant factor a step until the loss climbs. A good peak lies well below the rate with the
lowest loss, where training is already close to divergence.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from unprompt.errors import RecipeError, TrainingError
from unprompt.files import atomic_path
from unprompt.progress import track
from unprompt.training.embedder_trainer import EmbedderTrainer
from unprompt.training.recipe import Optimiser, Recipe
from unprompt.training.run import prepare
from unprompt.training.train_embedder import create_trainer

STEPS = 100

SMOOTHING = 0.9
"""Weight of the past in the running mean of the loss."""

SAFETY = 10.0
"""The suggestion is the rate of the lowest loss divided by this (Howard, fastai)."""

LOWEST, HIGHEST = 1e-3, 1e3
"""The rates that are tried, as multiples of the recipe's."""


@dataclass(frozen=True)
class RateSearch:
    """The result of a search.

    Attributes:
        factors: of each step, by which every learning rate of the recipe was multiplied.
        losses: the loss of each step, smoothed.
        learning_rate: the recipe's peak for the backbone.
        head_learning_rate: the recipe's peak for the head.
    """

    factors: list[float] = field(repr=False)
    losses: list[float] = field(repr=False)
    learning_rate: float
    head_learning_rate: float

    @property
    def factor(self) -> float:
        """The suggested factor of the recipe's learning rates."""
        return self.factors[self.losses.index(min(self.losses))] / SAFETY

    def __str__(self) -> str:
        return (
            f"optimiser.learning_rate={self.factor * self.learning_rate:.1e} "
            f"optimiser.head_learning_rate={self.factor * self.head_learning_rate:.1e}"
        )

    def plot(self, path: str | Path) -> None:
        """Sample loss over learning rate, with the suggestion, into a PNG.

        Raises:
            OutputError: the file cannot be written.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot([factor * self.learning_rate for factor in self.factors], self.losses)
        suggested = self.factor * self.learning_rate
        axes.axvline(suggested, linestyle="--", color="grey", label=f"suggested: {suggested:.1e}")
        axes.set(xscale="log", xlabel="learning rate of the backbone", ylabel="loss (smoothed)")
        axes.legend()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=120, format="png")


def find_learning_rate(recipe: Recipe, steps: int = STEPS) -> RateSearch:
    """Try rising learning rates on the recipe's model and data, and discard the model.

    All else is as in the recipe: the head that is fitted first, the batch, the loss, and the ratios
    between the rates of layers and head. Nothing is written.

    Args:
        recipe: the run.
        steps: from the lowest rate to the highest; the search ends earlier when the smoothed loss
            has risen above where it began.

    Raises:
        RecipeError: a learning rate of the recipe is 0, or the recipe is not of an embedder.
        TrainingError: the loss of the first batch is not finite.
    """
    rates = recipe.optimiser
    if not rates.learning_rate or not rates.head_learning_rate:
        raise RecipeError("a learning rate of 0 has no multiples; set the recipe's above 0")
    if recipe.learner != "embedder":
        raise RecipeError(f"the search is for embedders; this recipe has a {recipe.learner}")
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(recipe, output=folder, optimiser=replace(rates, ema=0.0))
        transformers.set_seed(recipe.seed)
        trainer = create_trainer(trial, prepare(trial, Path(folder)))
        return _search(trainer, rates, steps)


def _search(trainer: EmbedderTrainer, rates: Optimiser, steps: int) -> RateSearch:
    optimiser = trainer.create_optimizer()
    peaks = [float(group["lr"]) for group in optimiser.param_groups]
    model = trainer.accelerator.prepare(trainer.model)
    model.train()
    batches = _endless(trainer)
    factors: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for step in track(range(steps), "Learning rate"):
        factor = LOWEST * (HIGHEST / LOWEST) ** (step / max(1, steps - 1))
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = factor * peak
        inputs = trainer._prepare_inputs(next(batches))
        try:
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, inputs)
        except TrainingError:
            if not losses:
                raise
            break  # the rate is so high that the loss is not finite
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss.item()
        factors.append(factor)
        losses.append(mean / (1 - SMOOTHING ** (step + 1)))
        if step > steps / 10 and losses[-1] > losses[0]:
            break
        optimiser.zero_grad()
        trainer.accelerator.backward(loss)
        if trainer.args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        optimiser.step()
    return RateSearch(factors, losses, rates.learning_rate, rates.head_learning_rate)


def _endless(trainer: EmbedderTrainer) -> Iterator[dict[str, Any]]:
    while True:
        yield from trainer.get_train_dataloader()
