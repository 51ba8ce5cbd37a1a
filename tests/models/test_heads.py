from __future__ import annotations

import pytest
import torch

from unprompt.errors import UnpromptError
from unprompt.models.heads import ClassesHead, HeadConfig, create_head

WIDTH, DIM = 6, 4


def test_heads_are_what_they_say():
    mlp = create_head(HeadConfig("mlp", hidden=5), WIDTH, DIM)
    kinds = [type(layer).__name__ for layer in mlp]
    assert kinds == ["Dropout", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    linear = create_head(HeadConfig(), WIDTH, DIM)
    assert [type(layer).__name__ for layer in linear] == ["Dropout", "Linear"]
    with pytest.raises(UnpromptError, match="head 'wide': must be linear, mlp or classes"):
        create_head(HeadConfig("wide"), WIDTH, DIM)


def test_a_sure_classifier_says_the_name_of_its_class():
    head = create_head(HeadConfig("classes", classes=3), WIDTH, DIM)
    assert isinstance(head, ClassesHead)
    features = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        head.classifier.weight.zero_()
        head.classifier.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
        head.linear.weight.zero_()
        head.linear.bias.fill_(0.25)
        expected = head.names.weight[:, 1] + 0.25
    torch.testing.assert_close(head(features), expected.expand(5, DIM))
    with torch.no_grad():  # an undecided one says the mean of all names
        head.classifier.bias.zero_()
        mean = head.names.weight.mean(dim=1)
    torch.testing.assert_close(head.content(features), mean.expand(5, DIM))


def test_dropout_leaves_the_classifier_alone():
    head = ClassesHead(HeadConfig("classes", classes=3, dropout=1.0), WIDTH, DIM).train()
    features = torch.ones(2, WIDTH)
    expected = head.content(features) + head.linear.bias
    torch.testing.assert_close(head(features), expected)


def test_a_memory_adds_to_the_unit_norm_sum():
    config = HeadConfig("classes", classes=3, landmarks=5)
    head = create_head(config, WIDTH, DIM).eval()
    features = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    general = head.content(features) + head.linear(features)
    expected = torch.nn.functional.normalize(general, dim=-1) + head.memory(features)
    torch.testing.assert_close(head(features), expected)
    with torch.no_grad():  # at a landmark the kernel is 1
        place = torch.nn.functional.normalize(head.memory.project(features), dim=-1)
        head.memory.landmarks.weight[:2] = place
        torch.testing.assert_close(head.memory.kernel(features)[:, :2].diag(), torch.ones(2))
