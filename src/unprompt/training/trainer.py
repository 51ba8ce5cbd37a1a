"""Hugging Face's trainer as the runs of embedders, captioners and decoders use it."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainerState
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from unprompt.errors import RecipeError, StoppedError, TrainingError
from unprompt.pairs.table import PairsTable
from unprompt.training.callbacks import Evaluations, RunLog, Seeds, StopOnSignal, stopped_improving
from unprompt.training.data.sampling import EpochSampler
from unprompt.training.parameter_groups import by_decay, create_optimiser
from unprompt.training.recipe import Recipe
from unprompt.training.resources import PROCESS_TIMEOUT, first_process_first, processes
from unprompt.training.run_folder import CHECKPOINTS_FOLDER, FAILURES_FILE, LOG_FILE

_STATE_FILE = "trainer_state.json"
_SHARDING = {
    "auto_wrap_policy": "SIZE_BASED_WRAP",
    # A block of a ViT-B has 7 million.
    "min_num_params": 5_000_000,
    # Checkpoints are model folders, so the weights are gathered.
    "state_dict_type": "FULL_STATE_DICT",
}


class RunTrainer(transformers.Trainer):
    """A trainer whose runs can be stopped at any moment and resumed without a difference.

    Batches may hold ``failure``, lines about items that could not be read.

    Args:
        recipe: the run.
        model: changed in place.
        train: items to train on.
        val: items to validate on.
        sampler: the items of each epoch.
        further: arguments of `transformers.Trainer`.

    Attributes:
        ARGUMENTS: training arguments that differ from those of `training_arguments`.
        stop: whether a signal ended the training.
    """

    ARGUMENTS: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        train: Dataset[Any],
        val: Dataset[Any],
        sampler: EpochSampler,
        **further: Any,
    ):
        self._recipe = recipe
        self._sampler = sampler
        self._failures: set[str] = set()
        self.stop = StopOnSignal()
        log = RunLog(Path(recipe.output) / LOG_FILE)
        steps = steps_per_epoch(recipe, len(sampler))
        seeds = Seeds(recipe.seed, sampler, steps)
        super().__init__(
            model=model,
            args=training_arguments(recipe, steps, **self.ARGUMENTS),
            train_dataset=train,
            eval_dataset=val,
            callbacks=[log, Evaluations(recipe.schedule), seeds, self.stop],
            **further,
        )
        self.remove_callback(PrinterCallback)
        if not sys.stderr.isatty():
            self.remove_callback(ProgressCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        return self._sampler

    def _get_dataloader(self, *arguments: Any, **further: Any) -> DataLoader[Any]:
        """The trainer's, but without drawing the seeds of its processes from torch's generator."""
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
        """Write the checkpoint through to the disk; no state of generators is needed (`Seeds`).

        The trainer calls this when all other files of the checkpoint are written, before
        ``trainer_state.json``, which marks the checkpoint as whole.
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
        """The checkpoint of the best evaluation.

        Raises:
            TrainingError: no evaluation gave a score.
        """
        step = self.state.best_global_step
        if step is None:
            raise TrainingError("no evaluation on the validation split gave a number as its score")
        return Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{step}"

    def check_finite(self, loss: torch.Tensor, rows: list[int], table: PairsTable) -> None:
        """Stop before a loss that is not finite reaches the weights.

        Raises:
            TrainingError: names the batch's pairs.
        """
        if torch.isfinite(loss):
            return
        ids = table.column("id")
        raise TrainingError(
            f"the loss is {loss.item()} at step {self.state.global_step + 1}, over the pairs "
            f"{', '.join(ids[row] for row in rows)}; the last checkpoint is intact. Lower "
            "optimiser.learning_rate, set optimiser.max_grad_norm, or take "
            "schedule.precision=fp32; or leave these pairs out"
        )


class LossTrainer(RunTrainer):
    """Keeps the checkpoint with the lowest validation loss; all weights have one learning rate.

    Attributes:
        BETAS: of optimisers that have them, where the recipe states none.
        EPSILON: of AdamW; the optimiser's own by default.
    """

    ARGUMENTS: ClassVar[dict[str, Any]] = {
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "prediction_loss_only": True,
    }
    BETAS: ClassVar[tuple[float, float] | None] = None
    EPSILON: ClassVar[float | None] = None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The recipe's; matrices decay, while biases, norms and other vectors do not."""
        if self.optimizer is None:
            network: Any = self.model
            settings = self._recipe.optimiser
            rate, decay = settings.learning_rate, settings.weight_decay
            groups = by_decay(network.parameters(), rate, decay, "all")
            epsilon = self.EPSILON if settings.name == "adamw" else None
            self.optimizer = create_optimiser(groups, settings, self.BETAS, epsilon)
        return self.optimizer


def steps_per_epoch(recipe: Recipe, count: int) -> int:
    """Optimiser steps in an epoch of ``count`` pairs."""
    schedule = recipe.schedule
    batches = math.ceil(math.ceil(count / schedule.batch_size) / processes())
    return math.ceil(batches / schedule.accumulation)


def training_arguments(
    recipe: Recipe, steps_per_epoch: int, **changes: Any
) -> transformers.TrainingArguments:
    """The recipe as arguments of Hugging Face's trainer, with changes."""
    schedule, optimiser = recipe.schedule, recipe.optimiser
    steps = schedule.max_steps
    if steps < 0:
        steps = math.ceil(schedule.epochs * steps_per_epoch)
    interval = schedule.evaluate_every or math.ceil(steps / schedule.evaluations)
    warmup = optimiser.warmup_steps
    precision = chosen_precision(recipe)
    if precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError("schedule.precision=fp16 needs a CUDA device; take bf16, fp32 or auto")
    if schedule.fsdp and processes() == 1:
        raise RecipeError(
            "schedule.fsdp spreads a model over processes, and there is one; run: torchrun "
            "--nproc-per-node N --no-python unprompt train RECIPE"
        )
    arguments: dict[str, Any] = {
        "output_dir": str(Path(recipe.output) / CHECKPOINTS_FOLDER),
        "per_device_train_batch_size": schedule.batch_size,
        "per_device_eval_batch_size": schedule.batch_size,
        "gradient_accumulation_steps": schedule.accumulation,
        "max_steps": steps,
        "warmup_steps": round(optimiser.warmup * steps) if warmup is None else warmup,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": optimiser.final},
        "learning_rate": optimiser.learning_rate,
        "max_grad_norm": optimiser.max_grad_norm,
        "use_cpu": not (torch.cuda.is_available() or torch.backends.mps.is_available()),
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "torch_compile": schedule.compile,
        "fsdp": True if schedule.fsdp else None,
        "fsdp_config": dict(_SHARDING) if schedule.fsdp else None,
        "eval_strategy": "steps",
        "eval_steps": interval,
        "save_strategy": "steps",
        "save_steps": interval,
        "save_total_limit": schedule.keep,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_cosine",
        "greater_is_better": True,
        "logging_steps": min(interval, 10),
        # A loss that is not finite is an error here; the trainer would leave it out of the mean.
        "logging_nan_inf_filter": False,
        "dataloader_num_workers": recipe.data.workers,
        "dataloader_persistent_workers": recipe.data.workers > 0,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "report_to": recipe.report_to,
        "run_name": Path(recipe.output).name,
        "seed": recipe.seed,
        "ddp_timeout": PROCESS_TIMEOUT,
    }
    return transformers.TrainingArguments(**arguments | changes)


def chosen_precision(recipe: Recipe) -> str:
    """``fp32``, ``bf16`` or ``fp16``."""
    if recipe.schedule.precision != "auto":
        return recipe.schedule.precision
    return "bf16" if _has_fast_bf16() else "fp32"


def _has_fast_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def train_to_end(trainer: RunTrainer, checkpoint: Path | None) -> None:
    """Train to the last step, from a checkpoint where there is one.

    A run that has ended, at its last step or early, stays as it is: the trainer would take a step
    beyond its end.

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
    """The newest whole checkpoint of a run folder; half-written ones are removed.

    The trainer writes ``trainer_state.json`` last, so a checkpoint that has it is whole.
    """
    whole = []
    with first_process_first():
        for path in (folder / CHECKPOINTS_FOLDER).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            try:
                json.loads((path / _STATE_FILE).read_text(encoding="utf-8"))
            except (FileNotFoundError, ValueError):
                shutil.rmtree(path)
            else:
                whole.append(path)
    return max(whole, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)
