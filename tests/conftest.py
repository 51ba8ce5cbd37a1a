"""Fixtures of every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


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
