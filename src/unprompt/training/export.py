"""Export of trained models to ONNX with bank, calibration and decoder, to run without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unprompt.encoding import encode
from unprompt.errors import OutputError, TableError, UnpromptError
from unprompt.evaluating.evaluation import evaluate
from unprompt.evaluating.fit_calibration import calibrate, calibrate_bank
from unprompt.evaluating.metrics import cosines
from unprompt.models.bank.bank import Bank
from unprompt.models.decoder.decoder_onnx import export_decoder
from unprompt.models.decoder.network import DecoderModel
from unprompt.models.decoder.runtime import TextDecoder
from unprompt.models.decoder.tokenizer import load_tokenizer
from unprompt.models.embedder import Embedder
from unprompt.models.embedder_onnx import export_onnx
from unprompt.models.model_folder import DECODER_FOLDER, is_decoder
from unprompt.models.quantise import IMAGES
from unprompt.pairs.prompt_file import prompts_of
from unprompt.pairs.table import PairsTable, load
from unprompt.predicting.bank_or_decoder import bank_for
from unprompt.predicting.embedding_model import TorchModel
from unprompt.predicting.loading import load_model


@dataclass(frozen=True)
class Rounded:
    """The error of 8 bits, on the split ``val``.

    Attributes:
        cosine: mean cosine between the embeddings of the exported and the exact model.
        difference: score of the exported model minus score of the exact model.
    """

    cosine: float
    difference: float


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        folder: the folder that was written.
        bank: the bank that was written, beside an embedder.
        rounded: the error of 8 bits; None for an export in 16 or 32 bits.
        decoder: the decoder that was written.
    """

    folder: Path
    bank: Bank | None = None
    rounded: Rounded | None = None
    decoder: TextDecoder | None = None

    def __str__(self) -> str:
        lines = []
        if self.bank is not None:
            lines = [f"{self.folder}: the model, and a bank of {len(self.bank):,} prompts"]
        if self.rounded:
            lines.append(
                f"8 bits: mean cosine to the exact embeddings {self.rounded.cosine:.4f}, score "
                f"{self.rounded.difference:+.4f} on val"
            )
        if self.bank is not None and self.bank.calibration:
            lines.append(f"estimated cosine of an answer: {self.bank.calibration}")
        if self.decoder is not None:
            lines.append(f"{self.decoder.folder}: the decoder")
            if self.decoder.calibration:
                taken = "they answer" if self.decoder.preferred else "the bank answers better"
                lines.append(f"its texts measured on held-out pairs: {taken}")
        return "\n".join(lines)


def export(
    model: str | Path,
    folder: str | Path,
    prompts: str | Path | None = None,
    held_out: str | Path | None = None,
    half: bool = True,
    int8: bool | None = None,
) -> Exported:
    """Write an ONNX model with its bank, or a decoder beside an exported embedder.

    Args:
        model: folder or hub repository of a trained embedder, or folder of a trained decoder.
        folder: created if missing.
        prompts: file of prompts for the bank; the model's own bank by default.
        held_out: pairs table whose split ``val`` calibrates the bank's estimates.
        half: store the weights as float16.
        int8: store a decoder's matrices in 8 bits, which is its default; run an embedder's
            convolutions in 8 bits, with ranges measured on images of the split
            ``train`` of ``held_out``; see `unprompt.models.quantise`.

    Raises:
        ModelNotFoundError: there is no such model, or it has no bank and ``prompts`` is not given.
        TableError: ``prompts`` or ``held_out`` cannot be read.
        OutputError: the folder cannot be written, or is the model's own.
        UnpromptError: the backbone cannot run in 8 bits, or ``int8`` lacks ``held_out``.
    """
    if is_decoder(model):
        written = export_text_decoder(model, folder, held_out, int8 is not False)
        return Exported(Path(folder), decoder=written)
    if Path(model).resolve() == Path(folder).resolve():
        raise OutputError(
            f"{folder} is the model itself, and an export would overwrite its weights with "
            "rounded ones; name another folder"
        )
    if int8 and held_out is None:
        raise UnpromptError(
            "8 bits need images to measure ranges on; name a pairs table: --calibrate TABLE"
        )
    embedder = Embedder.from_pretrained(model)
    if prompts is None:
        bank = bank_for(load_model(model))
    else:
        lines = prompts_of(prompts)
        encoder = embedder.architecture.encoder
        bank = Bank.build(lines, encode(lines, encoder), encoder)
    pairs = None if held_out is None else load(held_out)
    # All checks come before this point, so that no half of a model is left.
    ranges = _images(embedder, pairs) if int8 and pairs is not None else None
    export_onnx(embedder, folder, half, ranges)
    rounded = None
    if pairs is not None:
        evaluation = evaluate(load_model(folder), pairs, "val")
        bank = bank.calibrated(calibrate_bank(bank, evaluation)[0])
        if int8:
            exact = evaluate(TorchModel(embedder, str(model), Path(model)), pairs, "val")
            rounded = Rounded(
                float(cosines(evaluation.predicted, exact.predicted).mean()),
                evaluation.model.overall.mean - exact.model.overall.mean,
            )
    bank.save(folder)
    return Exported(Path(folder), bank, rounded)


def _images(embedder: Embedder, pairs: PairsTable) -> np.ndarray:
    """Pixels of some images of the training split, as the embedder takes them."""
    known = pairs.of_split("train")
    chosen = np.random.default_rng(0).permutation(len(known))
    pixels: list[np.ndarray] = []
    for row in chosen:
        if len(pixels) == IMAGES:
            break
        try:
            image = known.open_image(int(row), embedder.preprocessing.least_side)
        except TableError:
            continue  # another image serves as well
        pixels.append(embedder.preprocessing(image))
    if not pixels:
        raise TableError(f"{pairs.name}: no image of its split 'train' can be decoded")
    return np.stack(pixels)


def export_text_decoder(
    model: str | Path,
    folder: str | Path,
    held_out: str | Path | None = None,
    int8: bool = True,
) -> TextDecoder:
    """Write a trained decoder as ONNX beside an exported embedder.

    Args:
        model: folder of a trained decoder.
        folder: of an exported embedder; gets ``decoder/``.
        held_out: pairs table whose split ``val`` calibrates the estimates of its texts, and decides
            whether the embedder prefers them to its bank's prompts.
        int8: weights in 8 bits.

    Returns:
        The decoder that was written.

    Raises:
        ModelNotFoundError: there is no such decoder, or ``held_out`` is named and ``folder`` holds
            no model.
        TableError: ``held_out`` cannot be read, or has too few pairs.
        OutputError: the folder cannot be written.
    """
    tokenizer = load_tokenizer(model)
    pairs = embedder = None
    if held_out is not None:  # check before anything is written
        pairs = load(held_out)
        embedder = load_model(folder)
        pairs.of_split("val")
    written = Path(folder) / DECODER_FOLDER
    export_decoder(DecoderModel.from_pretrained(model), tokenizer, written, int8)
    if pairs is not None:
        calibrate(folder, pairs, model=embedder)
    return TextDecoder(written)
