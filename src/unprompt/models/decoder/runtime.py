"""Run a decoder on ONNX Runtime, without torch: from prompt embeddings to texts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unprompt.files import write_json
from unprompt.models.calibration import Calibration
from unprompt.models.decoder import NUM_BEAMS
from unprompt.models.decoder.beams import FoundSequence, beam_search, sample
from unprompt.models.decoder.tokenizer import START, STOP, load_tokenizer, texts_of
from unprompt.models.model_folder import CONFIG_FILE, DECODER_FOLDER, damaged, read_json

GRAPH_FILE = "decoder.onnx"
_ROWS = 32
"""Number of embeddings that are decoded together."""


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt that a decoder wrote.

    Attributes:
        prompt: the text.
        score: mean log probability of its tokens, at most 0.
    """

    prompt: str
    score: float


class TextDecoder:
    """An exported decoder, see `unprompt.models.decoder.decoder_onnx`; needs only ONNX Runtime.

    Attributes:
        encoder: the target encoder whose embeddings it reads.
        calibration: from a text's score to its expected cosine to the true prompt, for the model
            whose folder holds the decoder; None if it was never measured.
        preferred: whether its texts were measured to be better than the bank's prompts, for that
            model.

    Raises:
        ModelNotFoundError: the folder holds no decoder.
        UnpromptError: its configuration is damaged.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.tokenizer = load_tokenizer(self.folder)
        path = self.folder / CONFIG_FILE
        stated = read_json(path)
        with damaged(path):
            self.encoder = str(stated["encoder"])
            self.prefix_length = int(stated["prefix_length"])
            self.context_length = int(stated["context_length"])
            line = stated["calibration"]
            self.calibration = Calibration(**line) if line else None
            self.preferred = bool(stated.get("preferred"))

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            self.folder / GRAPH_FILE, options, providers=["CPUExecutionProvider"]
        )

    @classmethod
    def of(cls, model_folder: str | Path) -> TextDecoder | None:
        """The decoder in a model's folder, or None."""
        folder = Path(model_folder) / DECODER_FOLDER
        return cls(folder) if (folder / GRAPH_FILE).is_file() else None

    def write(
        self,
        embeddings: np.ndarray,
        top_k: int = 1,
        beams: int = NUM_BEAMS,
        top_p: float | None = None,
        seed: int = 0,
    ) -> list[list[Text]]:
        """Write prompts for embeddings.

        Args:
            embeddings: float array of shape (n, dim), of any norm.
            top_k: most prompts for each embedding, all different.
            beams: width of the beam search; at least ``top_k`` are used.
            top_p: instead of beam search, sample from the smallest set of tokens with this
                probability.
            seed: seed of the sampling.

        Returns:
            For each embedding its prompts, the most probable first.
        """
        targets = np.asarray(embeddings, dtype=np.float32)
        targets = targets / np.maximum(np.linalg.norm(targets, axis=1, keepdims=True), 1e-12)
        random = np.random.default_rng(seed)
        written: list[list[Text]] = []
        for start in range(0, len(targets), _ROWS):
            run = _Run(self._session, targets[start : start + _ROWS])
            first = run.start(self.prefix_length)
            most = self.context_length
            if top_p is None:
                found = beam_search(first, run.step, max(beams, top_k), most, STOP)
            else:
                found = sample(first, run.step, top_k, most, STOP, top_p, random)
            written += [self._texts(sequences)[:top_k] for sequences in found]
        return written

    def _texts(self, sequences: list[FoundSequence]) -> list[Text]:
        texts = texts_of(self.tokenizer, [item.tokens for item in sequences])
        best: dict[str, float] = {}
        for text, item in zip(texts, sequences, strict=True):
            best.setdefault(text, item.score)
        return [Text(text, score) for text, score in best.items()]


class _Run:
    """One search: the embeddings of its rows and the cache of keys and values."""

    def __init__(self, session: Any, embeddings: np.ndarray):
        self._session = session
        self._embeddings = embeddings
        layers, _, heads, _, width = session.get_inputs()[2].shape
        empty = np.zeros((layers, len(embeddings), heads, 0, width), dtype=np.float32)
        self._past = empty, empty

    def start(self, prefix_length: int) -> np.ndarray:
        """Log probabilities of the first token of each row."""
        shape = (len(self._embeddings), prefix_length)
        return self._log_probabilities(np.full(shape, START, dtype=np.int64))

    def step(self, tokens: np.ndarray, order: np.ndarray) -> np.ndarray:
        """See `unprompt.models.decoder.beams.Step`."""
        self._embeddings = self._embeddings[order]
        keys, values = self._past
        self._past = keys[:, order], values[:, order]
        return self._log_probabilities(tokens[:, None])

    def _log_probabilities(self, tokens: np.ndarray) -> np.ndarray:
        keys, values = self._past
        given = {
            "tokens": tokens,
            "embedding": self._embeddings,
            "past_keys": keys,
            "past_values": values,
        }
        logits, *past = self._session.run(["logits", "keys", "values"], given)
        self._past = past[0], past[1]
        shifted = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def save_calibration(
    folder: str | Path, calibration: Calibration, preferred: bool | None = None
) -> None:
    """Write the calibration for a model, and ``preferred``, into its decoder's configuration."""
    path = Path(folder) / CONFIG_FILE
    stated = read_json(path) | {"calibration": asdict(calibration)}
    if preferred is not None:
        stated["preferred"] = preferred
    write_json(path, stated)
