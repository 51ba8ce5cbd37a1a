"""A loaded captioner: prompts written rather than looked up, behind an embedder's face too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from unprompt.encoding import DEFAULT_ENCODER, encode
from unprompt.errors import MissingExtraError, ModelNotFoundError, UnpromptError

if TYPE_CHECKING:
    import torch

    from unprompt.models.coca import CoCaForConditionalGeneration, CoCaProcessor
    from unprompt.models.preprocessing import Preprocessing
    from unprompt.predicting.embedding_model import ImagePreprocessing

MSCOCO_TAG = "mscoco_finetuned_laion2b_s13b_b90k"
"""open_clip's CoCa weights that were fine-tuned to write captions: of a name without a tag."""

# Tokens of written text that are scored at a time, to bound memory.
_SCORED = 4096


@dataclass(frozen=True)
class Search:
    """How captions are sought.

    Attributes:
        num_beams: beams of beam search; 1 is greedy.
        top_p: sample from the smallest set of tokens with this probability instead; None does
            not sample.
    """

    num_beams: int = 4
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise UnpromptError(f"num_beams={self.num_beams}: must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UnpromptError(f"top_p={self.top_p}: must be above 0 and at most 1")


@dataclass(frozen=True)
class Caption:
    """A written prompt.

    Attributes:
        text: the prompt.
        score: what ranks the captions of one image: of a captioner the geometric mean of the
            probabilities of its tokens, in (0, 1].
    """

    text: str
    score: float


class Captioner(ABC):
    """A model that writes prompts.

    It is an `EmbeddingModel` too: the embedding of an image is that of its best caption.

    Attributes:
        route: what its answers state as their route.
        search: how captions are sought.
    """

    route: ClassVar[str] = "caption"

    name: str
    folder: Path
    encoder: str
    search: Search
    preprocessing: ImagePreprocessing

    @abstractmethod
    def caption(self, pixels: np.ndarray, top_k: int = 1) -> list[list[Caption]]:
        """Write prompts for images.

        Args:
            pixels: uint8 (images, 3, size, size).
            top_k: different prompts to write for each image; where the search finds fewer, fewer
                are given.

        Returns:
            For each image its captions, the best first.
        """

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Caption]]:
        """See `EmbeddingModel.run`; gives the captions too, whose embeddings are the features."""
        best = [found[0] for found in self.caption(pixels)]
        embeddings = self.embed([caption.text for caption in best])
        return embeddings, embeddings, best

    def embed(self, prompts: list[str]) -> np.ndarray:
        """Prompt embeddings of captions, float32 (n, dim)."""
        return encode(prompts, self.encoder)


def ranked(texts: Sequence[str], scores: Sequence[float], top_k: int) -> list[list[Caption]]:
    """Captions of each image, the best first, each text once with its best score.

    Args:
        texts: ``top_k`` for each image, image by image.
        scores: of the texts.
        top_k: texts an image.
    """
    captions = []
    for start in range(0, len(texts), top_k):
        found: dict[str, float] = {}
        part = slice(start, start + top_k)
        for text, score in zip(texts[part], scores[part], strict=True):
            found[text] = max(score, found.get(text, 0.0))
        best_first = sorted(found.items(), key=lambda item: -item[1])
        captions.append([Caption(text, score) for text, score in best_first])
    return captions


class CaptionModel(Captioner):
    """A CoCa, ready to write prompts; the features are those of its contrastive branch."""

    preprocessing: Preprocessing

    def __init__(
        self,
        model: CoCaForConditionalGeneration,
        processor: CoCaProcessor,
        name: str,
        folder: Path,
        search: Search | None = None,
    ):
        self.model = model
        self.processor = processor
        self.name = name
        self.folder = folder
        self.search = search or Search()
        self.encoder = DEFAULT_ENCODER
        self.preprocessing = processor.preprocessing

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        name: str,
        device: str | None = None,
        search: Search | None = None,
    ) -> Self:
        """Load from a folder, the hub or open_clip; on a CPU its weights are packed for speed.

        Args:
            name_or_folder: a folder or hub repository in the Hugging Face form, or with the prefix
                ``open_clip/`` a model of open_clip's: ``NAME[:TAG]``, ``NAME:FILE``,
                ``local-dir:FOLDER``, ``hf-hub:ORG/MODEL`` or a file of weights.
            name: what answers call it.
            device: ``cuda`` where there is one, by default.
            search: how captions are sought.

        Raises:
            ModelNotFoundError: there is no such model.
            MissingExtraError: torch or transformers is not installed.
            UnpromptError: the device cannot be used.
        """
        try:
            import torch

            from unprompt.models.coca import CoCaForConditionalGeneration, CoCaProcessor
            from unprompt.models.coca.open_clip import from_open_clip
            from unprompt.models.coca.packing import pack
            from unprompt.models.devices import placed
        except ImportError as error:
            raise MissingExtraError(error.name or "torch", "train") from error
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        library, _, place = str(name_or_folder).partition("/")
        model: Any
        if library == "open_clip":
            model = from_open_clip(*_open_clip_weights(place))
            processor = CoCaProcessor.from_config(model.config)
        else:
            model = CoCaForConditionalGeneration.from_pretrained(name_or_folder)
            processor = CoCaProcessor.from_pretrained(name_or_folder)
        model = placed(model, device)
        if device == "cpu":
            model = pack(model)
        return cls(model, processor, name, Path(name_or_folder), search)

    def caption(self, pixels: np.ndarray, top_k: int = 1) -> list[list[Caption]]:
        """See `Captioner.caption`; the most probable first."""
        import torch

        with torch.inference_mode():
            return self._caption(self.model.model.encode_images(self._normalised(pixels)), top_k)

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Caption]]:
        """See `EmbeddingModel.run`."""
        import torch

        with torch.inference_mode():
            images = self.model.model.encode_images(self._normalised(pixels))
            captions = self._caption(images, 1)
        best = [found[0] for found in captions]
        embeddings = self.embed([caption.text for caption in best])
        return embeddings, images.pooled.float().cpu().numpy(), best

    def _caption(self, images: Any, top_k: int) -> list[list[Caption]]:
        search = self.search
        if search.top_p is None:
            settings: dict[str, Any] = {"num_beams": max(search.num_beams, top_k)}
        else:
            settings = {"do_sample": True, "top_p": search.top_p, "top_k": 0}
        ids = self.model.generate(image_outputs=images, num_return_sequences=top_k, **settings)
        texts = self.processor.batch_decode(ids, skip_special_tokens=True)
        scores = self._scores(ids, images).tolist()
        return ranked(texts, scores, top_k)

    def _scores(self, ids: torch.Tensor, images: Any) -> torch.Tensor:
        """Geometric mean of the probabilities of each row's tokens, the end token included."""
        import torch

        per_image = len(ids) // len(images.states)
        at_a_time = max(1, _SCORED // (ids.shape[1] * per_image))
        scores = []
        for start in range(0, len(images.states), at_a_time):
            rows = ids[start * per_image : (start + at_a_time) * per_image]
            part = type(images)(
                states=images.states[start : start + at_a_time],
                pooled=images.pooled[start : start + at_a_time],
            )
            logits = self.model(rows[:, :-1], image_outputs=part).logits.float()
            targets = rows[:, 1:]
            chosen = logits.gather(2, targets[..., None])[..., 0] - logits.logsumexp(dim=-1)
            ended = (rows[:, :-1] == self.model.config.eos_token_id).cumsum(dim=1) > 0
            counted = (~ended).sum(dim=1).clamp(min=1)
            scores.append((chosen.masked_fill(ended, 0).sum(dim=1) / counted).exp())
        return torch.cat(scores)

    def _normalised(self, pixels: np.ndarray) -> torch.Tensor:
        from unprompt.models.image_towers import normalised

        return normalised(pixels, self.preprocessing, self.model.device, self.model.dtype)


def load_coca(place: str | Path, name: str, device: str | None = None) -> CaptionModel:
    """Load a CoCa in the Hugging Face form; raises as `CaptionModel.load`."""
    return CaptionModel.load(place, name, device)


def load_open_clip(place: str | Path, name: str, device: str | None = None) -> Captioner:
    """Load a model of open_clip's: a folder, or ``[open_clip/]NAME[:TAG]``.

    Returns:
        A CoCa, or an interrogator where it is a CLIP.

    Raises:
        ModelNotFoundError: there is no such model.
        MissingExtraError: open_clip is not installed.
    """
    try:
        from unprompt.models.backbones import open_clip_config
    except ImportError as error:
        raise MissingExtraError(error.name or "open_clip", "train") from error
    model = str(place).removeprefix("open_clip/")
    model = f"local-dir:{place}" if Path(place).is_dir() else model
    stated = model if model.startswith(("local-dir:", "hf-hub:")) else model.partition(":")[0]
    try:
        config = open_clip_config(stated)
    except (OSError, ValueError, KeyError) as error:
        raise ModelNotFoundError(
            f"model '{name}': no such folder, and not to be had from the hub "
            f"({type(error).__name__})"
        ) from error
    if "multimodal_cfg" not in config:
        from unprompt.predicting.interrogator_model import load_pair

        return load_pair(f"open_clip/{model}", name, device)
    return CaptionModel.load(f"open_clip/{model}", name, device)


def load_open_clip_weights(place: str | Path, name: str, device: str | None = None) -> CaptionModel:
    """Load a CoCa from a folder of open_clip's weights alone, as LAION's repositories are."""
    from unprompt.models.coca.open_clip import WEIGHT_FILES

    file = next(file for one in WEIGHT_FILES if (file := Path(place) / one).is_file())
    return CaptionModel.load(f"open_clip/{file}", name, device)


def _open_clip_weights(place: str) -> tuple[str | Path, str | None]:
    """What `from_open_clip` calls a model."""
    if Path(place).is_file():
        return Path(place), None
    if place.startswith("local-dir:"):
        return Path(place.removeprefix("local-dir:")), None
    if place.startswith("hf-hub:"):
        return place, None
    model, _, tag = place.partition(":")
    return model, tag or MSCOCO_TAG
