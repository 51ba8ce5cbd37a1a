"""What says a model's embeddings in words: the bank and the decoder that belong to it."""

from __future__ import annotations

from pathlib import Path

from unprompt.errors import UnpromptError
from unprompt.models.bank.bank import BANK_FOLDER, Bank
from unprompt.models.decoder.runtime import TextDecoder
from unprompt.predicting.embedding_model import BUILTIN, EmbeddingModel, builtin_folder
from unprompt.predicting.ensemble_model import EnsembleModel


def decoder_for(model: EmbeddingModel) -> TextDecoder | None:
    """The decoder beside the model, or the built-in one where it reads the same embeddings."""
    own = TextDecoder.of(model.folder)
    decoder = own or TextDecoder.of(builtin_folder())
    if decoder is None or decoder.encoder != model.encoder:
        return None
    if own is None or _borrows(model):
        # What its texts are worth was measured beside another model.
        decoder.calibration, decoder.preferred = None, False
    return decoder


def bank_for(model: EmbeddingModel, stated: str | Path | None = None) -> Bank:
    """The bank that was named, or the model's own, or the built-in one.

    Raises:
        ModelNotFoundError: no bank stands where one was named.
        UnpromptError: the bank's embeddings are of another encoder than the model's.
    """
    if stated is not None:
        bank = Bank.load(builtin_folder() if str(stated) == BUILTIN else stated)
    else:
        has_one = (Path(model.folder) / BANK_FOLDER).is_dir()
        bank = Bank.load(model.folder if has_one else builtin_folder())
        if not has_one or _borrows(model):
            # How far its prompts are from the truth was measured for another model.
            bank.calibration = None
    if bank.encoder != model.encoder:
        raise UnpromptError(
            f"model {model.name} predicts embeddings of {model.encoder}, but its bank holds those "
            f"of {bank.encoder}; name a bank that fits"
        )
    return bank


def _borrows(model: EmbeddingModel) -> bool:
    """Whether what stands in its folder was made for one of its models."""
    return isinstance(model, EnsembleModel) and model.borrows
