from __future__ import annotations

import html
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.curating.dedup.test_deduplication import clusters
from unprompt.curating.dedup.dedup_report import nearest_cosines, write_report
from unprompt.curating.dedup.deduplication import deduplicate
from unprompt.errors import UnpromptError


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found.append(tag)


def test_the_page_shows_counts_curve_and_groups(tmp_path):
    rows = clusters(0, 300, 24, 0.2)
    prompts = [f"prompt number {k}" for k in range(300)]
    found = deduplicate(rows, 0.7, prompts=prompts).rethreshold(0.9)
    write_report(found, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert f"<th>kept</th><td>{len(found.kept):,}</td>" in page
    for threshold in (0.7, 0.8, 0.9):
        kept = len(found.rethreshold(threshold).kept)
        assert f"<td>{threshold:.2f}</td><td>{kept:,}</td><td>{300 - kept:,}</td>" in page
    assert page.count("<rect") == 50
    largest = found.groups[0]
    assert f"{len(largest):,} rows: <bdi>{prompts[largest[0]]}" in page
    assert 'class="kept"' in page


def test_prompts_are_escaped(tmp_path):
    evil = '<script>alert("x")</script> & <img src=x onerror=alert(1)>'
    prompts = [evil, evil + " 2", "plain"]
    write_report(
        deduplicate(np.array([[1, 0], [1, 0.01], [0, 1]]), 0.9, prompts=prompts),
        tmp_path / "r.html",
    )
    page = (tmp_path / "r.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert not {"script", "img"} & {*tags.found}
    assert html.escape(evil) in page


def test_a_long_prompt_is_cut_and_a_reversing_one_contained(tmp_path):
    prompts = ["a" * 5000, "a" * 5000 + "b", "\u202eright to left"]
    found = deduplicate(np.array([[1, 0], [1, 0.01], [1, 0.02]]), 0.9, prompts=prompts)
    write_report(found, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "a" * 601 not in page
    assert "a" * 600 + "…" in page
    assert "<bdi>\u202eright to left</bdi>" in page


def test_nearest_cosines_are_the_highest_of_each_row():
    found = deduplicate(clusters(1, 120, 16, 0.4), 0.9)
    cosine = found.items.vectors @ found.items.vectors.T
    np.fill_diagonal(cosine, -1)
    assert nearest_cosines(found) == pytest.approx(cosine.max(1), abs=1e-6)
    assert len(nearest_cosines(found, sample=10)) == 10


def test_little_to_show_is_shown(tmp_path):
    write_report(deduplicate(np.eye(1), 0.9, prompts=["one"]), tmp_path / "r.html")
    assert "No two prompts are near-duplicates" in (tmp_path / "r.html").read_text()
    with pytest.raises(UnpromptError, match="prompts="):
        write_report(deduplicate(np.eye(2), 0.9), tmp_path / "r.html")


def test_nearest_cosines_look_at_every_row_of_a_long_table():
    rows = np.random.default_rng(2).normal(size=(4200, 32))
    rows[4150] = rows[0] + 0.1 * rows[1]
    found = deduplicate(rows, 0.999)
    vectors = found.items.vectors
    assert nearest_cosines(found, sample=5)[0] == pytest.approx(vectors[0] @ vectors[4150])
