"""Hugging Face's trainer as the runs of embedders, captioners and decoders use it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainerState
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from unprompt.errors import StoppedError, TrainingError
from unprompt.training.callbacks import (
    LOG_FILE,
    Evaluations,
    RunLog,
    Seeds,
    StopOnSignal,
    stopped_improving,
)
from unprompt.training.data.sampling import PairSampler
from unprompt.training.recipe import Recipe
from unprompt.training.trainer_arguments import steps_per_epoch

FAILURES_FILE = "unreadable.txt"
_STATE_FILE = "trainer_state.json"


class RunTrainer(transformers.Trainer):
    """A trainer whose runs can be stopped at any instant and go on as if they had not been.

    Batches may hold ``failure``, lines about items that could not be read. Without ``sampler`` the
    order is that of ``train_sampling_strategy``.

    Attributes:
        stop: tells whether a signal ended the training.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        train: Dataset[Any],
        val: Dataset[Any],
        sampler: PairSampler | None,
        arguments: transformers.TrainingArguments,
        **further: Any,
    ):
        self._recipe = recipe
        self._sampler = sampler
        self._failures: set[str] = set()
        self.stop = StopOnSignal()
        folder = Path(recipe.output)
        shown: Any = train if sampler is None else sampler
        seeds = Seeds(recipe.seed, sampler, steps_per_epoch(recipe, len(shown)))
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=val,
            callbacks=[RunLog(folder / LOG_FILE), Evaluations(recipe.schedule), seeds, self.stop],
            **further,
        )
        self.remove_callback(PrinterCallback)
        if not sys.stderr.isatty():
            self.remove_callback(ProgressCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        return self._sampler or super()._get_train_sampler(train_dataset)

    def _get_dataloader(self, *arguments: Any, **further: Any) -> DataLoader[Any]:
        """The trainer's, which must not draw the seeds of its processes from torch's generator."""
        loader: Any = super()._get_dataloader(*arguments, **further)
        loader.base_dataloader.generator = torch.Generator().manual_seed(self._recipe.seed)
        return loader

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One forward and backward pass; names the images that could not be read."""
        for failure in inputs.get("failure", ()):
            if failure and failure not in self._failures:
                self._failures.add(failure)
                sys.stderr.write(f"unprompt: passed over: {failure}\n")
                with (Path(self._recipe.output) / FAILURES_FILE).open("a", encoding="utf-8") as f:
                    f.write(failure + "\n")
        return super().training_step(model, inputs, num_items_in_batch)

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing to save, as `Seeds` derives randomness from the step.

        But it is now that all other files of the checkpoint stand, and they must be on the disk
        before ``trainer_state.json`` comes and declares it whole.
        """
        for path in Path(output_dir).rglob("*"):
            if path.is_file():
                handle = os.open(path, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """See `_save_rng_state`."""

    def has_ended(self, state: TrainerState) -> bool:
        """Whether a run in this state took its last step, or stopped early."""
        patience = self._recipe.schedule.patience
        ended = state.global_step >= self.args.max_steps
        return ended or stopped_improving(state, patience, self.args.eval_steps)

    def best_checkpoint(self) -> Path:
        """The checkpoint of the best look.

        Raises:
            TrainingError: no look gave a score.
        """
        step = self.state.best_global_step
        if step is None:
            raise TrainingError("no look at the validation split gave a score that is a number")
        return Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{step}"

    def check_finite(self, loss: torch.Tensor, rows: list[int], table: Any) -> None:
        """Stop before a loss that is no number reaches the weights.

        Raises:
            TrainingError: names the batch's pairs.
        """
        if torch.isfinite(loss):
            return
        ids = table.column("id")
        raise TrainingError(
            f"the loss is {float(loss)} at step {self.state.global_step + 1}, over the pairs "
            f"{', '.join(ids[row] for row in rows)}; the last checkpoint is intact. Lower "
            "optimiser.learning_rate, set optimiser.max_grad_norm, or take "
            "schedule.precision=fp32; or leave these pairs out"
        )


def train_to_end(trainer: RunTrainer, checkpoint: Path | None) -> None:
    """Train to the end, from a checkpoint where there is one.

    A run that has ended, at its last step or early, is left as it is: the trainer would take a
    step beyond its end.

    Raises:
        StoppedError: a signal stopped the training, after a checkpoint.
    """
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / _STATE_FILE))
        if trainer.has_ended(state):
            trainer.state = state
            if trainer.args.load_best_model_at_end:
                state.best_model_checkpoint = str(trainer.best_checkpoint())
                trainer._load_best_model()  # what the trainer does at its end
            return
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        trainer.stop.release()
    if trainer.stop.received and not trainer.has_ended(trainer.state):
        raise StoppedError(trainer.stop.received, trainer.state.global_step)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; half-written ones, left by a kill, are removed.

    The trainer writes ``trainer_state.json`` last, so a checkpoint that has it is whole.
    """
    whole = []
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        try:
            json.loads((path / _STATE_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            shutil.rmtree(path)
        else:
            whole.append(path)
    return max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)
