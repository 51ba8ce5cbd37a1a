"""How many cells an index gets."""

import pytest

from unprompt.faiss_cells import cells_for


@pytest.mark.parametrize(
    ("rows", "cells"),
    [(0, 1), (1, 1), (77, 1), (78, 2), (10_000, 256), (1_000_000, 4000), (10**9, 65_536)],
)
def test_cells_grow_with_the_root_of_the_rows_as_far_as_they_can_be_trained(rows, cells):
    assert cells_for(rows) == cells
