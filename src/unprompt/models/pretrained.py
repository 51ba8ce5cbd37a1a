"""Loading transformers' models without their chatter, and without silence where weights lack."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def load_pretrained(kind: Any, place: str | Path, **arguments: Any) -> Any:
    """Load a model of transformers.

    Its report lists every weight of the file that is not wanted, which for one tower of two is the
    other tower; only what is missing is told here.

    Args:
        kind: the class, with ``from_pretrained``.
        place: folder or hub repository.
        arguments: of ``from_pretrained``.

    Warns:
        UserWarning: the file lacks weights, which are random then.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, report = kind.from_pretrained(place, output_loading_info=True, **arguments)
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    if missing := sorted(report["missing_keys"]):
        warnings.warn(
            f"{place}: {len(missing)} weights are missing and random now, {missing[0]} for one; "
            "its answers mean nothing if that is part of what answers",
            stacklevel=2,
        )
    return model
