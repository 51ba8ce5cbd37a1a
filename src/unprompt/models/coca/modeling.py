"""The CoCa models: `CoCaModel`, and `CoCaForConditionalGeneration` with a caption head.

Written from the paper (Yu et al. 2022, arXiv 2205.01917), weight-compatible with open_clip's
``coca_ViT-B-32`` and ``coca_ViT-L-14``; see `unprompt.models.coca.open_clip`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationConfig, PreTrainedModel
from transformers import initialization as init
from transformers.initialization import no_init_weights

from unprompt.models.coca.configuration import CoCaConfig
from unprompt.models.coca.generation import CoCaGenerationMixin
from unprompt.models.coca.kv_cache import CoCaCache
from unprompt.models.coca.layers import AttentionalPooler, CrossBlock, SelfBlock
from unprompt.models.coca.losses import IGNORED, caption_loss, contrastive_loss, next_tokens
from unprompt.models.coca.open_clip import load_open_clip, read_open_clip
from unprompt.models.coca.outputs import CoCaImageOutput, CoCaOutput
from unprompt.models.coca.text_masks import (
    Ragged,
    causal_mask,
    lengths_of,
    step_mask,
    step_positions,
)
from unprompt.models.coca.towers import ImageTower, MultimodalDecoder, TextTower


class CoCaPreTrainedModel(PreTrainedModel):
    """Configuration and initialisation of both models, and their settings for transformers."""

    config_class = CoCaConfig
    config: CoCaConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["SelfBlock", "CrossBlock", "AttentionalPooler"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """CLIP's initialisation (Radford et al. 2021) in every tower."""
        super()._init_weights(module)
        config = self.config
        if isinstance(module, (SelfBlock, CrossBlock)):
            width, hidden = module.mlp.contract.weight.shape
            layers = config.vision_layers if width != config.hidden_size else config.text_layers
            residual = width**-0.5 * (2 * layers) ** -0.5
            for linear in _linears(module.attention):
                init.normal_(linear.weight, std=width**-0.5)
            init.normal_(module.attention.out.weight, std=residual)
            init.normal_(module.mlp.expand.weight, std=(2 * width) ** -0.5)
            init.normal_(module.mlp.contract.weight, std=residual * (4 * width / hidden) ** 0.5)
        elif isinstance(module, AttentionalPooler):
            init.normal_(module.query, std=1.0)
            for linear in _linears(module.attention):
                init.xavier_uniform_(linear.weight)
        elif isinstance(module, (ImageTower, TextTower)):
            std = config.vision_hidden_size**-0.5 if isinstance(module, ImageTower) else 0.01
            init.normal_(module.class_embedding, std=std)
            init.normal_(module.position_embedding, std=std)
            init.normal_(module.projection.weight, std=config.hidden_size**-0.5)
        elif isinstance(module, CoCaModel):
            init.constant_(module.logit_scale, config.logit_scale_init_value)
        elif isinstance(module, CoCaForConditionalGeneration):
            init.normal_(module.head.weight, std=config.hidden_size**-0.5)


class CoCaModel(CoCaPreTrainedModel):
    """The three towers, without the projection to the vocabulary."""

    def __init__(self, config: CoCaConfig):
        super().__init__(config)
        self.image = ImageTower(config)
        self.text = TextTower(config)
        self.decoder = MultimodalDecoder(config)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.text.token_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.text.token_embedding = value  # type: ignore[assignment]

    def encode_images(self, pixel_values: torch.Tensor) -> CoCaImageOutput:
        """Encode normalised pixels (images, 3, size, size) for the decoder."""
        pooled, states = self.image(pixel_values)
        return CoCaImageOutput(states=states, pooled=pooled)

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Unit-norm embeddings of images, (images, width), in the same space as those of texts."""
        return self._embed_images(self.encode_images(pixel_values))

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Unit-norm embeddings of texts, (rows, width).

        Args:
            input_ids: (rows, length), padded on the right.
            attention_mask: 0 on padding; by default a text ends with its first end token.
        """
        _, last = self.text.with_class(
            input_ids, lengths_of(input_ids, attention_mask, self.config)
        )
        return F.normalize(self.text.projection(last), dim=-1)

    def _embed_images(self, image_outputs: CoCaImageOutput) -> torch.Tensor:
        return F.normalize(self.image.projection(image_outputs.pooled), dim=-1)

    def read(
        self,
        ragged: Ragged,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_outputs: CoCaImageOutput | None = None,
    ) -> CoCaOutput:
        """Run the text tower and the decoder without padding, for training.

        Args:
            ragged: which tokens of ``input_ids`` are read.
            input_ids: (rows, length), padded on the right, one text an image.
            pixel_values: see `forward`.
            image_outputs: see `forward`.

        Returns:
            ``last_hidden_state`` of the tokens read, (tokens, width).
        """
        if ragged.length > self.config.context_length:
            raise self._too_long(ragged.length)
        if image_outputs is None:
            if pixel_values is None:
                raise ValueError("training needs pixel_values or image_outputs")
            image_outputs = self.encode_images(pixel_values)
        tokens, positions = ragged.gather(input_ids), ragged.places % ragged.length
        x = self.text(tokens, positions, ragged=ragged)
        return CoCaOutput(
            last_hidden_state=self.decoder(x, image_outputs.states, ragged=ragged),
            image_outputs=image_outputs,
        )

    def _too_long(self, length: int) -> ValueError:
        return ValueError(
            f"{length} tokens exceed the context of {self.config.context_length}; "
            "truncate texts, or lower max_length"
        )

    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        image_outputs: CoCaImageOutput | None = None,
        past_key_values: CoCaCache | None = None,
        use_cache: bool = False,
        contrastive: bool = False,
    ) -> CoCaOutput:
        """Run the three towers.

        Args:
            input_ids: (rows, length); with a cache only the new tokens. Rows may be a multiple n
                of the images: rows r * n to (r + 1) * n - 1 then attend to image r.
            pixel_values: (images, 3, size, size), normalised.
            attention_mask: (rows, cached + length), 0 on padding.
            position_ids: (rows, length); by default counted from the mask.
            image_outputs: from `encode_images`, instead of pixels.
            past_key_values: the cache; after its first step images are not needed.
            use_cache: make a cache if none is given.
            contrastive: also compute the contrastive branch (no cache, padding on the right).
        """
        if past_key_values is None and use_cache:
            past_key_values = CoCaCache()
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        length = input_ids.shape[1]
        if past + length > self.config.context_length:
            raise self._too_long(past + length)
        if image_outputs is None and pixel_values is not None:
            image_outputs = self.encode_images(pixel_values)
        image_embeds = text_embeds = None
        mask = step_mask(attention_mask, length, past)
        if past_key_values is not None:
            past_key_values.extend(self.config, len(input_ids), length, input_ids.device)
            if past_key_values.beams > 1 and mask is None and length > 1:
                mask = causal_mask(length, past, input_ids.device)[None, None]
            mask = past_key_values.spread(mask)
        if contrastive:
            if image_outputs is None:
                raise ValueError("the contrastive branch needs pixel_values or image_outputs")
            lengths = lengths_of(input_ids, attention_mask, self.config)
            x, last = self.text.with_class(input_ids, lengths)
            text_embeds = F.normalize(self.text.projection(last), dim=-1)
            image_embeds = self._embed_images(image_outputs)
        else:
            positions = position_ids
            if positions is None:
                positions = step_positions(attention_mask, length, past, input_ids.device)
            x = self.text(input_ids, positions, mask, past_key_values)
        states = image_outputs.states if image_outputs is not None else None
        return CoCaOutput(
            last_hidden_state=self.decoder(x, states, mask, past_key_values),
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            past_key_values=past_key_values,
            image_outputs=image_outputs,
        )


class CoCaForConditionalGeneration(CoCaPreTrainedModel, CoCaGenerationMixin):
    """CoCa with its caption head: training on images and texts, and cached generation.

    See `CoCaGenerationMixin.generate`. Each image is encoded once for all its beams and samples.
    """

    def __init__(self, config: CoCaConfig):
        super().__init__(config)
        self.model = CoCaModel(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.generation_config = GenerationConfig(
            max_length=config.context_length + 1,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )
        self.post_init()

    @classmethod
    def from_open_clip(
        cls, name_or_path: str | Path, pretrained: str | Path | None = None
    ) -> CoCaForConditionalGeneration:
        """Load a CoCa of open_clip; arguments and errors are those of `read_open_clip`.

        Raises:
            UnpromptError: also if a weight is missing, unknown or of a wrong shape.
        """
        config, state = read_open_clip(name_or_path, pretrained)
        with no_init_weights():  # every weight is loaded
            model = cls(config)
        load_open_clip(model, state)
        return model.eval()

    def get_output_embeddings(self) -> nn.Module:
        """The projection to the vocabulary."""
        return self.head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the projection to the vocabulary."""
        self.head = value

    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        image_outputs: CoCaImageOutput | None = None,
        past_key_values: CoCaCache | None = None,
        use_cache: bool = False,
        labels: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> CoCaOutput:
        """Compute losses if labels are given, else logits of the next token.

        Args:
            input_ids: see `CoCaModel.forward`.
            pixel_values: see `CoCaModel.forward`.
            attention_mask: see `CoCaModel.forward`.
            position_ids: see `CoCaModel.forward`.
            image_outputs: see `CoCaModel.forward`.
            past_key_values: see `CoCaModel.forward`.
            use_cache: see `CoCaModel.forward`.
            labels: ``input_ids`` again, not shifted (the shift is done here); -100 and padding
                are ignored.
            logits_to_keep: compute logits for this many last positions; 0 for all.
            return_dict: transformers passes it; the output is always a `CoCaOutput`.
        """
        output: CoCaOutput
        if labels is None:
            output = self.model(
                input_ids,
                pixel_values,
                attention_mask,
                position_ids,
                image_outputs,
                past_key_values,
                use_cache,
            )
            states = output.last_hidden_state
            output.logits = self.head(states[:, -logits_to_keep:])
            return output
        if attention_mask is not None:
            labels = labels.masked_fill(attention_mask == 0, IGNORED)
        targets = next_tokens(labels)
        if self.config.contrastive_weight:
            output = self.model(
                input_ids,
                pixel_values,
                attention_mask,
                image_outputs=image_outputs,
                contrastive=True,
            )
            assert output.image_embeds is not None and output.text_embeds is not None  # noqa: S101, PT018
            output.contrastive_loss = contrastive_loss(
                output.image_embeds, output.text_embeds, self.model.logit_scale.exp()
            )
        else:
            # Tokens after the last target are not needed: no token with a target attends to them.
            index = torch.arange(1, targets.shape[1] + 1, device=targets.device)
            lengths = torch.where(targets != IGNORED, index, 0).amax(dim=1)
            ragged = Ragged.of(lengths, targets.shape[1])
            targets = ragged.gather(targets)
            output = self.model.read(ragged, input_ids, pixel_values, image_outputs)
        output.caption_loss = caption_loss(output.last_hidden_state, self.head, targets)
        output.loss = self.config.caption_weight * output.caption_loss
        if output.contrastive_loss is not None:
            output.loss = output.loss + self.config.contrastive_weight * output.contrastive_loss
        return output


def _linears(attention: nn.Module) -> Iterator[nn.Linear]:
    return (child for child in attention.children() if isinstance(child, nn.Linear))
