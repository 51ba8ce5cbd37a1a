"""Hugging Face's trainer as the runs of embedders and captioners use it."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import EvalPrediction, TrainerState
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from unprompt.errors import RecipeError, StoppedError, TrainingError
from unprompt.models.embedder import WEIGHTS_FILE, Embedder
from unprompt.models.layers import frozen_modules, merge
from unprompt.training.callbacks import LOG_FILE, Looks, RunLog, Seeds, StopOnSignal, gains_no_more
from unprompt.training.dataset import PairsDataset
from unprompt.training.losses import embedding_loss
from unprompt.training.parameters import create_optimiser, parameter_groups
from unprompt.training.recipe import Recipe
from unprompt.training.sampling import Draws

FAILURES_FILE = "unreadable.txt"
_STATE_FILE = "trainer_state.json"
_LEARNER_FILE = "learner.safetensors"
_AVERAGE_FILE = "average.safetensors"
PATIENCE_OF_PROCESSES = 24 * 3600
"""Seconds that processes wait for the first, which prepares the table and fits the head."""


class RunTrainer(transformers.Trainer):
    """A trainer whose runs can be stopped at any instant and go on as if they had not been.

    Batches may hold ``failure``, lines about items that could not be read. Without ``draws`` the
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
        draws: Draws | None,
        arguments: transformers.TrainingArguments,
        **further: Any,
    ):
        self._recipe = recipe
        self._draws = draws
        self._failures: set[str] = set()
        self.stop = StopOnSignal()
        folder = Path(recipe.output)
        shown: Any = train if draws is None else draws
        seeds = Seeds(recipe.seed, draws, steps_per_epoch(recipe, len(shown)))
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=val,
            callbacks=[RunLog(folder / LOG_FILE), Looks(recipe.schedule), seeds, self.stop],
            **further,
        )
        self.remove_callback(PrinterCallback)
        if not sys.stderr.isatty():
            self.remove_callback(ProgressCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        return self._draws or super()._get_train_sampler(train_dataset)

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
        return ended or gains_no_more(state, patience, self.args.eval_steps)

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


class EmbedderTrainer(RunTrainer):
    """Minimises the recipe's loss between predicted and true prompt embeddings."""

    def __init__(self, recipe: Recipe, model: Embedder, train: PairsDataset, val: PairsDataset):
        self._sources = np.array([source or "unknown" for source in val.table.column("source")])
        self._table = train.table
        draws = Draws(train.table, recipe.data, recipe.seed, recipe.schedule.batch_size)
        arguments = training_arguments(recipe, steps_per_epoch(recipe, len(draws)))
        # The best model is taken from its checkpoint, since its weights may be averages.
        arguments.load_best_model_at_end = False
        super().__init__(
            recipe,
            model,
            train,
            val,
            draws,
            arguments,
            data_collator=torch.utils.data.default_collate,
            compute_metrics=self._metrics,
        )
        self._still = frozen_modules(model.backbone)
        if recipe.optimiser.frozen_statistics:
            self._still += [m for m in model.backbone.modules() if _keeps_statistics(m)]
        self._average: Any = None
        if self.is_fsdp_enabled and (recipe.optimiser.ema or recipe.model.lora_rank):
            raise RecipeError(
                "optimiser.ema and model.lora_rank need the weights in one piece, and FSDP "
                "spreads them; set both to 0, or train with torchrun (DDP)"
            )
        if recipe.optimiser.ema:
            from timm.utils import ModelEmaV3

            settings = recipe.optimiser
            self._average = ModelEmaV3(
                model, decay=settings.ema, use_warmup=settings.ema_warmup, warmup_power=2 / 3
            )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The recipe's loss over the images that could be read; a float32 scalar."""
        if model.training:
            for module in self._still:
                module.eval()
        pixels, labels, rows = inputs["pixels"], inputs["labels"], inputs["row"]
        usable = [number for number, failure in enumerate(inputs["failure"]) if not failure]
        if model.training and 0 < len(usable) < len(pixels):
            pixels, labels, rows = pixels[usable], labels[usable], rows[usable]
        outputs = model(pixels, normalise=False)
        if usable or not model.training:
            loss = embedding_loss(outputs, labels, self._recipe.loss)
        else:
            # Nothing to learn from; but in a distributed run every process must take the step.
            loss = outputs.float().sum() * 0
        if model.training:
            self.check_finite(loss, rows.tolist(), self._table)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The recipe's, with a rate for each layer of the backbone and one for the head."""
        if self.optimizer is None:
            settings = self._recipe.optimiser
            self.optimizer = create_optimiser(parameter_groups(self._embedder, settings), settings)
            if self._average is not None:
                self.optimizer.register_step_post_hook(self._follow)
        return self.optimizer

    def _follow(self, *_: Any) -> None:
        self._average.update(self._embedder, self.state.global_step + 1)

    @property
    def _embedder(self) -> Embedder:
        embedder: Embedder = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return embedder

    @property
    def evaluated(self) -> Embedder:
        """The model that is evaluated and saved: the average where there is one."""
        averaged: Embedder = self._embedder if self._average is None else self._average.module
        return averaged

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A checkpoint is a model folder, so that each can be loaded and evaluated by itself.

        Where the model that learns is not the one that is evaluated, it is saved beside it.
        """
        folder = Path(str(output_dir or self.args.output_dir))
        if not self.args.should_save:
            return
        adapted = self._recipe.model.lora_rank > 0
        evaluated = self.evaluated
        if adapted:
            evaluated = copy.deepcopy(evaluated)
            merge(evaluated.backbone)
        evaluated.save_pretrained(folder, weights=state_dict)
        if adapted or self._average is not None:
            save_file(_contiguous(self._embedder), folder / _LEARNER_FILE)
        if adapted and self._average is not None:
            save_file(_contiguous(self._average.module), folder / _AVERAGE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        folder = Path(resume_from_checkpoint)
        learner = folder / _LEARNER_FILE
        weights = load_file(learner if learner.exists() else folder / WEIGHTS_FILE)
        self._embedder.load_state_dict(weights)
        if self._average is not None:
            average = folder / _AVERAGE_FILE
            weights = load_file(average if average.exists() else folder / WEIGHTS_FILE)
            self._average.module.load_state_dict(weights)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Loss, predicted embeddings, and true embeddings with rows; row -1 was not readable."""
        inputs = self._prepare_inputs(inputs)
        if self._average is not None:
            model = self._average.module
        with torch.no_grad(), self.accelerator.autocast():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        failed = torch.tensor([bool(f) for f in inputs["failure"]], device=inputs["row"].device)
        rows = inputs["row"].masked_fill(failed, -1)
        embeddings = nn.functional.normalize(outputs.float(), dim=-1)
        return loss.detach(), embeddings, (inputs["labels"], rows)

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Mean cosine over the validation split, and over each source of it."""
        truth: Any = prediction.label_ids
        labels, rows = truth
        cosines = np.sum(np.asarray(prediction.predictions) * np.asarray(labels), axis=1)
        cosines, sources = cosines[rows >= 0], self._sources[rows[rows >= 0]]
        scores = {"cosine": float(cosines.mean())}
        for source in np.unique(sources):
            scores[f"cosine/{source}"] = float(cosines[sources == source].mean())
        return scores


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _contiguous(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in model.state_dict().items()}


def go_on(trainer: RunTrainer, checkpoint: Path | None) -> None:
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


def processes() -> int:
    """Processes of the run, as torchrun states them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def steps_per_epoch(recipe: Recipe, count: int) -> int:
    """Optimiser steps that an epoch of ``count`` pairs takes."""
    schedule = recipe.schedule
    batches = math.ceil(math.ceil(count / schedule.batch_size) / processes())
    return math.ceil(batches / schedule.accumulation)


def training_arguments(recipe: Recipe, steps_per_epoch: int) -> transformers.TrainingArguments:
    """The recipe as Hugging Face's trainer takes it."""
    schedule, optimiser = recipe.schedule, recipe.optimiser
    steps = schedule.max_steps
    if steps < 0:
        steps = math.ceil(schedule.epochs * steps_per_epoch)
    interval = schedule.evaluate_every or math.ceil(steps / schedule.evaluations)
    warmup = optimiser.warmup_steps
    precision = chosen_precision(recipe)
    if precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError("schedule.precision=fp16 needs a CUDA device; take bf16, fp32 or auto")
    return transformers.TrainingArguments(
        output_dir=str(Path(recipe.output) / "checkpoints"),
        per_device_train_batch_size=schedule.batch_size,
        per_device_eval_batch_size=schedule.batch_size,
        gradient_accumulation_steps=schedule.accumulation,
        max_steps=steps,
        warmup_steps=round(optimiser.warmup * steps) if warmup is None else warmup,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": optimiser.final},
        learning_rate=optimiser.learning_rate,
        max_grad_norm=optimiser.max_grad_norm,
        use_cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        torch_compile=schedule.compile,
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=schedule.keep,
        load_best_model_at_end=True,
        metric_for_best_model="eval_cosine",
        greater_is_better=True,
        logging_steps=min(interval, 10),
        # A loss that is no number is an error here, not something to leave out of a mean.
        logging_nan_inf_filter=False,
        dataloader_num_workers=recipe.data.workers,
        dataloader_persistent_workers=recipe.data.workers > 0,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=recipe.report_to,
        run_name=Path(recipe.output).name,
        seed=recipe.seed,
        ddp_timeout=PATIENCE_OF_PROCESSES,
    )


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
