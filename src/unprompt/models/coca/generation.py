"""Caption generation: `transformers.GenerationMixin` with CoCa's cache and images."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    StoppingCriteriaList,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from unprompt.models.coca.kv_cache import CoCaCache
from unprompt.models.coca.outputs import CoCaImageOutput
from unprompt.models.coca.text_masks import check_token_ids, to_prompt
from unprompt.models.coca.token_sampling import NucleusWarper, sample_tokens


class CoCaGenerationMixin(GenerationMixin):
    """`transformers.GenerationMixin` with CoCa's cache and images.

    Beam search, constraints and all other options are those of transformers. Greedy search and
    sampling run in a shorter loop. Sampling uses `sample_tokens`, so one seed gives different
    captions here and in the loop of transformers (which runs for ``return_dict_in_generate``).
    """

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_outputs: CoCaImageOutput | None = None,
        **arguments: Any,
    ) -> Any:
        """Write captions.

        Args:
            pixel_values: (images, 3, size, size), normalised.
            input_ids: beginnings of captions to continue, (images, length), as the processor
                makes them; end tokens and padding are removed.
            attention_mask: mask of ``input_ids``.
            image_outputs: from ``model.encode_images``, instead of pixels.
            **arguments: see `transformers.GenerationMixin.generate`. With ``num_beam_groups`` and
                no ``diversity_penalty`` (open_clip's default) all groups are the same, so one is
                searched.

        Returns:
            Token ids (images * num_return_sequences, length), start token first; or an output
            object with ``return_dict_in_generate=True``.

        Raises:
            ValueError: there are no images, a token id is outside the vocabulary, or the
                captions would be longer than the context.
        """
        if arguments.get("num_beam_groups") and not arguments.get("diversity_penalty"):
            arguments["num_beams"] = _beams_of_a_group(**arguments)
            del arguments["num_beam_groups"]
        network: Any = self
        if image_outputs is None:
            if pixel_values is None:
                raise ValueError("generate needs pixel_values or image_outputs")
            image_outputs = network.model.encode_images(pixel_values)
        images = len(image_outputs.states)
        if input_ids is None:
            start = network.config.bos_token_id
            input_ids = torch.full((images, 1), start, device=network.device)
        else:
            check_token_ids(input_ids, network.config)
            input_ids, attention_mask = to_prompt(input_ids, attention_mask, network.config)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return super().generate(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_outputs=image_outputs,
            **arguments,
        )

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any
    ) -> None:
        if generation_config.use_cache is not False:
            model_kwargs.setdefault("past_key_values", CoCaCache(generation_config.num_beams))

    def _sample(
        self,
        input_ids: Any,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: BaseStreamer | None = None,
        **inputs: Any,
    ) -> Any:
        """Greedy search and sampling in a shorter loop than that of transformers.

        The loop of transformers runs if the caller also wants scores or streaming, if processes are
        synchronised, if there is no padding token, or if the cache is missing or not empty.
        """
        cache: CoCaCache | None = inputs.get("past_key_values")
        pad = generation_config.pad_token_id
        more = streamer is not None or synced_gpus or generation_config.return_dict_in_generate
        if more or pad is None or cache is None or cache.get_seq_length():
            return super()._sample(  # type: ignore[misc]
                input_ids,
                logits_processor,
                stopping_criteria,
                generation_config,
                synced_gpus,
                streamer,
                **inputs,
            )
        network: Any = self
        choose = sample_tokens if generation_config.do_sample else partial(torch.argmax, dim=-1)
        pads = any(hasattr(criterion, "eos_token_id") for criterion in stopping_criteria)
        unfinished = torch.ones_like(input_ids[:, 0], dtype=torch.bool)
        new, images, mask = input_ids, inputs["image_outputs"], inputs["attention_mask"]
        while unfinished.any():
            logits = network(
                new, None, mask, None, images, cache, logits_to_keep=inputs["logits_to_keep"]
            ).logits
            tokens = choose(logits_processor(input_ids, logits[:, -1].float()))
            if pads:
                tokens = tokens.where(unfinished, pad)
            new, images = tokens[:, None], None
            input_ids = torch.cat([input_ids, new], dim=1)
            mask = None if mask is None else F.pad(mask, (0, 1), value=1)
            unfinished &= ~stopping_criteria(input_ids, None)
        return input_ids

    def _get_logits_processor(self, *arguments: Any, **further: Any) -> LogitsProcessorList:
        processors = super()._get_logits_processor(*arguments, **further)  # type: ignore[misc]
        return LogitsProcessorList(
            NucleusWarper(each.top_p, each.filter_value, each.min_tokens_to_keep)
            if type(each) is TopPLogitsWarper
            else each
            for each in processors
        )


def _beams_of_a_group(num_beam_groups: int, num_beams: int = 1, **_: Any) -> int:
    """Beams in one group; without a penalty all groups find the same captions."""
    if num_beams % num_beam_groups:
        raise ValueError(f"num_beams={num_beams} is not a multiple of {num_beam_groups=}")
    return num_beams // num_beam_groups
