"""Load models of transformers without their report, but warn if weights are missing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def load_pretrained(model_class: Any, place: str | Path, **arguments: Any) -> Any:
    """Load a model of transformers.

    The report of transformers also lists weights of the file that are not needed, such as the whole
    second tower. Here only missing weights are reported.

    Args:
        model_class: class with a method ``from_pretrained``.
        place: folder or hub repository.
        arguments: arguments of ``from_pretrained``.

    Warns:
        UserWarning: weights are missing from the file, so they are random.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = model_class.from_pretrained(place, output_loading_info=True, **arguments)
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    if missing := sorted(report["missing_keys"]):
        warnings.warn(
            f"{place}: {len(missing)} weights are missing and are random now, for example "
            f"{missing[0]}; the model's answers may mean nothing",
            stacklevel=2,
        )
    return model
