"""Top-p keeps the tokens that transformers' own warper keeps; draws follow the softmax."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TopPLogitsWarper

from unprompt.models.coca.token_sampling import NucleusWarper, sample_tokens


@settings(max_examples=150)
@given(
    vocabulary=st.integers(1, 3000),
    top_p=st.floats(0, 1),
    least=st.integers(1, 4),
    spread=st.floats(0, 8),
    suppressed=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_the_same_tokens_are_kept(vocabulary, top_p, least, spread, suppressed, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, vocabulary, generator=generator) * spread
    scores[:, : vocabulary // 3 * suppressed] = -torch.inf
    least = min(least, vocabulary)
    theirs = TopPLogitsWarper(top_p, min_tokens_to_keep=least)(None, scores)
    ours = NucleusWarper(top_p, min_tokens_to_keep=least)(None, scores)
    distinct = all(len(row[row.isfinite()].unique()) == row.isfinite().sum() for row in scores)
    if distinct:
        assert torch.equal(ours, theirs)
    # Of tokens that tie exactly the library keeps any; as many are kept in all.
    assert torch.equal(ours.sort()[0], theirs.sort()[0])
    assert ((ours == scores) | (ours == -torch.inf)).all()


@settings(max_examples=60)
@given(
    levels=st.integers(1, 6),
    vocabulary=st.integers(1, 400),
    top_p=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
def test_ties_are_broken_as_a_stable_sort_does(levels, vocabulary, top_p, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (2, vocabulary), generator=generator).float()
    ours = NucleusWarper(top_p)(None, scores)
    ranked, order = scores.sort(stable=True)
    falls = ranked.softmax(-1).cumsum(-1) <= 1 - top_p
    falls[:, -1] = False
    expected = scores.masked_fill(falls.scatter(1, order, falls), -torch.inf)
    assert torch.equal(ours, expected)
    assert torch.equal(TopPLogitsWarper(top_p)(None, scores).sort()[0], ours.sort()[0])


def test_other_numbers_than_fp32_are_left_to_the_library():
    scores = torch.randn(2, 50, dtype=torch.float64)
    assert torch.equal(NucleusWarper(0.5)(None, scores), TopPLogitsWarper(0.5)(None, scores))


def test_generate_uses_it(model, pixels, monkeypatch):
    """And what it writes is what the library's warper writes."""
    search = {"do_sample": True, "top_p": 0.7, "top_k": 0, "max_length": 12}
    torch.manual_seed(0)
    ours = model.generate(pixels, **search)
    calls = []
    library = TopPLogitsWarper.__call__
    monkeypatch.setattr(
        NucleusWarper, "__call__", lambda *given: calls.append(1) or library(*given)
    )
    torch.manual_seed(0)
    assert torch.equal(model.generate(pixels, **search), ours)
    assert len(calls) == 11


@settings(max_examples=10)
@given(
    vocabulary=st.integers(2, 40),
    spread=st.floats(0, 6),
    top_p=st.floats(0.3, 1),
    seed=st.integers(0, 2**16),
)
def test_draws_are_as_frequent_as_the_softmax_says(vocabulary, spread, top_p, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(1, vocabulary, generator=generator) * spread
    scores = NucleusWarper(top_p)(None, scores)
    chances, draws = scores[0].softmax(0).double(), 20_000
    torch.manual_seed(seed)
    counts = sample_tokens(scores.expand(draws, -1)).bincount(minlength=vocabulary)
    assert not counts[chances == 0].any()
    deviation = (draws * chances * (1 - chances)).sqrt()
    assert ((counts - draws * chances).abs() <= 6 * deviation + 1).all()


def test_rows_are_drawn_for_themselves_and_by_the_seed():
    scores = torch.full((3, 5), -torch.inf)
    scores[[0, 1, 2], [4, 0, 2]] = torch.tensor([-900.0, 0.0, 900.0])
    assert sample_tokens(scores).tolist() == [4, 0, 2]
    scores = torch.zeros(2, 1000)
    torch.manual_seed(1)
    first, second = sample_tokens(scores), sample_tokens(scores)
    assert first[0] != first[1]
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(sample_tokens(scores), first)


def test_where_nothing_can_follow_is_said():
    for nothing in (-torch.inf, torch.nan):
        with pytest.raises(ValueError, match="no token can follow"):
            sample_tokens(torch.tensor([[0.0, 1.0], [nothing, nothing]]))
