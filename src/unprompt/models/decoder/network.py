"""The decoder: from a prompt embedding to the text of a prompt, as a Hugging Face model.

A causal transformer writes a prompt token by token. The embedding is projected to a few prefix
tokens before the text (prefix tuning, Li and Liang 2021, arXiv 2101.00190; ClipCap does so for
images, Mokady et al. 2021, arXiv 2111.09734). It is also added to every token, like the time step
in a diffusion model. Input and output embeddings of the vocabulary are tied (Press and Wolf 2017).
The model is trained on text alone, see `unprompt.training.train_decoder`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.utils import ModelOutput

from unprompt.models.decoder.tokenizer import START, STOP
from unprompt.models.model_folder import DECODER_TYPE

IGNORED = -100
"""Label of positions that the loss ignores; torch's default."""


class DecoderConfig(PreTrainedConfig):
    """The sizes of a decoder.

    Attributes:
        vocab_size: number of tokens in the vocabulary.
        embedding_dim: width of the prompt embeddings that it reads.
        encoder: the target encoder that makes them.
        hidden_size: width of the transformer.
        num_hidden_layers: number of blocks.
        num_attention_heads: number of heads in a block.
        mlp_ratio: width of an MLP divided by ``hidden_size``.
        prefix_length: number of tokens that are projected from the embedding.
        context_length: most tokens in a text, the stop token included.
        dropout: probability of dropout in training.
    """

    model_type = DECODER_TYPE

    vocab_size: int = 6144
    embedding_dim: int = 384
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    mlp_ratio: int = 4
    prefix_length: int = 4
    context_length: int = 64
    dropout: float = 0.0
    bos_token_id: int = START
    eos_token_id: int = STOP
    pad_token_id: int = STOP
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide "
                f"hidden_size={self.hidden_size}"
            )
        super().__post_init__(**kwargs)


@dataclass
class DecoderOutput(ModelOutput):
    """The outputs of a decoder.

    Attributes:
        loss: mean cross-entropy of the tokens in nats, if labels were given.
        logits: (rows, positions, vocabulary).
        past_key_values: the cache.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Any = None


class Attention(nn.Module):
    """Causal self-attention, with a cache for the keys and values of earlier positions."""

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, cache: Any) -> torch.Tensor:
        """(rows, new positions, width) to the same.

        Args:
            x: states.
            mask: bool (rows, 1, new, all), true where a position may attend. With None the new
                positions attend causally, and a single new position attends to all.
            cache: anything with the ``update`` of `transformers.Cache`, or None.
        """
        rows, new, width = x.shape
        shape = (rows, new, self.heads, width // self.heads)
        query, key, value = (part.view(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        if cache is not None:
            key, value = cache.update(key, value, self.layer)
        causal = mask is None and new > 1
        seen = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
        return self.out(seen.transpose(1, 2).reshape(rows, new, width))


class Block(nn.Module):
    """Attention and MLP, each with a norm before it and a residual connection."""

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        width = config.hidden_size
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(config, layer)
        self.mlp_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.mlp_ratio * width)
        self.contract = nn.Linear(config.mlp_ratio * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, cache: Any) -> torch.Tensor:
        """As `Attention.forward`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, cache))
        hidden = F.gelu(self.expand(self.mlp_norm(x)), approximate="tanh")
        return x + self.dropout(self.contract(hidden))


class DecoderModel(PreTrainedModel, GenerationMixin):
    """Writes texts from prompt embeddings.

    A row of tokens begins with ``prefix_length`` start tokens, and the projected embedding is added
    to them. So every position of the cache has a token, and `generate` works as in
    `GenerationMixin`: greedy, beams, sampling, constraints.
    """

    config_class = DecoderConfig
    config: DecoderConfig
    base_model_prefix = "decoder"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _tied_weights_keys = {"head.weight": "tokens.weight"}  # noqa: RUF012

    def __init__(self, config: DecoderConfig):
        super().__init__(config)
        width = config.hidden_size
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.prefix_length + config.context_length, width)
        self.prefix = nn.Linear(config.embedding_dim, config.prefix_length * width)
        self.condition = nn.Linear(config.embedding_dim, width, bias=False)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.vocab_size, bias=False)
        self.generation_config = GenerationConfig(
            max_length=config.prefix_length + config.context_length,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """GPT-2's initialisation: 0.02, and less for layers that write to the residual stream."""
        super()._init_weights(module)
        if isinstance(module, Block):
            std = 0.02 * (2 * self.config.num_hidden_layers) ** -0.5
            for added in (module.attention.out, module.contract):
                init.normal_(added.weight, std=std)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.tokens = value  # type: ignore[assignment]

    def get_output_embeddings(self) -> nn.Module:
        """The projection to the vocabulary, tied to the token embedding."""
        return self.head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the projection to the vocabulary."""
        self.head = value

    @torch.no_grad()
    def start_from(self, token_embeddings: torch.Tensor) -> None:
        """Initialise the vocabulary from the target encoder's embedding of each token's text.

        The encoder's embedding of a prompt is near those of its words. If the vocabulary and the
        projected embedding start in the same rotated space, the model can name the words of an
        embedding from the first step, and only has to learn order and grammar.

        Args:
            token_embeddings: float (vocabulary, embedding_dim).
        """
        centred = token_embeddings - token_embeddings.mean(dim=0)
        _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        axes = axes[: self.config.hidden_size]
        reduced = centred @ axes.T
        # 0.02 is the initial scale of the other weights.
        self.tokens.weight[:, : len(axes)] = 0.02 * reduced / reduced.std()
        self.condition.weight[: len(axes)] = 0.02 * axes / reduced.std()

    def forward(
        self,
        input_ids: torch.Tensor,
        embeddings: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        labels: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> DecoderOutput:
        """Logits of the next tokens, and the loss if labels are given.

        Args:
            input_ids: (rows, new positions), padded on the right; without a cache a row begins with
                ``prefix_length`` start tokens.
            embeddings: (rows, embedding_dim), of norm 1.
            attention_mask: ignored; padding is on the right, so no token of the text attends to it.
            past_key_values: the cache.
            use_cache: make a cache if none is given.
            labels: ``input_ids`` again, not shifted; -100 is ignored.
            logits_to_keep: compute logits for this many last positions; 0 for all.

        Raises:
            ValueError: the text is too long.
        """
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        new = input_ids.shape[1]
        if past + new > len(self.positions.weight):
            raise ValueError(
                f"{past + new} tokens exceed the context of {len(self.positions.weight)}"
            )
        positions = torch.arange(past, past + new, device=input_ids.device)
        mask = None
        if past and new > 1:
            mask = positions[:, None] >= torch.arange(past + new, device=input_ids.device)
        x = self.states(input_ids, embeddings, positions, mask, past_key_values)
        if labels is not None:
            return self._trained(x, labels)
        logits = self.head(x[:, -logits_to_keep:])
        return DecoderOutput(logits=logits, past_key_values=past_key_values)

    def states(
        self,
        input_ids: torch.Tensor,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None = None,
        cache: Any = None,
    ) -> torch.Tensor:
        """States after the last norm, (rows, new positions, width).

        Args:
            input_ids: see `forward`.
            embeddings: see `forward`.
            positions: int64 (new positions,); positions below ``prefix_length`` get their part of
                the projected embedding.
            mask: see `Attention.forward`.
            cache: see `Attention.forward`.
        """
        rows, width = embeddings.shape[0], self.config.hidden_size
        # All positions after the prefix use the last row, which is zeros.
        prefix = F.pad(self.prefix(embeddings).view(rows, -1, width), (0, 0, 0, 1))
        x = self.tokens(input_ids) + self.positions(positions) + self.condition(embeddings)[:, None]
        x = x + prefix[:, positions.clamp(max=self.config.prefix_length)]
        for block in self.blocks:
            x = block(x, mask, cache)
        return self.norm(x)

    def _trained(self, x: torch.Tensor, labels: torch.Tensor) -> DecoderOutput:
        """The loss alone. Logits take most of the memory, so padding gets none."""
        targets = labels[:, 1:].reshape(-1)
        counted = targets != IGNORED
        states = x[:, :-1].reshape(-1, x.shape[-1])[counted]
        return DecoderOutput(loss=F.cross_entropy(self.head(states), targets[counted]))

    def start_ids(self, rows: int) -> torch.Tensor:
        """The start tokens of every row, int64 (rows, prefix_length)."""
        shape = (rows, self.config.prefix_length)
        return torch.full(shape, self.config.bos_token_id, device=self.device)

    @torch.no_grad()
    def write(self, embeddings: torch.Tensor, **arguments: Any) -> torch.Tensor:
        """Write texts for embeddings with `GenerationMixin.generate`.

        Args:
            embeddings: (rows, embedding_dim), of norm 1.
            **arguments: arguments of ``generate``, such as ``num_beams`` or ``do_sample``.

        Returns:
            Token ids without the prefix, (rows * num_return_sequences, length).
        """
        start = self.start_ids(len(embeddings))
        model: Any = self
        ids: torch.Tensor = model.generate(
            start, attention_mask=torch.ones_like(start), embeddings=embeddings, **arguments
        )
        return ids[:, self.config.prefix_length :]
