"""Data for the tests of nc_fast.init."""

from contextlib import contextmanager
from functools import cache

import pytest

pytest.importorskip("sklearn")

import torch
from sklearn.datasets import load_digits
from torch import nn

from nc_fast.init import campaign_


@cache
def images():
    """The 8 x 8 digits: (N, 1, 8, 8) in [0, 1] and labels."""
    X, y = load_digits(return_X_y=True)
    return torch.from_numpy(X).float().reshape(-1, 1, 8, 8) / 16, torch.from_numpy(y)


def blobs(*shape, n=120):
    """Three classes around different corners: (n, *shape) and labels."""
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(n) % 3
    size = torch.Size(shape).numel()
    X = torch.randn(n, size, generator=generator) + 2 * torch.randn(3, size, generator=generator)[y]
    return X.reshape(n, *shape), y


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def paper(model, data, **rules):
    """The paper's campaign, in every layer."""
    return campaign_(model, data, select="campaign", **rules)


def net(classes=3, bias=True):
    return nn.Sequential(nn.Linear(6, 7, bias=bias), nn.ReLU(), nn.Linear(7, classes))


class Follow(nn.Module):
    """A function between two layers."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


@contextmanager
def one_torch_thread():
    """Small networks train fastest on one thread, by far when other processes are at work."""
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(found)
