"""The losses are open_clip's, without its faults."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import CoCaLoss

from tests.models.coca.conftest import EOS, open_clip_model, our_model, texts
from unprompt.models.coca.losses import IGNORED, caption_loss, next_tokens
from unprompt.models.coca.open_clip import load_open_clip, to_open_clip
from unprompt.models.coca.towers import TextTower


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("caption", "contrastive"), [(1.0, 0.0), (2.0, 1.0), (0.5, 0.1)])
@pytest.mark.parametrize("lengths", [[16, 9, 4, 2], [7, 7, 5, 3]])
def test_losses_and_gradients_are_open_clips(caption, contrastive, lengths):
    """Open_clip pads to its whole context, we to the batch's longest: the numbers agree."""
    theirs = open_clip_model(0)
    ours = our_model()
    load_open_clip(ours, theirs.state_dict())
    ours.config.update({"caption_weight": caption, "contrastive_weight": contrastive})
    pixels, padded = torch.randn(4, 3, 32, 32), texts(lengths, longest=16)

    output = theirs(pixels, padded)
    scale = output.pop("logit_scale")
    clip, text = CoCaLoss(caption, contrastive)(**output, logit_scale=scale)
    (clip + text).backward()

    ids = padded[:, : max(lengths)]
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    result = ours(ids, pixels, mask, labels=ids)
    result.loss.backward()
    torch.testing.assert_close(result.loss, clip + text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(caption * result.caption_loss, text, atol=1e-5, rtol=1e-5)
    if contrastive:
        torch.testing.assert_close(
            contrastive * result.contrastive_loss, clip, atol=1e-5, rtol=1e-5
        )

    # The gradients too, in open_clip's layout.
    expected = gradients(theirs)
    for parameter in ours.parameters():
        grad = parameter.grad
        parameter.data = torch.zeros_like(parameter) if grad is None else grad
    for key, value in to_open_clip(ours).items():
        reference = expected.get(key, torch.zeros_like(value))
        torch.testing.assert_close(value, reference, atol=2e-5, rtol=1e-3)


@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=4),
    extra=st.integers(0, 4),
    pad=st.integers(0, 93),
    contrastive=st.booleans(),
)
def test_padding_changes_neither_loss_nor_gradient(lengths, extra, pad, contrastive):
    torch.manual_seed(0)
    model = our_model()
    model.config.contrastive_weight = float(contrastive)
    pixels = torch.randn(len(lengths), 3, 32, 32)
    results = []
    for longest, token in ((max(lengths), 0), (max(lengths) + extra, pad)):
        ids = texts(lengths, longest=longest)
        mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
        ids = torch.where(mask.bool(), ids, token)
        model.zero_grad()
        loss = model(ids, pixels, mask, labels=ids).loss
        loss.backward()
        results.append((loss, {k: v.clone() for k, v in gradients(model).items()}))
    (loss, grads), (padded_loss, padded_grads) = results
    torch.testing.assert_close(padded_loss, loss, atol=1e-6, rtol=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(padded_grads[name], grad, atol=3e-5, rtol=1e-4)


def test_labels_are_shifted_once():
    """A head that foresees the next token exactly has no loss; any other shift has."""
    ids = torch.tensor([[5, 1, 4, 2, 6]])
    states = torch.nn.functional.one_hot(ids.roll(-1, dims=1), 8).float() * 50
    head = torch.nn.Identity()
    assert caption_loss(states, head, next_tokens(ids)).item() < 1e-6
    for shift in (-1, 1):
        assert caption_loss(states.roll(shift, dims=1), head, next_tokens(ids)).item() > 10


def test_what_is_ignored_does_not_count():
    torch.manual_seed(0)
    states, head = torch.randn(2, 5, 4), torch.nn.Linear(4, 8)
    labels = torch.tensor([[1, 2, 3, IGNORED, IGNORED], [1, 5, IGNORED, 7, IGNORED]])
    logits = head(states)
    expected = torch.stack(
        [
            torch.nn.functional.cross_entropy(logits[row, t], labels[row, t + 1])
            for row, t in ((0, 0), (0, 1), (1, 0), (1, 2))
        ]
    )
    targets = next_tokens(labels)
    torch.testing.assert_close(caption_loss(states, head, targets), expected.mean())
    nothing = torch.full_like(targets, IGNORED)
    assert caption_loss(states, head, nothing).item() == 0


def test_at_weight_0_the_contrastive_branch_is_not_computed(model, pixels, monkeypatch):
    def refuse(*_):
        raise AssertionError("the contrastive branch was computed")

    monkeypatch.setattr(TextTower, "with_class", refuse)
    ids = texts([5, 6, 7])
    model(ids, pixels, labels=ids).loss.backward()
    assert model.model.text.class_embedding.grad is None
    assert model.model.text.projection.weight.grad is None
    assert model.model.image.projection.weight.grad is None
    assert model.model.logit_scale.grad is None
    model.config.contrastive_weight = 1.0
    with pytest.raises(AssertionError, match="was computed"):
        model(ids, pixels, labels=ids)


def test_the_filler_is_an_ordinary_token_inside_a_text(model, pixels):
    """Open_clip takes every token 0, a '!' inside a word, for padding; here it is read."""
    ids = texts([8, 8, 8])
    ids[:, 4] = 0
    other = ids.clone()
    other[:, 4] = 7
    with torch.no_grad():
        assert not torch.allclose(
            model(ids, pixels).logits[:, 5:], model(other, pixels).logits[:, 5:]
        )
        loss, changed = (model(x, pixels, labels=x).loss for x in (ids, other))
        features = [model.model.get_text_features(x) for x in (ids, other)]
    assert loss != changed
    assert not torch.allclose(*features)
    padded = torch.nn.functional.pad(ids, (0, 3))
    torch.testing.assert_close(model.model.get_text_features(padded), features[0])


def test_a_text_ends_with_its_end_token_whatever_pads_it(model):
    ids = texts([5, 9, 3], longest=12)
    torch.testing.assert_close(
        model.model.get_text_features(torch.where(ids == 0, EOS, ids)),
        model.model.get_text_features(ids),
    )


def test_the_contrastive_branch_needs_images(model):
    with pytest.raises(ValueError, match="contrastive branch needs"):
        model.model(texts([4]), contrastive=True)
