"""Training a captioner: the model to start from, its data set, its trainer and its scores."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from unprompt.errors import RecipeError, TableError
from unprompt.evaluating.evaluation import Evaluation, evaluate
from unprompt.models.coca import CoCaConfig, CoCaForConditionalGeneration, CoCaProcessor
from unprompt.models.coca.freezing import TOWERS, freeze
from unprompt.models.coca.losses import IGNORED
from unprompt.models.model_names import OpenClipName
from unprompt.models.preprocessing import Preprocessing
from unprompt.pairs.table import PairsTable
from unprompt.predicting.coca_captioner import CoCaCaptioner
from unprompt.predicting.options import PredictOptions
from unprompt.training.data.dataset import PairsDataset
from unprompt.training.data.decode_once import cache_images
from unprompt.training.data.sampling import PairSampler
from unprompt.training.recipe import Captioner, Recipe
from unprompt.training.resources import first_process_first
from unprompt.training.run_folder import MODEL_FOLDER, save_scores
from unprompt.training.trainer import LossTrainer, last_checkpoint, train_to_end

# Linear layers that LoRA adapts: queries, keys and values of every attention.
_ADAPTED = ("qkv", "query", "key_value")


def fit(recipe: Recipe, table: PairsTable, folder: Path) -> dict[str, Evaluation]:
    """Fine-tune a captioner, or resume its run, and measure it.

    Args:
        recipe: with a ``captioner`` section.
        table: pairs with splits.
        folder: the run folder, claimed.

    Returns:
        Evaluations on ``val`` and, where there is one, ``test``: cosine between the embeddings of
        captions and prompts; none in other processes than the first. ``scores.json`` also has the
        share of exact matches and the loss.
    """
    settings = recipe.captioner
    if settings is None:
        raise RecipeError("captioner: the recipe has no such section")
    model, processor = build_captioner(settings)
    preprocessing = processor.preprocessing
    learner = adapted(model, settings.lora_rank) if settings.lora_rank else model
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    train = PairsDataset(table.of_split("train"), preprocessing, recipe.data)
    val = PairsDataset(table.of_split("val"), preprocessing)
    trainer = CaptionerTrainer(learner, recipe, train, val, Collator(processor, preprocessing))
    cache_images(recipe, trainer.args.max_steps, train.images, val.images)
    train_to_end(trainer, last_checkpoint(folder))
    with first_process_first() as is_first:
        if not is_first:
            return {}
        trained: Any = trainer.accelerator.unwrap_model(trainer.model)
        if settings.lora_rank:
            trained = trained.merge_and_unload()
        trained.save_pretrained(folder / MODEL_FOLDER)
        processor.save_pretrained(folder / MODEL_FOLDER)
        return _measure(recipe, settings, table, folder)


def build_captioner(settings: Captioner) -> tuple[CoCaForConditionalGeneration, CoCaProcessor]:
    """The captioner that a recipe starts from, with the blocks frozen that it names.

    Raises:
        RecipeError: the settings exclude each other, or name a tower or blocks that do not exist.
        ModelNotFoundError: there is no such model.
    """
    if not settings.model:
        try:
            model: Any = CoCaForConditionalGeneration(CoCaConfig(**settings.arguments))
        except (TypeError, ValueError) as error:
            raise RecipeError(f"captioner.arguments: {error}") from error
    elif settings.model.startswith("open_clip/"):
        name = OpenClipName.parse(settings.model)
        weights = settings.pretrained or name.weights
        model = CoCaForConditionalGeneration.from_open_clip(name.model, weights)
    else:
        model = CoCaForConditionalGeneration.from_pretrained(settings.model)
    model.config.update(
        {
            "caption_weight": settings.caption_weight,
            "contrastive_weight": settings.contrastive_weight,
        }
    )
    for tower, blocks in settings.freeze.items():
        if tower not in TOWERS:
            raise RecipeError(f"captioner.freeze.{tower}: must be one of {', '.join(TOWERS)}")
        try:
            freeze(model, tower, None if blocks < 0 else blocks)
        except ValueError as error:
            raise RecipeError(f"captioner.freeze.{tower}: {error}") from error
    if Path(settings.model).is_dir() and (Path(settings.model) / "processor_config.json").exists():
        return model, CoCaProcessor.from_pretrained(settings.model)
    return model, CoCaProcessor.from_config(model.config)


def adapted(model: CoCaForConditionalGeneration, rank: int) -> nn.Module:
    """The model with LoRA matrices of a rank, which alone are trained (Hu et al. 2021)."""
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(_ADAPTED))
    return peft.get_peft_model(model, config)


class Collator:
    """Pairs to a batch: normalised pixels, and prompts padded to the batch's longest."""

    def __init__(self, processor: CoCaProcessor, preprocessing: Preprocessing):
        self._processor = processor
        self._mean, self._std = (
            torch.tensor(values)[:, None, None]
            for values in (preprocessing.mean, preprocessing.std)
        )

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch of the pairs whose image can be read.

        Returns:
            Their ``pixel_values``, ``input_ids``, ``attention_mask``, ``labels`` and ``row``; and
            ``failure``, a line for each of the others.

        Raises:
            TableError: no image of the batch can be read.
        """
        failures = [pair["failure"] for pair in pairs if pair["failure"]]
        pairs = [pair for pair in pairs if not pair["failure"]]
        if not pairs:
            raise TableError(f"no image of a batch can be read; the first: {failures[0]}")
        text = self._processor(
            text=[pair["prompt"] for pair in pairs], padding=True, return_tensors="pt"
        )
        pixels = torch.stack([pair["pixels"] for pair in pairs]).float() / 255
        labels = text["input_ids"].masked_fill(text["attention_mask"] == 0, IGNORED)
        return {
            "pixel_values": (pixels - self._mean) / self._std,
            "input_ids": text["input_ids"],
            "attention_mask": text["attention_mask"],
            "labels": labels,
            "row": [pair["row"] for pair in pairs],
            "failure": failures,
        }


class CaptionerTrainer(LossTrainer):
    """Minimises CoCa's losses."""

    # AdamW as open_clip sets it for models with a vision transformer (open_clip_train.params).
    BETAS, EPSILON = (0.9, 0.98), 1e-6

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        train: PairsDataset,
        val: PairsDataset,
        collator: Collator,
    ):
        self._table = train.table
        sampler = PairSampler(train.table, recipe.data, recipe.seed)
        super().__init__(recipe, model, train, val, sampler, data_collator=collator)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """CoCa's own."""
        rows = inputs["row"]
        inputs = {key: value for key, value in inputs.items() if key not in ("row", "failure")}
        found: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if model.training:
            self.check_finite(found[0] if return_outputs else found, rows, self._table)
        return found


def token_loss(model: CoCaForConditionalGeneration, batches: Iterable[dict[str, Any]]) -> float:
    """Mean cross-entropy, in nats, over every token of every prompt."""
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for batch in batches:
            batch = {
                key: value.to(model.device)
                for key, value in batch.items()
                if isinstance(value, torch.Tensor)
            }
            count = int((batch["labels"][:, 1:] != IGNORED).sum())
            total += model(**batch).caption_loss.item() * count
            tokens += count
    return total / max(1, tokens)


def exact_matches(captions: list[str], prompts: list[str], processor: CoCaProcessor) -> float:
    """Share of captions that are the prompt, in lower case and with usual spaces."""
    spelled = processor.batch_decode(processor(text=prompts)["input_ids"], skip_special_tokens=True)
    pairs = zip(captions, spelled, strict=True)
    return sum(caption == prompt for caption, prompt in pairs) / max(1, len(prompts))


def _measure(
    recipe: Recipe, settings: Captioner, table: PairsTable, folder: Path
) -> dict[str, Evaluation]:
    options = PredictOptions(num_beams=settings.num_beams)
    scores, report = {}, {}
    for split in ("val", "test"):
        if split not in set(table.column("split")):
            continue
        writer = CoCaCaptioner.load(folder / MODEL_FOLDER, str(folder / MODEL_FOLDER), options)
        evaluation = scores[split] = evaluate(writer, table, split)
        dataset = PairsDataset(evaluation.pairs, writer.preprocessing)
        batches = DataLoader(
            dataset,
            recipe.schedule.batch_size,
            collate_fn=Collator(writer.processor, writer.preprocessing),
        )
        texts = [caption.text for caption in evaluation.captions or ()]
        matches = exact_matches(texts, evaluation.pairs.prompts, writer.processor)
        report[split] = evaluation.to_dict() | {
            "exact_match": round(matches, 4),
            "token_loss": round(token_loss(writer.model, batches), 4),
        }
    save_scores(folder, report)
    return scores
