"""Completion of prompts by a causal language model, in batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Self

from unprompt.devices import choose_device
from unprompt.errors import MissingExtraError, ModelNotFoundError, UnpromptError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """How the continuation of a prompt is sampled.

    The defaults come from the model card of FredZhang7/distilgpt2-stable-diffusion-v2, as used in
    mddunlap924/StableDiffusion2-Image-to-Text: a random length of 40 to 77 tokens for each prompt,
    top-k 8, repetition penalty 1.2, no repeated token.

    Attributes:
        min_length: least length of the whole prompt in tokens, unless the model ends it earlier.
        max_length: greatest length of the whole prompt in tokens.
        top_k: number of likeliest tokens to sample from.
        temperature: above 1 flattens the distribution, below 1 sharpens it.
        repetition_penalty: divides the logits of tokens that are already in the prompt (multiplies
            negative ones); section 4.1 of https://arxiv.org/abs/1909.05858.
        repeat_tokens: whether a token may occur twice in a prompt.
    """

    min_length: int = 40
    max_length: int = 77
    top_k: int = 8
    temperature: float = 1.0
    repetition_penalty: float = 1.2
    repeat_tokens: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_length <= self.max_length or self.top_k < 1 or self.temperature <= 0:
            raise UnpromptError(
                f"{self} is not possible: use 1 <= min_length <= max_length, top_k >= 1 and "
                "temperature > 0"
            )


class Completer:
    """A causal language model that completes prompts.

    Prompts are sorted by their number of missing tokens, padded on the left, and continued with a
    key-value cache. A GPU computes in half precision.

    Args:
        model: a causal model of transformers.
        tokenizer: its tokenizer.
        sampling: how continuations are sampled.
        batch_size: prompts at a time. The result depends on it, because a batch has one seed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sampling: Sampling | None = None,
        batch_size: int = 64,
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.sampling = sampling or Sampling()
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        sampling: Sampling | None = None,
        batch_size: int = 64,
        device: str | None = None,
    ) -> Self:
        """Load a model by hub id or folder.

        Args:
            name: hub id or folder, such as `FredZhang7/distilgpt2-stable-diffusion-v2`.
            sampling: how continuations are sampled.
            batch_size: prompts at a time.
            device: a torch device name, such as ``cuda:1``; by default a GPU if there is one.

        Raises:
            MissingExtraError: torch or transformers is not installed.
            ModelNotFoundError: the model cannot be loaded.
        """
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError("torch and transformers", "train") from error
        device = choose_device(device)
        dtype = torch.float16 if device.startswith("cuda") else torch.float32
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelNotFoundError(
                f"the language model '{name}' cannot be loaded ({error}); name a folder or a hub id"
            ) from error
        return cls(model.to(device), tokenizer, sampling, batch_size)

    def complete(self, prompts: Sequence[str], seed: int = 0) -> list[str]:
        """Complete each prompt.

        Args:
            prompts: the beginnings; long enough prompts do not change.
            seed: the same seed, prompts and batch size give the same result on one computer.

        Returns:
            Each beginning with its continuation, on one line, in order.
        """
        tokens = [self.tokenizer(prompt)["input_ids"] for prompt in prompts]
        limits = [self._limit(prompt, seed) for prompt in prompts]
        missing = [limit - len(ids) for limit, ids in zip(limits, tokens, strict=True)]
        order = [row for row in range(len(prompts)) if missing[row] > 0 and tokens[row]]
        order.sort(key=lambda row: (missing[row], len(tokens[row])))
        completed = list(prompts)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            ending = f"{seed}/{prompts[rows[0]]}"
            new = self._generate([tokens[row] for row in rows], missing[rows[-1]], ending)
            for row, ids in zip(rows, new, strict=True):
                text = self.tokenizer.decode(ids[: missing[row]], skip_special_tokens=True)
                completed[row] = " ".join((prompts[row] + text).split())
        return completed

    def _limit(self, prompt: str, seed: int) -> int:
        rng = random.Random(f"length/{seed}/{prompt}")  # noqa: S311 -- not for secrets
        return rng.randint(self.sampling.min_length, self.sampling.max_length)

    def _generate(self, tokens: list[list[int]], count: int, ending: str) -> list[list[int]]:
        """At most ``count`` new tokens for each row, up to the end of text."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        config, device = self.model.config, self.model.device
        end = config.eos_token_id
        end = end[0] if isinstance(end, list) else end
        # Padding is masked, so it can be any token.
        padding = next(i for i in (config.pad_token_id, end, 0) if i is not None)
        width = max(map(len, tokens))
        rows = [[padding] * (width - len(ids)) + ids for ids in tokens]
        ids = torch.tensor(rows, device=device)
        lengths = torch.tensor([len(ids) for ids in tokens], device=device)
        mask = torch.arange(width, device=device) >= width - lengths[:, None]
        settings = GenerationConfig(
            # The logits processor samples, and leaves only the sampled token.
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=end,
            pad_token_id=padding,
            use_cache=True,
        )
        seed = int.from_bytes(sha256(ending.encode()).digest()[:8]) >> 1
        cuda = [device] if device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(cuda):
            torch.manual_seed(seed)
            output = self.model.generate(
                ids,
                attention_mask=mask.long(),
                generation_config=settings,
                logits_processor=LogitsProcessorList([_sample_next(self.sampling, mask, end)]),
            )
        new: list[list[int]] = output[:, width:].tolist()
        return [row[: row.index(end)] if end in row else row for row in new]


def _sample_next(sampling: Sampling, mask: torch.Tensor, end: int | None) -> Any:
    """A logits processor that samples the next tokens and excludes all others.

    The processors of transformers count padding as a used token. Padding is often the end-of-text
    token, so padded rows could never end; this processor ignores padding. It also reads the
    vocabulary only once, for the ``top_k`` likeliest tokens.
    """
    import torch
    from transformers import LogitsProcessor

    class SampleNext(LogitsProcessor):
        sampled: torch.Tensor | None = None
        choice: torch.Tensor | None = None

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores = scores.float()
            seen = input_ids.clone()
            # Padding is replaced by the last token of the beginning.
            width = mask.shape[1]
            seen[:, :width] = torch.where(mask, seen[:, :width], seen[:, width - 1 : width])
            if sampling.repeat_tokens:
                held = scores.gather(1, seen)
                penalty = sampling.repetition_penalty
                scores.scatter_(1, seen, torch.where(held > 0, held / penalty, held * penalty))
            else:
                scores.scatter_(1, seen, -torch.inf)
                if end is not None:
                    # A row can end even if every other token is forbidden.
                    scores[:, end] = scores[:, end].clamp(min=torch.finfo(scores.dtype).min)
            values, tokens = scores.topk(min(sampling.top_k, scores.shape[1]), dim=1)
            choice = torch.multinomial((values / sampling.temperature).softmax(1), 1)
            if self.sampled is None or self.choice is None:
                self.sampled = torch.zeros_like(scores)
            else:
                self.sampled.scatter_(1, self.choice, 0.0)
            self.choice = tokens.gather(1, choice)
            return self.sampled.scatter_(1, self.choice, 1.0)

    return SampleNext()
