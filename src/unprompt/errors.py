"""The errors that unprompt raises on purpose.

Every message says what was wrong, where (file, row, key) and what to do about it.
"""

from importlib.util import find_spec


class UnpromptError(Exception):
    """Base class of every error that unprompt raises on purpose.

    Attributes:
        exit_code: of the command line that meets it.
    """

    exit_code = 2


class UnreadableImageError(UnpromptError):
    """An image is missing, empty, damaged, too large or of no supported format."""


class TableError(UnpromptError):
    """A pairs table breaks its schema or points at images that are not there."""


class OutputError(UnpromptError):
    """A result could not be written; whatever stood there before is untouched."""


class RecipeError(UnpromptError):
    """A training recipe has an unknown key, a wrong type or values that exclude each other."""


class TrainingError(UnpromptError):
    """A training run cannot go on; its last checkpoint is intact."""

    exit_code = 1


class StoppedError(TrainingError):
    """A signal stopped a training run, which saved a checkpoint first.

    Attributes:
        step: the last step that was taken.
    """

    def __init__(self, number: int, step: int):
        self.step = step
        # As shells count the end of a process by a signal.
        self.exit_code = 128 + number
        super().__init__(
            f"stopped after step {step} and its checkpoint; the same command goes on from there"
        )


class ModelNotFoundError(UnpromptError):
    """A model or an encoder is neither on disk nor can it be downloaded."""


class MissingExtraError(UnpromptError):
    """A feature needs a library of an extra that is not installed."""

    def __init__(self, library: str, extra: str):
        super().__init__(
            f"this needs {library}, which is not installed; run: pip install 'unprompt[{extra}]'"
        )


def need(extra: str, *libraries: str) -> None:
    """Check that the libraries of an extra are installed, without importing them.

    Raises:
        MissingExtraError: one is not.
    """
    for library in libraries:
        if find_spec(library) is None:
            raise MissingExtraError(library, extra)
