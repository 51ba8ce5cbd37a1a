"""A recipe as the arguments of Hugging Face's trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import transformers

from unprompt.errors import RecipeError
from unprompt.training.recipe import Recipe
from unprompt.training.resources import PATIENCE_OF_PROCESSES, processes

_SHARDING = {
    "auto_wrap_policy": "SIZE_BASED_WRAP",
    # A block of a ViT-B has 7 million.
    "min_num_params": 5_000_000,
    # Checkpoints are model folders, so the weights are gathered.
    "state_dict_type": "FULL_STATE_DICT",
}


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
    if schedule.fsdp and processes() == 1:
        raise RecipeError(
            "schedule.fsdp spreads a model over processes, and there is one; run: torchrun "
            "--nproc-per-node N --no-python unprompt train RECIPE"
        )
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
        fsdp=True if schedule.fsdp else None,  # type: ignore[arg-type]
        fsdp_config=dict(_SHARDING) if schedule.fsdp else None,
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
