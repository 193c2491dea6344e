"""Labels and items that are not what is expected: one error that names the batch, and says what to write."""

import re

import pytest

pytest.importorskip("torch")

import torch
from init_cases import net
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from nc_fast.init import campaign_

X, y = torch.randn(48, 6, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3
images, pixels = torch.randn(12, 3, 8, 8), torch.arange(12 * 64).reshape(12, 8, 8) % 2


def segmenter():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))


def tagger():
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        (segmenter, (images, functional.one_hot(pixels).movedim(-1, 1)), "y.argmax(1)"),
        (segmenter, (images, functional.one_hot(pixels).movedim(-1, 1).bool()), "y.argmax(1)"),
        (tagger, (X.reshape(12, 4, 6), functional.one_hot(y.reshape(12, 4))), "y.argmax(-1)"),
        (segmenter, (images, pixels[:, None].float()), "labels of positions are integers: y.long()"),
        (segmenter, (images, images), "y.flatten(1)"),
        (net, (X, torch.stack([y, y + 1], 1)), "one task of several: y[:, 0]"),
        (net, [(X, (y, y > 0))], "batch 0: y: expected one label a sample, got 2 of them; say which: batch=lambda b: (b[0], b[1][0])"),
        (net, [(X, {"kind": y, "colour": y})], "batch=lambda b: (b[0], b[1]['kind'])"),
        (net, TensorDataset(X, y), "torch.utils.data.DataLoader makes batches"),
        (net, DataLoader(TensorDataset(X, y), batch_size=None), "batch 0: expected several samples and their labels"),
        (net, {"input": X, "label": y}, "[data]"),
        (net, DataLoader(TensorDataset(X, y), 8, collate_fn=list), "batch 0: expected (X, y), got 8 parts, the first a tuple"),
        (net, [(list(X), y)], "and 44 more and y (48,)"),
        (net, [{"image": X, "row": torch.arange(48), "label": y}], "called with one dict of ['image', 'row']"),
    ],
)
def test_what_is_not_understood_says_what_to_write(model, data, said):
    with pytest.raises((TypeError, ValueError, RuntimeError), match="^data: .*" + re.escape(said)):
        campaign_(model(), data)


def test_labels_of_positions_that_happen_to_sum_to_one_are_labels():
    boundary = functional.one_hot(torch.randint(8, (12, 8)), 8)  # one pixel of every row
    report = campaign_(segmenter(), (images, boundary))
    assert not report.kept
