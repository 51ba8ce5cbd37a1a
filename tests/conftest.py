"""Fixtures of every test, and the same surroundings for all of them, wherever they run."""

import os

# Of every worker and every process that a test starts: read as the libraries load. The workers of
# pytest-xdist fill the cores, and sums differ in the last bit with the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).parents[1]

# Containers often forbid Python to keep what it compiles. A hundred processes of the tests import
# torch, transformers or pyarrow, and would compile thousands of files each: a third of all time.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.pycache_prefix = str(REPOSITORY / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

# What makes rich and typer colour, wrap or draw for another terminal than the one that is there.
for _name in (
    *("CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "GITHUB_ACTIONS"),
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
):
    os.environ.pop(_name, None)

# Ignored by whatever a shell without job control starts in the background, and by its children:
# there Ctrl-C could end no command that a test runs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, however slow the machine; other ones are drawn, and failures
# remembered, by `pytest --hypothesis-profile explore`.
settings.register_profile(
    "same",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real pairs, prompts, weights and metadata beside the repository."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each run of the tests has a cache of its own, shared between its tests and fixtures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNPROMPT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
