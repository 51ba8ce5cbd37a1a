"""The errors that unprompt raises on purpose.

Every message says what was wrong, where (file, row, key) and what to do about it.
"""

from importlib.util import find_spec


class UnpromptError(Exception):
    """Base class of every error that unprompt raises on purpose.

    Attributes:
        exit_code: exit code of the command line when this error ends it.
    """

    exit_code = 2


class UnreadableImageError(UnpromptError):
    """An image is missing, empty, damaged, too large, or its format is not supported."""


class TableError(UnpromptError):
    """A pairs table breaks its schema or names images that do not exist."""


class OutputError(UnpromptError):
    """A result could not be written; an older file at its path is unchanged."""


class RecipeError(UnpromptError):
    """A training recipe has an unknown key, a value of a wrong type, or contradicting values."""


class TrainingError(UnpromptError):
    """A training run cannot continue; its last checkpoint is complete."""

    exit_code = 1


class StoppedError(TrainingError):
    """A signal stopped a training run after it saved a checkpoint.

    Attributes:
        step: the last completed step.
    """

    def __init__(self, number: int, step: int):
        self.step = step
        # Shells use this exit code for a process that was ended by a signal.
        self.exit_code = 128 + number
        super().__init__(
            f"stopped after step {step}; a checkpoint was saved, run the same command to continue"
        )


class ModelNotFoundError(UnpromptError):
    """A model or an encoder is not on disk and cannot be downloaded."""


class MissingExtraError(UnpromptError):
    """A feature needs a library of an optional extra that is not installed."""

    def __init__(self, library: str, extra: str):
        super().__init__(
            f"this needs {library}, which is not installed; run: pip install 'unprompt[{extra}]'"
        )


def need(extra: str, *libraries: str) -> None:
    """Check that the libraries of an extra are installed, without importing them.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    for library in libraries:
        if find_spec(library) is None:
            raise MissingExtraError(library, extra)
