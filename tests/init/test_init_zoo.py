"""Networks as people have them, of torchvision, timm and transformers: `nox -s zoo` installs the packages; elsewhere these tests skip.

Every weight is initialized or kept with a reason, everything else is as it was, and five steps of training go well.
"""

import math
from importlib.util import find_spec

import pytest

pytest.importorskip("torch")

import torch
import zoo
from torch import nn
from zoo_data import CLASSES
from zoo_models import MODELS

from nc_fast.init.report import InitReport, KeptLayer, LayerReport, Signal

# The packages' own: transformers and timm use what torch has deprecated since.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

GROWTH = 1.5  # of the loss, at most; dropout makes it uneven


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_zoo(model):
    if find_spec(model.package) is None:
        pytest.skip(f"needs {model.package}")
    started = zoo.start(model)
    before, after = started.state
    assert [name for name in before if before[name] != after.get(name)] == []
    assert zoo.lost(started.network, started.report) == []
    assert [name for name in zoo.changed(started) if not zoo.initialized(name, started.report)] == []
    assert zoo.unchanged_layers(started) == []
    assert zoo.reached_all_the_same(started) == []
    losses = zoo.train(started)
    assert all(map(math.isfinite, losses))
    assert max(losses) < GROWTH * max(losses[0], math.log(CLASSES))


class Net(nn.Module):
    """Weights of its own, a layer, attention, and a layer that is called through its weight only."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 3, 4))
        self.scale = nn.Parameter(torch.ones(1, 1, 4))
        self.first = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.second = nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x + self.position) * self.scale
        return nn.functional.linear(self.attention(x, x, x)[0].mean(1), self.second.weight)


def report_of(initialized=(), kept=()):
    still = Signal(0.0, 1.0, 0.0)
    layers = tuple(LayerReport(name, "Linear", "relu", "drawn", None, 1, (0,), None, None, still, still, 0.0) for name in initialized)
    return InitReport(layers, tuple(KeptLayer(name, "Linear", reason) for name, reason in kept), None, 6, 2, 0.0)


def test_weights_that_a_report_does_not_mention_are_found():
    network = Net()
    every = [
        "position (1, 3, 4)",
        "first.weight (4, 4)",
        "attention.in_proj_weight (12, 4)",
        "attention.out_proj.weight (4, 4)",
        "second.weight (2, 4)",
    ]
    assert zoo.lost(network, report_of()) == every
    assert zoo.lost(network, report_of(["first"], [("second", "")])) == [every[0], *every[2:]]
    projections = [f"attention.{name}" for name in ("q", "k", "v", "out_proj")]
    assert zoo.lost(network, report_of(["first", *projections], [("position", "no layer"), ("second", "frozen")])) == []


def test_layers_that_did_not_change_or_are_reached_are_found():
    network = Net()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    report = report_of(["first", "attention.q"], [("second", zoo.UNREACHED), ("position", "no layer")])
    started = zoo.Start(network, before, ({}, {}), report, torch.ones(6, 3, 4), torch.arange(6) % 2)
    network.first.weight.data += 1
    assert zoo.changed(started) == ["first.weight"]
    assert zoo.unchanged_layers(started) == ["attention.q"]
    assert zoo.reached_all_the_same(started) == ["second.weight"]
    losses = zoo.train(started)
    assert len(losses) == zoo.STEPS + 1
    assert losses[-1] < losses[0]


def test_the_page():
    row = {
        "package": "timm",
        "name": "vit",
        "initialized": 2,
        "kept": {"why": {"Embedding": 3, "LSTM": 1}},
        "lost": [],
        "seconds": 0.1,
        "losses": [2.0, 1.0],
    }
    failed = {"package": "timm", "name": "odd", "error": "ValueError: X"}
    lines = zoo.page({"environment": zoo.environment(), "versions": {"timm": "1"}, "rows": [row, failed]}).splitlines()
    assert zoo.reasons(report_of(kept=[("a", "shared: a, b"), ("c", "shared: c, d"), ("e", "frozen")])) == {
        "shared": {"Linear": 2},
        "frozen": {"Linear": 1},
    }
    assert lines[-2:] == ["| timm vit | 2 | 3 Embedding, 1 LSTM: why | 0.10 | 2.00 | 1.00 |", "| timm odd | | ValueError: X | | | |"]
