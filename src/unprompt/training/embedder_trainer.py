"""The trainer of embedders: loss, optimiser, average of the weights, checkpoints."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import EvalPrediction

from unprompt.errors import RecipeError
from unprompt.models.backbone_blocks import frozen_modules, merge
from unprompt.models.embedder import Embedder
from unprompt.models.model_folder import WEIGHTS_FILE
from unprompt.training.data.dataset import PairsDataset
from unprompt.training.data.sampling import PairSampler
from unprompt.training.embedding_loss import embedding_loss
from unprompt.training.parameter_groups import create_optimiser, parameter_groups
from unprompt.training.recipe import Recipe
from unprompt.training.trainer import RunTrainer

_LEARNER_FILE = "learner.safetensors"
_AVERAGE_FILE = "average.safetensors"


class EmbedderTrainer(RunTrainer):
    """Minimises the recipe's loss between predicted and true prompt embeddings."""

    # The best model is taken from its checkpoint, since its weights may be averages.
    ARGUMENTS: ClassVar[dict[str, Any]] = {"load_best_model_at_end": False}

    def __init__(self, recipe: Recipe, model: Embedder, train: PairsDataset, val: PairsDataset):
        self._sources = np.array([source or "unknown" for source in val.table.column("source")])
        self._table = train.table
        super().__init__(
            recipe,
            model,
            train,
            val,
            PairSampler(train.table, recipe.data, recipe.seed, recipe.schedule.batch_size),
            data_collator=torch.utils.data.default_collate,
            compute_metrics=self._metrics,
        )
        self._still = frozen_modules(model.backbone)
        if recipe.optimiser.frozen_statistics:
            self._still += [m for m in model.backbone.modules() if _keeps_statistics(m)]
        if self.is_fsdp_enabled:
            model.to(memory_format=torch.contiguous_format)  # it shards no other layout
        self._check_sharding()
        self._average: Any = None
        if recipe.optimiser.ema:
            from timm.utils import ModelEmaV3

            settings = recipe.optimiser
            self._average = ModelEmaV3(
                model, decay=settings.ema, use_warmup=settings.ema_warmup, warmup_power=2 / 3
            )

    def _check_sharding(self) -> None:
        settings = self._recipe
        if settings.schedule.fsdp and not self.is_fsdp_enabled:
            raise RecipeError(
                "schedule.fsdp=true: accelerate spreads a model over GPUs only; leave it out"
            )
        if self.is_fsdp_enabled and (settings.optimiser.ema or settings.model.lora_rank):
            raise RecipeError(
                "optimiser.ema and model.lora_rank need the weights in one piece, and "
                "schedule.fsdp spreads them; set both to 0, or schedule.fsdp=false"
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
            # No image to learn from, but in a distributed run every process must take the step.
            loss = outputs.float().sum() * 0
        if model.training:
            self.check_finite(loss, rows.tolist(), self._table)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The recipe's, with one rate for each layer of the backbone and one for the head."""
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
        """The model that is evaluated and saved: the average of the weights where there is one."""
        averaged: Embedder = self._embedder if self._average is None else self._average.module
        return averaged

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write a checkpoint: a model folder, which can be loaded and evaluated by itself.

        Where the weights that learn differ from those that are evaluated, both are saved.
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
        """Loss, predicted embeddings, and true embeddings with rows; row -1 could not be read."""
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
