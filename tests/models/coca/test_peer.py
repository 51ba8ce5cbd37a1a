"""Captions are open_clip's own, token for token.

Its `generate` works only in an environment of its own, so that its captions are recorded:
``python tests/models/coca/open_clip_peer.py`` makes the environment and writes them again.
"""

import json
import subprocess
import sys

import pytest

from tests.models.coca import open_clip_peer
from tests.models.coca.open_clip_peer import EXACT, IMAGES, RECORD, compared


@pytest.mark.parametrize("packed", [False, True])
def test_greedy_and_beam_captions_are_open_clips(packed):
    record = json.loads(RECORD.read_text())
    results = list(compared(record, packed))
    assert [case for case, *_ in results] == EXACT * record["models"]
    assert {equal for _, equal, _ in results} == {IMAGES}
    assert min(distinct for *_, distinct in results) > 1  # captions that all agree show little


@pytest.mark.slow
def test_the_record_is_what_open_clip_writes(monkeypatch, tmp_path):
    """Makes the environment on the first call, about 2 GB of downloads; minutes."""
    monkeypatch.delenv("UNPROMPT_CACHE")  # the environment outlives the test
    file = tmp_path / "record.json"
    command = [sys.executable, open_clip_peer.__file__, "--threads", "1", "--output", str(file)]
    subprocess.run(command, check=True)
    assert json.loads(file.read_text()) == json.loads(RECORD.read_text())
