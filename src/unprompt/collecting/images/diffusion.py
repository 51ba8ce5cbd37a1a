"""Images made by text-to-image pipelines of diffusers."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from unprompt.collecting.images.jobs import Job
from unprompt.devices import choose_device
from unprompt.errors import MissingExtraError, ModelNotFoundError, UnpromptError

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "stabilityai/stable-diffusion-2-base"
_CPU_BATCH = 4
_SOLVER = "DPMSolverMultistepScheduler"


@dataclass(frozen=True)
class Diffusion:
    """Options of a diffusion pipeline.

    The defaults make images four times as fast as those of diffusers, without visible loss: 25
    steps of DPM-Solver++ (https://arxiv.org/abs/2211.01095) in half precision.

    Attributes:
        model: hub id or folder of a text-to-image pipeline.
        size: side of the images in pixels; the pipeline's own by default.
        steps: denoising steps.
        guidance: weight of classifier-free guidance; 1 or less switches it off.
        negative_prompt: what the images should not show.
        sampler: ``dpm++``, or ``default`` for the pipeline's own. Pipelines that cannot use
            ``dpm++``, such as FLUX, keep their own.
        precision: ``auto`` (fp16 on a GPU, fp32 elsewhere), ``fp16``, ``bf16`` or ``fp32``.
        attention: ``sdpa``, PyTorch's own, or ``xformers``.
        compile: compile the denoiser; this saves time for more than a few hundred images.
        channels_last: use the memory format that suits tensor cores.
        vae_slicing: decode one image of a batch at a time, to save memory.
        vae_tiling: decode in tiles, for large images.
        safety_checker: keep the pipeline's checker, if it has one, and fail flagged images.
        batch_size: images at a time; by default estimated from the free memory.
        device: a torch device name, such as ``cuda:1``; by default a GPU if there is one.
    """

    model: str = DEFAULT_MODEL
    size: int | None = None
    steps: int = 25
    guidance: float = 7.5
    negative_prompt: str | None = None
    sampler: str = "dpm++"
    precision: str = "auto"
    attention: str = "sdpa"
    compile: bool = False
    channels_last: bool = True
    vae_slicing: bool = False
    vae_tiling: bool = False
    safety_checker: bool = False
    batch_size: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        choices = {
            "sampler": ("dpm++", "default"),
            "precision": ("auto", "fp16", "bf16", "fp32"),
            "attention": ("sdpa", "xformers"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UnpromptError(
                    f"unknown {name} '{getattr(self, name)}'; choose {', '.join(allowed)}"
                )
        if self.steps < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise UnpromptError("steps and batch size must be 1 or more")
        if self.size is not None and (self.size < 8 or self.size % 8):
            raise UnpromptError(f"cannot make images of {self.size} pixels; choose a multiple of 8")


class DiffusionBackend:
    """Makes images with a pipeline of diffusers.

    Every image has its own random generator on the CPU, so its noise depends only on its seed. A
    batch that does not fit into memory is halved.

    Args:
        pipeline: a text-to-image pipeline, changed in place.
        options: its options.
    """

    licence = None

    def __init__(self, pipeline: Any, options: Diffusion):
        self.options = options
        self.name = options.model
        self.pipeline = _prepare(pipeline, options)
        self._accepted = inspect.signature(pipeline.__call__).parameters
        self._too_many: int | None = None
        self.sampler = type(self.pipeline.scheduler).__name__

    @classmethod
    def from_pretrained(cls, options: Diffusion) -> Self:
        """Load the pipeline that the options name.

        Raises:
            MissingExtraError: diffusers is not installed.
            ModelNotFoundError: the pipeline cannot be loaded.
        """
        try:
            from diffusers import AutoPipelineForText2Image
        except ImportError as error:
            raise MissingExtraError("diffusers", "generate") from error
        try:
            pipeline = AutoPipelineForText2Image.from_pretrained(
                options.model, dtype=_precision(options)
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelNotFoundError(
                f"the pipeline '{options.model}' cannot be loaded ({error}); name a folder or a "
                "hub id of a text-to-image pipeline"
            ) from error
        return cls(pipeline, options)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the images depend on besides prompt and seed."""
        chosen = self.options
        return {
            "size": chosen.size,
            "steps": chosen.steps,
            "sampler": self.sampler,
            "guidance": chosen.guidance,
            "negative_prompt": chosen.negative_prompt,
            "precision": str(_precision(chosen)).removeprefix("torch."),
        }

    @cached_property
    def batch_size(self) -> int:
        """The stated batch size, or an estimate of the largest that fits into memory."""
        return self.options.batch_size or _likely_batch(self.pipeline, self.options)

    def warn(self, prompt: str) -> str | None:
        """A warning if the prompt is longer than the pipeline reads: CLIP reads 77 tokens."""
        tokenizer = getattr(self.pipeline, "tokenizer", None)
        # Tokenizers of T5 state no limit, or a very high one.
        limit = getattr(tokenizer, "model_max_length", None)
        if tokenizer is None or limit is None or limit > 1_000 or _has_long_encoder(self.pipeline):
            return None
        count = len(tokenizer(prompt, verbose=False)["input_ids"])
        if count <= limit:
            return None
        return f"{count} tokens, but the model reads only the first {limit}"

    def draw(self, jobs: Sequence[Job]) -> list[Image.Image | UnpromptError]:
        """One image for each job; a batch that does not fit into memory is halved.

        Raises:
            UnpromptError: a single image does not fit.
        """
        import torch

        if self._too_many is None or len(jobs) < self._too_many:
            try:
                return self._draw(jobs)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if "out of memory" not in str(error):
                    raise
                if len(jobs) == 1:
                    raise UnpromptError(
                        f"one image does not fit into the memory ({str(error)[:200]}); try a "
                        "smaller --size, --precision fp16, --vae-slicing or --vae-tiling"
                    ) from error
            # After the handler, the tensors of the failed batch are free.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            # Later batches of this size are halved at once.
            self._too_many = len(jobs)
        half = -(-len(jobs) // 2)
        return [*self.draw(jobs[:half]), *self.draw(jobs[half:])]

    def _draw(self, jobs: Sequence[Job]) -> list[Image.Image | UnpromptError]:
        import torch

        options = self.options
        wanted = {
            "prompt": [job.prompt for job in jobs],
            "negative_prompt": [options.negative_prompt or ""] * len(jobs),
            "num_inference_steps": options.steps,
            "guidance_scale": options.guidance,
            "height": options.size,
            "width": options.size,
            # PixArt would make images of another size, and scale them.
            "use_resolution_binning": False,
            "generator": [torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
            "output_type": "np",
        }
        if options.guidance <= 1:
            del wanted["negative_prompt"]
        given = {name: value for name, value in wanted.items() if name in self._accepted}
        with torch.inference_mode(), _no_cut_warnings(self.pipeline):
            output = self.pipeline(**given)
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(jobs)
        return [_image(*each) for each in zip(output.images, flagged, strict=True)]


def _image(values: np.ndarray, flagged: bool) -> Image.Image | UnpromptError:
    """An RGB image from values in [0, 1] of shape (height, width, 3)."""
    if flagged:
        return UnpromptError("flagged by the safety checker")
    if not np.isfinite(values).all():
        return UnpromptError("the model returned values that are not finite; try --precision bf16")
    return Image.fromarray((values * 255).round().astype(np.uint8))


def _prepare(pipeline: Any, options: Diffusion) -> Any:
    import torch

    if options.sampler == "dpm++":
        compatible = {each.__name__: each for each in pipeline.scheduler.compatibles}
        if _SOLVER in compatible:
            pipeline.scheduler = compatible[_SOLVER].from_config(pipeline.scheduler.config)
    if not options.safety_checker and getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None
        pipeline.register_to_config(requires_safety_checker=False)
    pipeline.to(_device(options))
    denoiser = "unet" if hasattr(pipeline, "unet") else "transformer"
    if options.channels_last:
        for name in (denoiser, "vae"):
            getattr(pipeline, name).to(memory_format=torch.channels_last)
    if options.attention == "xformers":
        try:
            pipeline.enable_xformers_memory_efficient_attention()
        except (ImportError, ModuleNotFoundError, ValueError) as error:
            raise UnpromptError(
                f"xformers cannot be used ({error}); install it, or choose --attention sdpa"
            ) from error
    if options.vae_slicing:
        pipeline.vae.enable_slicing()
    if options.vae_tiling:
        pipeline.vae.enable_tiling()
    if options.compile:
        setattr(pipeline, denoiser, torch.compile(getattr(pipeline, denoiser)))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _has_long_encoder(pipeline: Any) -> bool:
    """Whether a second text encoder reads more than CLIP, as in SD3 and FLUX."""
    others = (getattr(pipeline, f"tokenizer_{n}", None) for n in (2, 3))
    return any(getattr(other, "model_max_length", 0) > 77 for other in others if other is not None)


@contextmanager
def _no_cut_warnings(pipeline: Any) -> Iterator[None]:
    """Hide diffusers' warnings about cut prompts if `DiffusionBackend.warn` gives them."""
    handlers = [] if _has_long_encoder(pipeline) else [*logging.getLogger("diffusers").handlers]
    for handler in handlers:
        handler.addFilter(_is_no_cut_warning)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_no_cut_warning)


def _is_no_cut_warning(record: logging.LogRecord) -> bool:
    return "part of your input was truncated" not in record.getMessage()


def _device(options: Diffusion) -> str:
    device = choose_device(options.device)
    # torchrun and accelerate launch start one process for each GPU.
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def _precision(options: Diffusion) -> torch.dtype:
    import torch

    name = options.precision
    if name == "auto":
        name = "fp16" if _device(options).startswith("cuda") else "fp32"
    return {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[name]


def _likely_batch(pipeline: Any, options: Diffusion) -> int:
    """A power of two that should fit; if it does not, `DiffusionBackend.draw` halves it.

    Besides the weights, a 512-pixel image of Stable Diffusion 2 with guidance takes about 1.2 GiB
    in fp16, most of it in the VAE. Memory grows with the area and the bytes per number.
    """
    import torch

    device = torch.device(_device(options))
    if device.type != "cuda":
        return _CPU_BATCH
    free, _ = torch.cuda.mem_get_info(device)
    unit = getattr(pipeline, "unet", None) or pipeline.transformer
    native = unit.config.sample_size * pipeline.vae_scale_factor
    side = options.size or native
    width = torch.finfo(_precision(options)).bits / 16
    fits = free / (1.2 * 2**30 * (side / 512) ** 2 * width)
    return 2 ** max(0, min(5, int(fits).bit_length() - 1))
