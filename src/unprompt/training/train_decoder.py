"""Training a decoder on text alone: from a prompt's blurred embedding to the prompt.

No image is needed, since a decoder sees images only as embeddings (training on the text side of a
shared space: DeCap, Li et al. 2023, arXiv 2303.03032; with noise: CapDec, Nukrai et al. 2022, arXiv
2211.00575). The error of an embedder is not Gaussian noise alone: an unsure embedder stays near the
mean. So an embedding is shrunk towards the mean by a random share, and noise with the covariance of
the embeddings is added; see `Blur`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from unprompt.encoding import encode
from unprompt.errors import RecipeError
from unprompt.evaluating.evaluation import Evaluation
from unprompt.evaluating.metrics import cosines, mean_with_interval
from unprompt.models.bank.bank import Bank
from unprompt.models.decoder.network import IGNORED, DecoderConfig, DecoderModel
from unprompt.models.decoder.tokenizer import (
    START,
    STOP,
    load_tokenizer,
    save_tokenizer,
    texts_of,
    train_tokenizer,
)
from unprompt.pairs.table import PairsTable
from unprompt.training.data.sampling import LengthSampler
from unprompt.training.recipe import Decoder, Recipe
from unprompt.training.resources import first_process_first
from unprompt.training.run_folder import MODEL_FOLDER, save_scores
from unprompt.training.trainer import LossTrainer, last_checkpoint, train_to_end

_MEASURED = 400
"""Held-out texts that are written and encoded again at the end of a run."""


def fit(recipe: Recipe, table: PairsTable, folder: Path) -> dict[str, Evaluation]:
    """Train a decoder, or resume its run, and measure it.

    Args:
        recipe: with a ``decoder`` section.
        table: texts with embeddings, of the splits ``train`` and ``val``; see `prepare_texts`.
        folder: the run folder, claimed; also gets ``tokenizer.json``.

    Returns:
        No evaluations, as no image is predicted; ``scores.json`` holds the result of `measure`.

    Raises:
        RecipeError: the settings exclude each other.
    """
    settings = recipe.decoder
    if settings is None:
        raise RecipeError("decoder: the recipe has no such section")
    known, unseen = table.of_split("train"), table.of_split("val")
    blur = Blur.of(known.embeddings, settings)
    with first_process_first():
        if not (folder / "tokenizer.json").exists():
            trained = train_tokenizer(known.prompts, settings.vocab_size, settings.lowercase)
            save_tokenizer(trained, folder)
        tokenizer = load_tokenizer(folder)
    model = build_decoder(recipe, tokenizer, known.embeddings.shape[1])
    seeded = torch.Generator().manual_seed(recipe.seed)
    blurred = blur(torch.from_numpy(unseen.embeddings), seeded).numpy()
    trainer = DecoderTrainer(
        model,
        recipe,
        TextDataset(known.prompts, known.embeddings, tokenizer, model),
        TextDataset(unseen.prompts, blurred, tokenizer, model),
        Collator(model.config.prefix_length, blur),
    )
    train_to_end(trainer, last_checkpoint(folder))
    with first_process_first() as is_first:
        if is_first:
            model = trainer.accelerator.unwrap_model(trainer.model)
            model.save_pretrained(folder / MODEL_FOLDER)
            save_tokenizer(tokenizer, folder / MODEL_FOLDER)
            drawn = np.random.default_rng(recipe.seed).permutation(len(unseen))[:_MEASURED]
            true = unseen.embeddings[drawn]
            inputs = {"exact": true, "blurred": blurred[drawn]}
            bank = Bank.build(known.prompts, known.embeddings, "")
            encoder, beams = recipe.model.encoder, settings.num_beams
            save_scores(folder, measure(model, tokenizer, bank, inputs, true, encoder, beams))
    return {}


def build_decoder(recipe: Recipe, tokenizer: Tokenizer, dim: int) -> DecoderModel:
    """The decoder that a recipe starts from.

    Raises:
        RecipeError: the settings exclude each other.
    """
    settings = recipe.decoder or Decoder()
    size = tokenizer.get_vocab_size()
    try:
        config = DecoderConfig(
            vocab_size=size,
            embedding_dim=dim,
            encoder=recipe.model.encoder,
            hidden_size=settings.hidden_size,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            prefix_length=settings.prefix_length,
            context_length=settings.context_length,
            dropout=settings.dropout,
        )
    except ValueError as error:
        raise RecipeError(f"decoder: {error}") from error
    model = DecoderModel(config)
    if settings.start_from_encoder:
        words = [tokenizer.decode([token]).strip() for token in range(size)]
        vectors = encode(words, recipe.model.encoder, precision="fp32")
        model.start_from(torch.from_numpy(vectors))
    return model


class Blur:
    """A random error like an embedder's: shrinkage towards the mean by a random share, and noise.

    Args:
        mean: of the embeddings, (dim,).
        factor: (dim, dim); multiplied by a standard normal vector it gives noise with the
            covariance of the embeddings and an expected squared norm of 1.
        settings: the size of the error.
    """

    def __init__(self, mean: torch.Tensor, factor: torch.Tensor, settings: Decoder):
        self.mean, self.factor, self.settings = mean, factor, settings

    @classmethod
    def of(cls, embeddings: np.ndarray, settings: Decoder) -> Blur:
        """A blur with the mean and covariance of these embeddings, (n, dim)."""
        mean = embeddings.mean(axis=0, dtype=np.float64)
        covariance = np.cov(embeddings.astype(np.float64), rowvar=False)
        values, axes = np.linalg.eigh(covariance)
        factor = axes * np.sqrt(np.maximum(values, 0) / values.sum())
        return cls(torch.from_numpy(mean).float(), torch.from_numpy(factor).float(), settings)

    def __call__(
        self, embeddings: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Embeddings of norm 1, (n, dim), to blurred ones of norm 1."""
        rows = len(embeddings)
        shares = torch.rand(3, rows, 1, generator=generator)
        blurred = shares[0] >= self.settings.exact
        shrinkage = self.settings.shrinkage * shares[1] * blurred
        size = self.settings.noise * shares[2] * blurred
        noise = torch.randn(embeddings.shape, generator=generator) @ self.factor.T
        drawn = self.mean + (1 - shrinkage) * (embeddings - self.mean) + size * noise
        return torch.nn.functional.normalize(drawn, dim=-1)


class TextDataset(Dataset[dict[str, Any]]):
    """Token ids of texts, prefix and end included, and their embeddings."""

    def __init__(
        self, texts: list[str], embeddings: np.ndarray, tokenizer: Tokenizer, model: DecoderModel
    ):
        config = model.config
        prefix = [START] * config.prefix_length
        # A text that is cut off has no end token, so that the model does not learn to stop there.
        self._ids = [
            prefix + [*encoded.ids, STOP][: config.context_length]
            for encoded in tokenizer.encode_batch_fast(texts)
        ]
        self._embeddings = torch.from_numpy(embeddings)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self._ids]

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self._ids[row], "embedding": self._embeddings[row]}


class Collator:
    """Texts to a batch, padded to its longest; `DecoderTrainer` blurs the training batches."""

    def __init__(self, prefix_length: int, blur: Blur):
        self._prefix = prefix_length
        self.blur = blur

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``input_ids``, ``labels`` and ``embeddings``."""
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), longest), STOP)
        labels = torch.full((len(rows), longest), IGNORED)
        for index, row in enumerate(rows):
            known = torch.tensor(row["input_ids"])
            ids[index, : len(known)] = known
            labels[index, self._prefix : len(known)] = known[self._prefix :]
        embeddings = torch.stack([row["embedding"] for row in rows])
        return {"input_ids": ids, "labels": labels, "embeddings": embeddings}


class DecoderTrainer(LossTrainer):
    """Minimises cross-entropy over blurred embeddings."""

    def __init__(
        self,
        model: DecoderModel,
        recipe: Recipe,
        train: TextDataset,
        val: TextDataset,
        collator: Collator,
    ):
        self._blur = collator.blur
        sampler = LengthSampler(train.lengths, recipe.schedule.batch_size, recipe.seed)
        super().__init__(recipe, model, train, val, sampler, data_collator=collator)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy of the batch's tokens; held-out embeddings are blurred already."""
        if model.training:
            device = inputs["embeddings"].device
            inputs = inputs | {"embeddings": self._blur(inputs["embeddings"].cpu()).to(device)}
        loss = model(**inputs).loss
        return (loss, {}) if return_outputs else loss


def measure(
    model: DecoderModel,
    tokenizer: Tokenizer,
    bank: Bank,
    inputs: dict[str, np.ndarray],
    true: np.ndarray,
    encoder: str,
    num_beams: int,
) -> dict[str, Any]:
    """Write texts, encode them again, and compare with the nearest prompt of a bank.

    Args:
        model: in any mode; left in evaluation mode.
        tokenizer: the model's.
        bank: of the texts that it was trained on.
        inputs: sets of embeddings by name, each (n, dim).
        true: embeddings of the true prompts, (n, dim).
        encoder: the target encoder.
        num_beams: of the search.

    Returns:
        For each set, mean cosine and interval of the decoder's and of the bank's texts: to the
        given embedding, and to that of the true prompt.
    """
    model.eval()
    scores: dict[str, Any] = {}
    for name, embeddings in inputs.items():
        batches = torch.from_numpy(embeddings).split(64)
        texts = [
            text
            for batch in batches
            for text in texts_of(
                tokenizer, model.write(batch.to(model.device), num_beams=num_beams).tolist()
            )
        ]
        written = encode(texts, encoder, precision="fp32")
        rows, _ = bank.nearest(embeddings)
        found = bank.rows[rows[:, 0]].astype(np.float32)
        scores[name] = {
            answerer: {
                "to_input": str(mean_with_interval(cosines(answers, embeddings))),
                "to_true": str(mean_with_interval(cosines(answers, true))),
            }
            for answerer, answers in (("decoder", written), ("bank", found))
        }
    return scores
