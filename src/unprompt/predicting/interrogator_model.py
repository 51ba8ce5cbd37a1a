"""An interrogator composes prompts of the phrases that a CLIP finds nearest to the image.

The method is that of clip-interrogator (pharmapsychotic, MIT licence); the code is our own. A
prompt begins with a caption. Then come the phrases of medium, artist, movement and flavor that are
nearest to the image. The cache on disk (`unprompt.encoding.encode`) keeps the embeddings of the
phrases.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from unprompt.encoding import DEFAULT_ENCODER, encode
from unprompt.errors import UnpromptError
from unprompt.files import write_json
from unprompt.models.model_folder import INTERROGATOR_FILE, damaged, read_json
from unprompt.predicting.captioner import Caption, Captioner, ranked
from unprompt.predicting.ensemble_model import JointPreprocessing
from unprompt.predicting.phrases import FLAVOR, SUBJECT, load_phrases

if TYPE_CHECKING:
    from unprompt.models.image_towers import ImageTower
    from unprompt.models.text_towers import TextTower

MODES = ("fast", "best")
CANDIDATES = 64
"""Number of phrases, the nearest to the image, that ``best`` tries at each step."""
MOST = 16
"""Most phrases that ``best`` adds. CLIP's 77 tokens hold hardly more."""
_LEAST_GAIN = 1e-6
"""Least gain of cosine for which ``best`` adds a phrase; smaller gains are rounding errors."""


@dataclass(frozen=True)
class InterrogatorConfig:
    """The settings of an interrogator, as ``interrogator.json`` states them.

    Attributes:
        clip: ``hf_clip/…``, ``open_clip/…`` or ``hf/…`` (SigLIP).
        captioner: name of a model that writes prompts; it writes the subject. Without a captioner,
            the subject is the nearest phrase of the category ``subject``.
        mode: ``fast`` takes the nearest phrase of each category, and several of ``flavor``.
            ``best`` adds phrases one by one. It always adds the phrase that brings the prompt
            nearest to the image, and stops when no phrase brings it nearer.
        phrases: folder of phrases, see `unprompt.predicting.phrases.load_phrases`.
        flavors: number of flavors that ``fast`` takes.

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

    def save(self, folder: str | Path) -> None:
        """Write ``interrogator.json``, which makes the folder a model.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_json(Path(folder) / INTERROGATOR_FILE, asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> InterrogatorConfig:
        """Read ``interrogator.json``.

        Raises:
            ModelNotFoundError: the folder has no such file.
            UnpromptError: the file is damaged.
        """
        path = Path(folder) / INTERROGATOR_FILE
        with damaged(path):
            return cls(**read_json(path))


class Interrogator(Captioner):
    """A CLIP that composes prompts.

    The score of a prompt is its cosine to the image in the CLIP's space. The features are those of
    the image tower.

    Args:
        images: the CLIP's image tower.
        texts: its text tower.
        config: the settings.
        captioner: the captioner that the settings name.
        name: the model's name in its answers.
        folder: its folder.

    Raises:
        UnpromptError: the towers have different widths, or there is neither a captioner nor a
            category ``subject``.
    """

    route: ClassVar[str] = "interrogate"

    def __init__(
        self,
        images: ImageTower,
        texts: TextTower,
        config: InterrogatorConfig,
        captioner: Captioner | None,
        name: str,
        folder: Path,
    ):
        if images.dim != texts.dim:
            raise UnpromptError(
                f"'{images.name}': its image features are {images.dim} wide and its text features "
                f"{texts.dim}, so the two cannot be compared; name a CLIP as hf_clip/…"
            )
        self.phrases = load_phrases(config.phrases)
        if captioner is None and SUBJECT not in self.phrases:
            raise UnpromptError(
                f"{config.phrases}: nothing gives the subject; name a captioner, or write a "
                f"{SUBJECT}.txt"
            )
        self.name = name
        self.folder = folder
        self.config = config
        self.encoder = DEFAULT_ENCODER if captioner is None else captioner.encoder
        self.captioner = captioner
        self._images = images
        self._texts = texts
        self._features = {
            category: encode(phrases, texts)
            for category, phrases in self.phrases.items()
            if category != SUBJECT or captioner is None
        }
        # The categories that follow the subject; flavors come last.
        self._added = sorted((c for c in self.phrases if c != SUBJECT), key=FLAVOR.__eq__)
        self.preprocessing = images.preprocessing
        if captioner is not None:
            self.preprocessing = JointPreprocessing((images.preprocessing, captioner.preprocessing))

    def describe(
        self, pixels: np.ndarray, top_k: int = 1
    ) -> tuple[list[list[Caption]], np.ndarray]:
        """See `Captioner.describe`; it writes one prompt for each of ``top_k`` subjects."""
        if self.captioner is None or not isinstance(self.preprocessing, JointPreprocessing):
            features = self._images.features(pixels)
            subjects = self.rank(features, SUBJECT, top_k)
        else:
            own, rest = self.preprocessing.split(pixels)
            features = self._images.features(own)
            captions = self.captioner.caption(rest, top_k)
            subjects = [[caption.text for caption in found] for found in captions]
        counts = [len(found) for found in subjects]
        image_of = np.repeat(np.arange(len(features)), counts)
        compose = self._fast if self.config.mode == "fast" else self._best
        prompts = compose([subject for found in subjects for subject in found], features[image_of])
        cosines = self._cosines(prompts, features[image_of]).tolist()
        ends = np.cumsum(counts)
        return [
            ranked(prompts[end - count : end], cosines[end - count : end])
            for end, count in zip(ends, counts, strict=True)
        ], features

    def rank(self, features: np.ndarray, category: str, top_k: int = 1) -> list[list[str]]:
        """The phrases of a category that are nearest to images, best first.

        Args:
            features: features of the images, float32 (n, dim), of norm 1.
            category: one of ``phrases``.
            top_k: number of phrases for each image.
        """
        nearest = np.argsort(-(features @ self._features[category].T), axis=1, kind="stable")
        phrases = self.phrases[category]
        return [[phrases[column] for column in row[:top_k]] for row in nearest]

    def _cosines(self, prompts: list[str], features: np.ndarray) -> np.ndarray:
        """Cosine of each prompt to its image."""
        return np.einsum("nd,nd->n", self._texts.features(prompts), features)

    def _fast(self, subjects: list[str], features: np.ndarray) -> list[str]:
        prompts = [[subject] for subject in subjects]
        for category in self._added:
            count = self.config.flavors if category == FLAVOR else 1
            for prompt, found in zip(prompts, self.rank(features, category, count), strict=True):
                # If the caption already says 'oil painting', the phrase is left out.
                prompt += [phrase for phrase in found if phrase not in prompt[0].lower()]
        return [", ".join(prompt) for prompt in prompts]

    def _best(self, subjects: list[str], features: np.ndarray) -> list[str]:
        prompts = list(subjects)
        cosines = self._cosines(prompts, features)
        pools = self._candidates(features)
        growing = list(range(len(prompts)))
        for _ in range(MOST):
            growing = [row for row in growing if pools[row]]
            if not growing:
                break
            # One batch holds the longer prompts of all images.
            tried = [f"{prompts[row]}, {phrase}" for row in growing for phrase in pools[row]]
            values = self._texts.features(tried)
            start, still_growing = 0, []
            for row in growing:
                stop = start + len(pools[row])
                found = values[start:stop] @ features[row]
                best = int(found.argmax())
                if found[best] > cosines[row] + _LEAST_GAIN:
                    prompts[row], cosines[row] = tried[start + best], found[best]
                    pools[row] = _without(pools[row], [*pools[row]][best])
                    still_growing.append(row)
                start = stop
            growing = still_growing
        return prompts

    def _candidates(self, features: np.ndarray) -> list[dict[str, str]]:
        """For each image, the nearest phrases of all categories, and the category of each."""
        category_of = {phrase: name for name in self._added for phrase in self.phrases[name]}
        known = np.concatenate([self._features[name] for name in self._added] or [features[:0]])
        phrases = [phrase for name in self._added for phrase in self.phrases[name]]
        nearest = np.argsort(-(features @ known.T), axis=1, kind="stable")[:, :CANDIDATES]
        return [
            {phrases[column]: category_of[phrases[column]] for column in row} for row in nearest
        ]


def _without(pool: dict[str, str], taken: str) -> dict[str, str]:
    """Remove a phrase and, unless it is a flavor, all others of its category."""
    return {
        phrase: category
        for phrase, category in pool.items()
        if phrase != taken and (category == FLAVOR or category != pool[taken])
    }
