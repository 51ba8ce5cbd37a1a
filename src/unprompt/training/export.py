"""From a trained model to a folder that answers without torch: graph, bank, decoder, estimates."""

from __future__ import annotations

from pathlib import Path

from unprompt.encoding import encode
from unprompt.errors import OutputError
from unprompt.evaluating.calibration import calibrate, calibrate_decoder
from unprompt.evaluating.evaluation import evaluate
from unprompt.models.bank import Bank
from unprompt.models.decoder import DecoderModel
from unprompt.models.decoder_export import export_decoder
from unprompt.models.embedder import Embedder
from unprompt.models.export import export_onnx
from unprompt.models.tokenizer import load_tokenizer
from unprompt.pairs.table import load
from unprompt.pairs.text import read_lines
from unprompt.predicting.decoder import DECODER_FOLDER, TextDecoder, save_calibration
from unprompt.predicting.model import load_model
from unprompt.predicting.predictor import bank_for


def export(
    model: str | Path,
    folder: str | Path,
    prompts: str | Path | None = None,
    held_out: str | Path | None = None,
    half: bool = True,
    progress: bool = False,
) -> Bank:
    """Write an ONNX model with its bank.

    Args:
        model: folder or hub repository of a trained embedder.
        folder: made where missing.
        prompts: text file, one prompt a line, for the bank; the model's own bank otherwise.
        held_out: pairs table whose split ``val`` calibrates the bank's estimates.
        half: store the weights as float16.
        progress: show bars.

    Returns:
        The bank that was written.

    Raises:
        ModelNotFoundError: there is no such model, or it has no bank and none was named.
        TableError: ``prompts`` or ``held_out`` cannot be read.
        OutputError: the folder cannot be written, or is the model's own.
    """
    if Path(model).resolve() == Path(folder).resolve():
        raise OutputError(
            f"{folder} is the model itself, whose weights an export would overwrite with rounded "
            "ones; name another folder"
        )
    embedder = Embedder.from_pretrained(model)
    if prompts is None:
        bank = bank_for(load_model(model))
    else:
        lines = read_lines(prompts)
        encoder = embedder.architecture.encoder
        bank = Bank.build(lines, encode(lines, encoder, progress=progress), encoder)
    pairs = None if held_out is None else load(held_out)
    # Whatever can be refused has been by now, so that no half of a model is left.
    export_onnx(embedder, folder, half)
    if pairs is not None:
        bank, _ = calibrate(bank, evaluate(load_model(folder), pairs, "val"))
    bank.save(folder)
    return bank


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
    pairs = None if held_out is None else load(held_out)
    evaluation = None if pairs is None else evaluate(load_model(folder), pairs, "val")
    written = Path(folder) / DECODER_FOLDER
    export_decoder(DecoderModel.from_pretrained(model), tokenizer, written, int8)
    if evaluation is not None:
        line, cosines = calibrate_decoder(TextDecoder(written), evaluation)
        _, banked = calibrate(bank_for(load_model(folder)), evaluation)
        save_calibration(written, line, preferred=bool(cosines.mean() > banked.mean()))
    return TextDecoder(written)
