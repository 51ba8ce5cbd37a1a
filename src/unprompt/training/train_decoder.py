"""Training a decoder on text alone: prompt → embedding → an embedder's error → the prompt again.

No image is needed, since the decoder meets images only as embeddings (training on the text side of
a shared space: DeCap, Li et al. 2023, arXiv 2303.03032; with noise: CapDec, Nukrai et al. 2022,
arXiv 2211.00575). Embedders do not err as Gaussian noise does: what they are unsure of they leave
near the mean. So an embedding is drawn towards the mean by a random share, and noise with the
covariance of the embeddings is added; see `Blur`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from torch.utils.data import Dataset, Sampler

from unprompt.encoding import encode
from unprompt.errors import RecipeError, TableError
from unprompt.evaluating.metrics import cosines, mean_with_interval
from unprompt.files import atomic_open, atomic_path
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
from unprompt.pairs.prompt_file import prompts_of
from unprompt.training.parameter_groups import by_decay, create_optimiser
from unprompt.training.recipe import Decoder, Recipe
from unprompt.training.trainer import RunTrainer, last_checkpoint, train_to_end
from unprompt.training.trainer_arguments import steps_per_epoch, training_arguments

TEXTS_FILE = "texts.parquet"
_MEASURED = 400
"""Held-out texts that are written and encoded again when a run has ended."""


def train_decoder(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Run a decoder's recipe, or go on with it where an earlier call was stopped.

    Args:
        recipe: with a ``decoder`` section; ``data.table`` is a text file, one prompt a line, or a
            pairs table, whose prompts are taken; ``data.val`` is the share held out.
        folder: the run folder, claimed; gets ``texts.parquet``, ``checkpoints/``, ``model/`` and
            ``scores.json``.

    Returns:
        What ``scores.json`` holds, see `measure`.

    Raises:
        RecipeError: the settings exclude each other.
        TableError: the texts cannot be read, or are too few.
    """
    settings = recipe.decoder
    if settings is None:
        raise RecipeError("decoder: the recipe has no such section")
    texts, embeddings, held = _texts(recipe, folder)
    blur = Blur.of(embeddings[~held], settings)
    if (folder / "tokenizer.json").exists():
        tokenizer = load_tokenizer(folder)
    else:
        known = [text for text, out in zip(texts, held, strict=True) if not out]
        tokenizer = train_tokenizer(known, settings.vocab_size, settings.lowercase)
        save_tokenizer(tokenizer, folder)
    train_rows, val_rows = np.flatnonzero(~held), np.flatnonzero(held)
    model = build(recipe, tokenizer, embeddings.shape[1])
    seeded = torch.Generator().manual_seed(recipe.seed)
    val_embeddings = blur(torch.from_numpy(embeddings[val_rows]), seeded)
    collator = Collator(model.config.prefix_length, blur)
    trainer = DecoderTrainer(
        model,
        recipe,
        TextDataset([texts[row] for row in train_rows], embeddings[train_rows], tokenizer, model),
        TextDataset([texts[row] for row in val_rows], val_embeddings.numpy(), tokenizer, model),
        collator,
    )
    train_to_end(trainer, last_checkpoint(folder / "checkpoints"))
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    trained.save_pretrained(folder / "model")
    save_tokenizer(tokenizer, folder / "model")
    drawn = np.random.default_rng(recipe.seed).permutation(len(val_rows))[:_MEASURED]
    bank = Bank.build([texts[row] for row in train_rows], embeddings[train_rows], "")
    scores = measure(
        trained,
        tokenizer,
        bank,
        {
            "exact": embeddings[val_rows[drawn]],
            "blurred": val_embeddings[drawn].numpy(),
        },
        embeddings[val_rows[drawn]],
        recipe.model.encoder,
        settings.num_beams,
    )
    with atomic_open(folder / "scores.json") as file:
        json.dump(scores, file, indent=2)
        file.write("\n")
    return scores


def build(recipe: Recipe, tokenizer: Tokenizer, dim: int) -> DecoderModel:
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
    """An embedder's error, drawn: towards the mean by a random share, with random noise.

    Args:
        mean: of the embeddings, (dim,).
        factor: (dim, dim); times a standard normal vector it gives noise with the covariance of the
            embeddings and an expected squared norm of 1.
        settings: how much.
    """

    def __init__(self, mean: torch.Tensor, factor: torch.Tensor, settings: Decoder):
        self.mean, self.factor, self.settings = mean, factor, settings

    @classmethod
    def of(cls, embeddings: np.ndarray, settings: Decoder) -> Blur:
        """With mean and covariance of these embeddings, (n, dim)."""
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
        # A text that is cut off has no end, so that the model does not learn to stop there.
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


class LengthBatches(Sampler[int]):
    """Rows in an order in which each batch has texts of about one length, so that little is padded.

    The trainer's own sampler of this kind goes through every few dozen batches from the longest to
    the shortest; these are shuffled, because short texts and long ones differ in more than length.

    Args:
        lengths: of each row.
        batch_size: rows of a step.
        seed: of the order, with the epoch.
    """

    _BATCHES = 50
    """Batches that are sorted together."""

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self._lengths = np.array(lengths)
        self._size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """The order is that of this epoch, also where a run goes on in its middle."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self._seed, self._epoch])
        rows = random.permutation(len(self._lengths))
        batches = []
        for start in range(0, len(rows), self._BATCHES * self._size):
            chunk = rows[start : start + self._BATCHES * self._size]
            chunk = chunk[np.argsort(self._lengths[chunk], kind="stable")]
            batches += [chunk[at : at + self._size] for at in range(0, len(chunk), self._size)]
        # A batch that is not full stays last: in the middle it would shift all that follow.
        full = [batch for batch in batches if len(batch) == self._size]
        rest = [batch for batch in batches if len(batch) < self._size]
        for index in random.permutation(len(full)):
            yield from full[index].tolist()
        for batch in rest:
            yield from batch.tolist()


class DecoderTrainer(RunTrainer):
    """Minimises cross-entropy over blurred embeddings; keeps the checkpoint of the lowest loss."""

    def __init__(
        self,
        model: DecoderModel,
        recipe: Recipe,
        train: TextDataset,
        val: TextDataset,
        collator: Collator,
    ):
        arguments = training_arguments(recipe, steps_per_epoch(recipe, len(train)))
        arguments.metric_for_best_model = "eval_loss"
        arguments.greater_is_better = False
        arguments.prediction_loss_only = True
        self._rates = recipe.optimiser
        self._blur = collator.blur
        order: Any = LengthBatches(train.lengths, recipe.schedule.batch_size, recipe.seed)
        super().__init__(recipe, model, train, val, order, arguments, data_collator=collator)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """The recipe's; matrices decay, while biases, norms and other vectors do not."""
        if self.optimizer is None:
            network: Any = self.model
            rate, decay = self._rates.learning_rate, self._rates.weight_decay
            groups = by_decay(network.parameters(), rate, decay, "decoder")
            self.optimizer = create_optimiser(groups, self._rates)
        return self.optimizer

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
    asked: dict[str, np.ndarray],
    true: np.ndarray,
    encoder: str,
    num_beams: int,
) -> dict[str, Any]:
    """Write texts, encode them again, and compare with the nearest prompt of a bank.

    Args:
        model: in any mode; left in evaluation mode.
        tokenizer: the model's.
        bank: of the texts that it learned from.
        asked: kinds of embeddings, each (n, dim).
        true: embeddings of the true prompts, (n, dim).
        encoder: the target encoder.
        num_beams: of the search.

    Returns:
        For each kind, mean cosine and interval of the decoder's and of the bank's texts: to the
        embedding that was asked for, and to that of the true prompt.
    """
    model.eval()
    scores: dict[str, Any] = {}
    for kind, embeddings in asked.items():
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
        scores[kind] = {
            name: {
                "to_asked": str(mean_with_interval(cosines(answers, embeddings))),
                "to_true": str(mean_with_interval(cosines(answers, true))),
            }
            for name, answers in (("decoder", written), ("bank", found))
        }
    return scores


def _texts(recipe: Recipe, folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts, embeddings (float32) and which are held out; kept in the run folder."""
    path = folder / TEXTS_FILE
    if not path.exists():
        source = Path(recipe.data.table)
        texts = list(dict.fromkeys(" ".join(text.split()) for text in prompts_of(source)))
        count = max(1, round(recipe.data.val * len(texts)))
        if len(texts) - count < 2:
            raise TableError(f"{source}: {len(texts)} distinct texts are too few to train on")
        embeddings = encode(texts, recipe.model.encoder).astype(np.float16)
        held = np.zeros(len(texts), dtype=bool)
        held[np.random.default_rng(recipe.seed).permutation(len(texts))[:count]] = True
        columns = {
            "prompt": texts,
            "held_out": held,
            "embedding": pa.FixedSizeListArray.from_arrays(embeddings.ravel(), embeddings.shape[1]),
        }
        with atomic_path(path) as temporary:
            pq.write_table(pa.table(columns), temporary)
    kept = pq.read_table(path)
    vectors = kept["embedding"].combine_chunks()
    embeddings = vectors.flatten().to_numpy().reshape(len(vectors), -1).astype(np.float32)
    return kept["prompt"].to_pylist(), embeddings, kept["held_out"].to_numpy()
