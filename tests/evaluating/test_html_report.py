from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from tests.evaluating.conftest import EVIL
from unprompt.errors import OutputError
from unprompt.evaluating.evaluation import evaluate, reference_of, with_text_scores
from unprompt.evaluating.html_report import write_report
from unprompt.evaluating.metrics import Bin
from unprompt.evaluating.text_report import summary_lines
from unprompt.predicting.predictor import Predictor


class Page(HTMLParser):
    """Tags, texts and pictures of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, text):
        self.texts.append(text)


@pytest.fixture(scope="module")
def evaluation(model, model_folder, table_file):
    from unprompt.pairs.table import load

    table = load(table_file)
    plain = evaluate(model, table, "test", reference_of(model, table.of_split("train")))
    return with_text_scores(plain, Predictor(model_folder, route="embed", device="cpu"))


def test_the_page_holds_scores_pictures_and_prompts(tmp_path, evaluation):
    path = tmp_path / "new" / "report.html"
    write_report(evaluation, path, images=2)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    sources = [value for name, value in page.attributes if name == "src"]
    assert len(sources) == page.tags.count("img") == 6
    for source in sources:
        assert source.startswith("data:image/jpeg;base64,")
        picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert max(picture.size) <= 224
    text = "\n".join(page.texts)
    for result in (evaluation.model, *evaluation.baselines):
        assert result.name in text
        assert f"{result.overall.mean:.3f}" in text
    best = evaluation.model.values.argmax()
    assert evaluation.pairs.prompts[best] in text
    assert f"{evaluation.model.values[best]:.3f}" in text
    assert "[/b]one" in text


def test_prompts_cannot_break_out_of_the_page(tmp_path, evaluation):
    named = replace(evaluation, table=EVIL, failures=[EVIL])
    write_report(named, tmp_path / "report.html", images=12)
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in content
    page = Page(content)
    # As prompt, in the title twice, and among the failures; perhaps as an answer too.
    assert sum(EVIL in text for text in page.texts) >= 4
    assert page.tags.count("img") == 12


def test_the_page_needs_nothing_else(tmp_path, evaluation):
    write_report(evaluation, tmp_path / "report.html")
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(content)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    addresses = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith("data:") for value in addresses)
    assert not re.search(r"https?://|@import|url\(", content)


def test_pages_of_few_pairs(tmp_path, evaluation, model, table):
    one = evaluate(model, table.take([0]), None)
    write_report(one, tmp_path / "one.html", images=8)
    page = Page((tmp_path / "one.html").read_text(encoding="utf-8"))
    assert page.tags.count("img") == 1
    assert "all pairs" in "".join(page.texts)
    # One source and one length would only say again what all pairs have.
    assert page.tags.count("tr") == 2


def test_a_page_that_cannot_be_written(tmp_path, evaluation):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_report(evaluation, tmp_path / "file" / "report.html", images=1)


def test_the_page_shows_what_estimated_scores_are_worth(tmp_path, evaluation):
    bins = [Bin(0.3, 0.35, 10), Bin(0.5, 0.4, 12)]
    texts = replace(evaluation.text_scores, reliability=bins)
    write_report(replace(evaluation, text_scores=texts), tmp_path / "report.html", images=1)
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(content)
    assert page.tags.count("circle") == 2
    assert "estimated 0.500, actual 0.400, 12 answers" in page.texts
    assert "0.100 from the diagonal" in content
    assert texts.texts[evaluation.model.values.argmax()] in "".join(page.texts)
    for line in summary_lines(evaluation):
        assert line in page.texts
