"""Captions are open_clip's own, token for token, in an environment where its `generate` works."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "coca.py"


@pytest.mark.slow
def test_greedy_and_beam_captions_are_open_clips(monkeypatch):
    """Makes the environment on the first call, about 2 GB of downloads; minutes."""
    monkeypatch.delenv("UNPROMPT_CACHE")  # the environment outlives the test
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "parity", "--threads", "1", "--models", "4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("16 of 16 captions equal, packed 16") == 9
