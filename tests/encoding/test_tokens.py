"""Batches hold every prompt once, without padding."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unprompt.encoding import EncoderError, load_encoder
from unprompt.encoding.tokens import batches


@given(
    lengths=st.lists(st.integers(1, 40), max_size=60),
    max_rows=st.integers(1, 10),
    max_tokens=st.integers(1, 100),
)
def test_batches_hold_each_prompt_once_longest_first(
    lengths: list[int], max_rows: int, max_tokens: int
):
    ids = [[1000 * row + place for place in range(n)] for row, n in enumerate(lengths)]
    done = list(batches(ids, max_rows, max_tokens))
    assert sorted(row for batch in done for row in batch.rows) == list(range(len(ids)))
    for batch in done:
        assert batch.ids.dtype == np.int64
        assert batch.ids.tolist() == [ids[row] for row in batch.rows]
        assert len(batch.rows) <= max_rows
        assert len(batch.rows) == 1 or batch.ids.size <= max_tokens
    widths = [batch.ids.shape[1] for batch in done]
    assert all(first >= second for first, second in pairwise(widths))


def test_damaged_tokenizer(own_folder: Path):
    (own_folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(EncoderError, match=r"tokenizer\.json: cannot be read"):
        load_encoder(str(own_folder), "onnx").encode(["a cat"])
