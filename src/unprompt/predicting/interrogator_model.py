"""An interrogator: prompts composed of phrases that a CLIP ranks against the image.

In the manner of clip-interrogator (pharmapsychotic, MIT licence), in code of our own: a caption,
and behind it the phrases, of medium, artist, movement and flavor, that CLIP finds nearest.
Images are ranked in batches, and the phrases' embeddings are kept on disk
(`unprompt.encoding.encode`), so that each is computed once for a CLIP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from unprompt.encoding import DEFAULT_ENCODER, encode
from unprompt.errors import MissingExtraError, UnpromptError
from unprompt.files import atomic_open
from unprompt.predicting.captioner_model import Caption, Captioner, Search
from unprompt.predicting.embedding_model import INTERROGATOR_FILE, load_model, read_json
from unprompt.predicting.ensemble_model import JointPreprocessing
from unprompt.predicting.phrases import FLAVOR, SUBJECT, load_phrases

if TYPE_CHECKING:
    from unprompt.models.image_towers import ImageTower
    from unprompt.models.text_towers import TextTower

MODES = ("fast", "best")
CANDIDATES = 64
"""Phrases, the nearest to the image by themselves, that ``best`` tries at each step."""
MOST = 16
"""Phrases that ``best`` takes; CLIP's 77 tokens hold hardly more."""
_LEAST_GAIN = 1e-6
"""In cosine, of a phrase that ``best`` takes: less is rounding."""


@dataclass(frozen=True)
class InterrogatorConfig:
    """What makes an interrogator; written to ``interrogator.json``.

    Attributes:
        clip: ``hf_clip/…``, ``open_clip/…`` or ``hf/…`` (SigLIP).
        captioner: any model that writes prompts, for the subject; without one it is the nearest
            phrase of the category ``subject``.
        mode: ``fast`` takes the nearest phrase of each category, and the nearest ``flavors`` of
            ``flavor``; ``best`` goes on adding the phrase with which the whole prompt comes nearest
            to the image, as long as it comes nearer.
        phrases: folder of lists, as `unprompt.predicting.phrases.load_phrases`.
        flavors: of ``fast``.

    Raises:
        UnpromptError: there is no such mode, or ``flavors`` is negative.
    """

    clip: str
    captioner: str | None = None
    mode: str = "fast"
    phrases: str | None = None
    flavors: int = 3

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UnpromptError(f"mode '{self.mode}': must be one of {', '.join(MODES)}")
        if self.flavors < 0:
            raise UnpromptError(f"flavors={self.flavors}: must be at least 0")


class Interrogator(Captioner):
    """A CLIP that composes prompts.

    As a captioner's, its prompts are ranked by their score: here their cosine to the image in the
    CLIP's space. The features are the image tower's.

    Args:
        images: the CLIP's image tower.
        texts: its text tower.
        phrases: by category.
        config: its settings.
        captioner: that the settings name.
        name: what answers call it.
        folder: where a bank or a decoder may stand.

    Raises:
        UnpromptError: the towers share no space, or nothing gives the subject.
    """

    route: ClassVar[str] = "interrogate"

    def __init__(
        self,
        images: ImageTower,
        texts: TextTower,
        phrases: Mapping[str, Sequence[str]],
        config: InterrogatorConfig,
        captioner: Captioner | None,
        name: str,
        folder: Path,
    ):
        if images.dim != texts.dim:
            raise UnpromptError(
                f"'{images.name}': its image features are {images.dim} wide and its text features "
                f"{texts.dim}, so they share no space; name a CLIP as hf_clip/…"
            )
        if captioner is None and SUBJECT not in phrases:
            raise UnpromptError(
                f"{config.phrases}: nothing gives the subject; name a captioner, or write a "
                f"{SUBJECT}.txt"
            )
        self.name = name
        self.folder = folder
        self.config = config
        self.phrases = {category: list(of) for category, of in phrases.items()}
        self.encoder = DEFAULT_ENCODER if captioner is None else captioner.encoder
        self.captioner = captioner
        self._search = Search()
        self._images = images
        self._texts = texts
        self._features = {
            category: encode(of, texts)
            for category, of in self.phrases.items()
            if category != SUBJECT or captioner is None
        }
        self.preprocessing = images.preprocessing
        if captioner is not None:
            self.preprocessing = JointPreprocessing((images.preprocessing, captioner.preprocessing))

    @property
    def search(self) -> Search:
        """How the captioner, where there is one, seeks its captions."""
        return self._search if self.captioner is None else self.captioner.search

    @search.setter
    def search(self, search: Search) -> None:
        self._search = search
        if self.captioner is not None:
            self.captioner.search = search

    def caption(self, pixels: np.ndarray, top_k: int = 1) -> list[list[Caption]]:
        """See `Captioner.caption`; one for each of ``top_k`` subjects, the nearest first."""
        return self._caption(*self._looked_at(pixels), top_k)

    def run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Caption]]:
        """See `EmbeddingModel.run`."""
        features, rest = self._looked_at(pixels)
        best = [captions[0] for captions in self._caption(features, rest, 1)]
        return self.embed([caption.text for caption in best]), features, best

    def rank(self, features: np.ndarray, category: str, top_k: int = 1) -> list[list[str]]:
        """The phrases of a category nearest to images, best first.

        Args:
            features: of the images, float32 (n, dim), of norm 1.
            category: one of ``phrases``.
            top_k: how many for each image.
        """
        nearest = np.argsort(-(features @ self._features[category].T), axis=1, kind="stable")
        phrases = self.phrases[category]
        return [[phrases[column] for column in row[:top_k]] for row in nearest]

    def _looked_at(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The image tower's features, and the pixels for the captioner."""
        if not isinstance(self.preprocessing, JointPreprocessing):
            return self._images.features(pixels), None
        own, rest = self.preprocessing.split(pixels)
        return self._images.features(own), rest

    def _caption(
        self, features: np.ndarray, rest: np.ndarray | None, top_k: int
    ) -> list[list[Caption]]:
        if self.captioner is None or rest is None:
            subjects = self.rank(features, SUBJECT, top_k)
        else:
            captions = self.captioner.caption(rest, top_k)
            subjects = [[caption.text for caption in found] for found in captions]
        owner = np.repeat(np.arange(len(features)), [len(found) for found in subjects])
        compose = self._fast if self.config.mode == "fast" else self._best
        prompts = compose([subject for found in subjects for subject in found], features[owner])
        cosines = np.einsum("nd,nd->n", self._texts.features(prompts), features[owner])
        answers: list[dict[str, float]] = [{} for _ in features]
        for row, prompt, cosine in zip(owner, prompts, cosines.tolist(), strict=True):
            answers[row][prompt] = cosine
        return [
            [Caption(*item) for item in sorted(found.items(), key=lambda item: -item[1])]
            for found in answers
        ]

    def _fast(self, subjects: list[str], features: np.ndarray) -> list[str]:
        parts = [[subject] for subject in subjects]
        for category in self._added:
            count = self.config.flavors if category == FLAVOR else 1
            for prompt, found in zip(parts, self.rank(features, category, count), strict=True):
                # A caption that says 'oil painting' already need not say it twice.
                prompt += [phrase for phrase in found if phrase not in prompt[0].lower()]
        return [", ".join(prompt) for prompt in parts]

    def _best(self, subjects: list[str], features: np.ndarray) -> list[str]:
        prompts = list(subjects)
        cosines = np.einsum("nd,nd->n", self._texts.features(prompts), features)
        pools = self._candidates(features)
        growing = list(range(len(prompts)))
        for _ in range(MOST):
            growing = [row for row in growing if pools[row]]
            if not growing:
                break
            # The longer prompts of all images in one batch.
            tried = [f"{prompts[row]}, {phrase}" for row in growing for phrase in pools[row]]
            values = self._texts.features(tried)
            start, still = 0, []
            for row in growing:
                stop = start + len(pools[row])
                found = values[start:stop] @ features[row]
                best = int(found.argmax())
                if found[best] > cosines[row] + _LEAST_GAIN:
                    prompts[row], cosines[row] = tried[start + best], found[best]
                    category = [*pools[row].values()][best]
                    pools[row] = _without(pools[row], best, category)
                    still.append(row)
                start = stop
            growing = still
        return prompts

    def _candidates(self, features: np.ndarray) -> list[dict[str, str]]:
        """For each image the nearest phrases of all categories, with the category of each."""
        category_of = {phrase: name for name in self._added for phrase in self.phrases[name]}
        known = np.concatenate([self._features[name] for name in self._added] or [features[:0]])
        phrases = [phrase for name in self._added for phrase in self.phrases[name]]
        nearest = np.argsort(-(features @ known.T), axis=1, kind="stable")[:, :CANDIDATES]
        return [
            {phrases[column]: category_of[phrases[column]] for column in row} for row in nearest
        ]

    @property
    def _added(self) -> list[str]:
        """Categories behind the subject; flavors last."""
        return sorted((name for name in self.phrases if name != SUBJECT), key=FLAVOR.__eq__)


def _without(pool: dict[str, str], taken: int, category: str) -> dict[str, str]:
    """What is left to try: of a category other than flavor a prompt has one phrase only."""
    return {
        phrase: of
        for row, (phrase, of) in enumerate(pool.items())
        if row != taken and (of == FLAVOR or of != category)
    }


def save_interrogator(folder: str | Path, config: InterrogatorConfig) -> None:
    """Write ``interrogator.json``, which makes a folder a model.

    Raises:
        OutputError: the folder cannot be written.
    """
    with atomic_open(Path(folder) / INTERROGATOR_FILE) as file:
        json.dump(asdict(config), file, indent=2)
        file.write("\n")


def build_interrogator(
    config: InterrogatorConfig, name: str, folder: Path, device: str | None = None
) -> Interrogator:
    """Load what the settings name, and the phrases' embeddings, computed where they are not kept.

    Raises:
        ModelNotFoundError: the CLIP or the captioner cannot be had.
        MissingExtraError: it needs torch, which is not installed.
        UnpromptError: the captioner writes no prompts, or as `Interrogator`.
    """
    try:
        from unprompt.models.image_towers import create_image_tower
        from unprompt.models.text_towers import create_text_tower
    except ImportError as error:
        raise MissingExtraError(error.name or "torch", "train") from error
    captioner = None if config.captioner is None else load_model(config.captioner, device)
    if captioner is not None and not isinstance(captioner, Captioner):
        raise UnpromptError(f"model {config.captioner} is no captioner: it writes no prompts")
    images = create_image_tower(config.clip, device)
    texts = create_text_tower(config.clip, images.device)
    phrases = load_phrases(config.phrases)
    return Interrogator(images, texts, phrases, config, captioner, name, folder)


def load_interrogator(folder: Path, name: str, device: str | None = None) -> Interrogator:
    """The interrogator of a folder; raises as `build_interrogator`, and where it is damaged."""
    stated = read_json(Path(folder) / INTERROGATOR_FILE)
    try:
        config = InterrogatorConfig(**stated)  # type: ignore[arg-type]
    except TypeError as error:
        raise UnpromptError(f"{Path(folder) / INTERROGATOR_FILE} is damaged: {error}") from error
    return build_interrogator(config, name, Path(folder), device)


def load_pair(place: str | Path, name: str, device: str | None = None) -> Interrogator:
    """A CLIP by itself, as ``hf_clip/…``, ``hf/…`` or ``open_clip/…``: it interrogates, fast."""
    return build_interrogator(InterrogatorConfig(str(place)), name, Path(name), device)


def load_clip(place: str | Path, name: str, device: str | None = None) -> Interrogator:
    """A CLIP of transformers, from a folder or the hub."""
    return load_pair(f"hf_clip/{place}", name, device)


def load_siglip(place: str | Path, name: str, device: str | None = None) -> Interrogator:
    """A SigLIP of transformers, from a folder or the hub."""
    return load_pair(f"hf/{place}", name, device)
