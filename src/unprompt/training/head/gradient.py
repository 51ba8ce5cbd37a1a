"""A head of any type, trained by gradient from features: cached ones, or a text tower's."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from unprompt.models.bank.bank import unit
from unprompt.models.embedder import Embedder
from unprompt.pairs.table import PairsTable
from unprompt.progress import track
from unprompt.training.data.features import features_of, head_score
from unprompt.training.parameter_groups import by_decay

WARMUP = 0.05
"""Share of the steps in which the learning rate rises from zero."""


def fit_by_gradient(
    model: Embedder,
    train: PairsTable,
    val: PairsTable,
    epochs: int,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> float:
    """Train the head by gradient on the frozen backbone's features, which are computed once.

    Args:
        model: its head is changed in place, from its present weights, on a GPU where there is one.
        train: pairs with prompt embeddings.
        val: likewise, for the score.
        epochs: passes over the features.
        batch_size: pairs a step.
        learning_rate: peak.
        seed: of the order.

    Returns:
        The mean cosine on the validation split.
    """
    known, unseen = features_of(model, train), features_of(model, val)
    device = model.mean.device
    train_head(
        model.head.to("cuda" if torch.cuda.is_available() else device),
        known.values,
        unit(known.embeddings),
        epochs,
        batch_size,
        learning_rate,
        seed=seed,
    )
    model.head.to(device)
    return head_score(model, unseen)


def train_head(
    head: nn.Module,
    features: np.ndarray,
    embeddings: np.ndarray,
    epochs: int,
    batch_size: int = 1024,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    noise: float = 0.0,
    seed: int = 0,
) -> list[float]:
    """Minimise 1 - cosine between the head's output and the true prompt embeddings.

    The optimiser is AdamW; its learning rate rises for a twentieth of the steps and then falls as a
    cosine to zero. The head stays on its device and in its mode. Features go to the device batch by
    batch, so that more of them fit than the device has memory for.

    Args:
        head: changed in place; features (batch, width) to (batch, dim).
        features: float array of shape (n, width), n ≥ 2.
        embeddings: unit-norm, of shape (n, dim).
        epochs: passes; an epoch leaves out the rows that do not fill a batch, others each time.
        batch_size: rows a step; the number of rows where that is smaller.
        learning_rate: peak.
        weight_decay: of weight matrices; biases and norms have none.
        noise: standard deviation of Gaussian noise, drawn anew whenever a row is shown.
        seed: of order and noise.

    Returns:
        The mean loss of each epoch.
    """
    device = next(head.parameters()).device
    batch_size = min(batch_size, len(features))
    steps = epochs * (len(features) // batch_size)
    groups = by_decay(head.parameters(), learning_rate, weight_decay, "head")
    optimiser = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, steps))
    training = head.training
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head.train()
        for epoch in track(range(epochs), "Head"):
            total, batches = torch.zeros((), device=device), 0
            for rows in _batches(len(features), batch_size, seed, epoch):
                x = torch.from_numpy(features[rows]).to(device, torch.float32)
                y = torch.from_numpy(embeddings[rows]).to(device, torch.float32)
                if noise:
                    x = x + noise * torch.randn_like(x)
                loss = 1 - F.cosine_similarity(head(x), y).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.detach()
                batches += 1
            losses.append(float(total) / batches)
        head.train(training)
    return losses


def _share(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step, counted from 0."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batches(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng([seed, epoch]).permutation(count)
    for start in range(0, count - batch_size + 1, batch_size):
        yield order[start : start + batch_size]
