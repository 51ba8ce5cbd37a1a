"""The embedder's trainer: Hugging Face's, with our loss, parameter groups and checkpoints."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from unprompt.errors import RecipeError
from unprompt.files import atomic_open
from unprompt.models.embedder import Embedder
from unprompt.training.dataset import PairsDataset
from unprompt.training.recipe import Recipe

_STATE_FILE = "trainer_state.json"


class EmbedderTrainer(transformers.Trainer):
    """Minimises 1 - cosine between the predicted and the true prompt embedding."""

    def __init__(self, recipe: Recipe, model: Embedder, train: PairsDataset, val: PairsDataset):
        folder = Path(recipe.output)
        self._recipe = recipe
        super().__init__(
            model=model,
            args=training_arguments(
                recipe, steps_per_epoch=math.ceil(len(train) / _step_size(recipe))
            ),
            train_dataset=train,
            eval_dataset=val,
            compute_metrics=_mean_cosine,
            callbacks=[RunLog(folder / "metrics.jsonl")],
        )
        self.remove_callback(PrinterCallback)
        if not sys.stderr.isatty():
            self.remove_callback(ProgressCallback)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean over the batch of 1 - cosine; a float32 scalar."""
        if model.training and self._recipe.optimiser.frozen_statistics:
            self._embedder.backbone.apply(_freeze_statistics)
        embeddings = model(inputs["pixels"])
        cosines = (embeddings * inputs["labels"]).sum(dim=-1)
        loss = 1 - cosines.mean()
        return (loss, {"embeddings": embeddings}) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with one learning rate for the backbone and one for the head."""
        if self.optimizer is None:
            self.optimizer = torch.optim.AdamW(parameter_groups(self._embedder, self._recipe))
        return self.optimizer

    @property
    def _embedder(self) -> Embedder:
        embedder: Embedder = self.accelerator.unwrap_model(self.model)
        return embedder

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Checkpoints are model folders, so that each can be loaded and evaluated by itself."""
        self._embedder.save_pretrained(str(output_dir or self.args.output_dir))

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss, predicted embeddings and true embeddings of one batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach(), outputs["embeddings"], inputs["labels"]


class RunLog(TrainerCallback):
    """Appends every logged value to ``metrics.jsonl`` and prints evaluations to standard error."""

    def __init__(self, path: Path):
        self._path = path

    def on_train_begin(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Drop what a killed call logged after its last checkpoint: those steps come again."""
        if not self._path.exists():
            return
        with atomic_open(self._path) as file:
            for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
                # The kill may have cut off the last line.
                if line.endswith("\n") and json.loads(line)["step"] <= state.global_step:
                    file.write(line)

    def on_log(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """One JSON object a line: step, epoch and the values."""
        entry = {"step": state.global_step, **(logs or {})}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if logs and "eval_cosine" in logs:
            sys.stderr.write(
                f"step {state.global_step}/{state.max_steps}: "
                f"cosine on val {logs['eval_cosine']:.4f}\n"
            )
        if logs and "probe_cosine" in logs:
            sys.stderr.write(f"linear probe: cosine on val {logs['probe_cosine']:.4f}\n")


def _freeze_statistics(module: nn.Module) -> None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.eval()


def parameter_groups(model: Embedder, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameters by part (backbone, head) and by decay.

    Matrices and convolutions decay; biases, norms and other vectors do not.
    """
    settings = recipe.optimiser
    groups = []
    for name, part, rate in (
        ("backbone", model.backbone, settings.learning_rate),
        ("head", model.head, settings.head_learning_rate),
    ):
        parameters = [p for p in part.parameters() if p.requires_grad]
        for decays in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decays]
            if chosen:
                decay = settings.weight_decay if decays else 0.0
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay, "name": name})
    return groups


def go_on(trainer: transformers.Trainer, checkpoint: Path | None) -> None:
    """Train to the end, from a checkpoint where there is one, and load the best weights.

    A checkpoint of the last step is the end already; the trainer would take a step beyond it.
    """
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / _STATE_FILE))
    if state.global_step < trainer.args.max_steps:
        trainer.train(resume_from_checkpoint=str(checkpoint))
        return
    state.best_model_checkpoint = state.best_model_checkpoint or str(checkpoint)
    trainer.state = state
    trainer._load_best_model()  # what the trainer does at its end


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


def _step_size(recipe: Recipe) -> int:
    return recipe.schedule.batch_size * recipe.schedule.accumulation


def training_arguments(recipe: Recipe, steps_per_epoch: int) -> transformers.TrainingArguments:
    """The recipe as Hugging Face's trainer takes it."""
    schedule = recipe.schedule
    steps = schedule.max_steps
    if steps < 0:
        steps = math.ceil(schedule.epochs * steps_per_epoch)
    interval = max(1, math.ceil(steps / schedule.evaluations))
    warmup = recipe.optimiser.warmup_steps
    precision = schedule.precision
    if precision == "auto":
        precision = "bf16" if _has_fast_bf16() else "fp32"
    if precision == "fp16" and not torch.cuda.is_available():
        raise RecipeError("schedule.precision=fp16 needs a CUDA device; take bf16, fp32 or auto")
    return transformers.TrainingArguments(
        output_dir=str(Path(recipe.output) / "checkpoints"),
        per_device_train_batch_size=schedule.batch_size,
        per_device_eval_batch_size=schedule.batch_size,
        gradient_accumulation_steps=schedule.accumulation,
        max_steps=steps,
        warmup_steps=round(recipe.optimiser.warmup * steps) if warmup is None else warmup,
        lr_scheduler_type="cosine",
        learning_rate=recipe.optimiser.learning_rate,
        max_grad_norm=recipe.optimiser.max_grad_norm,
        use_cpu=not (torch.cuda.is_available() or torch.backends.mps.is_available()),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=schedule.keep,
        load_best_model_at_end=True,
        metric_for_best_model="eval_cosine",
        greater_is_better=True,
        logging_steps=min(interval, 10),
        dataloader_num_workers=recipe.data.workers,
        dataloader_persistent_workers=recipe.data.workers > 0,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=recipe.report_to,
        run_name=Path(recipe.output).name,
        seed=recipe.seed,
    )


def _has_fast_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _mean_cosine(prediction: EvalPrediction) -> dict[str, float]:
    cosines = np.sum(np.asarray(prediction.predictions) * np.asarray(prediction.label_ids), axis=1)
    return {"cosine": float(cosines.mean())}
