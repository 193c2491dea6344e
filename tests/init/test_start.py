"""campaign_ with its defaults: networks start well ahead of He's draws, and the report says what was done."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, net, seeded
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from nc_fast.init import campaign_


def mlp(*widths):
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def cnn(*, norm=False, groups=1):
    middle = [nn.BatchNorm2d(8)] if norm else []
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, groups=groups, bias=not norm), *middle, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.outer, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        return self.head(x + self.outer(functional.relu(self.inner(x))))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x).mean(1))


class Returning(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = mlp(12, 16, 3), kind

    def forward(self, x):
        return self.kind(self.net(x))


PURSUED, DRAWN, HEAD = "pursuit", "drawn", "least_squares"
NETWORKS = {  # network, a sample's shape, how each layer is found
    "mlp": (lambda: mlp(12, 16, 16, 3), (12,), [PURSUED, PURSUED, HEAD]),
    "cnn": (cnn, (2, 4, 4), [PURSUED, HEAD]),
    "grouped cnn": (lambda: cnn(groups=2), (2, 4, 4), [PURSUED, HEAD]),
    "cnn with batchnorm": (lambda: cnn(norm=True), (2, 4, 4), [DRAWN, HEAD]),
    "residual": (Residual, (12,), [PURSUED, PURSUED, DRAWN, HEAD]),
    "transformer": (Transformer, (5, 8), [DRAWN, DRAWN, DRAWN, DRAWN, PURSUED, DRAWN, HEAD]),
    "bfloat16": (lambda: mlp(12, 16, 3).bfloat16(), (12,), [PURSUED, HEAD]),
    "log_softmax": (lambda: nn.Sequential(*mlp(12, 16, 3), nn.LogSoftmax(1)), (12,), [PURSUED, HEAD]),
    "returns a dict": (lambda: Returning(lambda z: {"logits": z, "hidden": None}), (12,), [PURSUED, HEAD]),
    "returns a tuple": (lambda: Returning(lambda z: (z, z.sum())), (12,), [PURSUED, HEAD]),
}


def he(model):
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def loss_and_accuracy(model, X, y):
    """As the first training step sees them."""
    with torch.no_grad():
        out = model.train()(X)
    logits = (out["logits"] if isinstance(out, dict) else out[0] if isinstance(out, tuple) else out).float()
    return float(functional.cross_entropy(logits, y)), float((logits.argmax(1) == y).float().mean())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_start_ahead_of_he(name):
    make, shape, selected = NETWORKS[name]
    X, y = blobs(*shape)
    torch.manual_seed(0)
    model = he(make())
    X = X.to(next(model.parameters()).dtype)
    he_loss, he_accuracy = loss_and_accuracy(deepcopy(model), X, y)  # a copy, for a BatchNorm that has seen a batch is no fresh one
    report = campaign_(model, (X, y), generator=seeded())
    loss, accuracy = loss_and_accuracy(model, X, y)
    assert loss < 0.75 * he_loss
    assert accuracy > max(0.75, he_accuracy + 0.2)
    assert [layer.select for layer in report.layers] == selected
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    for layer in report.layers:
        picked = layer.select == PURSUED
        assert layer.alpha is None
        assert layer.pool_score is None
        assert (layer.score is not None) == (layer.select != DRAWN)
        assert layer.score is None or 0 < layer.score <= 1
        assert len(set(layer.picks)) == len(layer.picks)
        assert (layer.pool > len(layer.picks) > 0) == picked
    assert report.head.name == report.layers[-1].name
    assert report.head.loss_after < report.head.loss_before
    assert 1 <= report.head.scale <= report.head.wanted
    assert report.head.sharpness <= report.head.limit or report.head.warnings
    plain = report.to_dict()
    assert plain["head"]["scale"] == report.head.scale
    assert f"head {report.head.name}: scale" in str(report)


def forms(X, y):
    loader = DataLoader(TensorDataset(X, y), batch_size=32, shuffle=True)
    dicts = [{"input": X[i : i + 30], "labels": y[i : i + 30]} for i in range(0, len(X), 30)]
    return {"loader": loader, "dict batches": dicts, "streamed": [(X[:50], y[:50]), (X[50:], y[50:])]}


@pytest.mark.parametrize("form", ["loader", "dict batches", "streamed"])
def test_data_in_any_form(form):
    X, y = blobs(6)
    model = net()
    report = campaign_(model, forms(X, y)[form], max_samples=None if form == "streamed" else 100, generator=seeded())
    assert loss_and_accuracy(model, X, y)[1] > 0.8
    assert (report.samples, report.classes) == (120 if form == "streamed" else 100, 3)


@pytest.mark.parametrize("T", [None, 2])
def test_float_targets(T):
    X, _ = blobs(6)
    targets = (X @ torch.randn(6, T or 1, generator=seeded())).tanh()
    y = targets[:, 0] if T is None else targets
    for data in ((X, y), DataLoader(TensorDataset(X, y), batch_size=32, shuffle=True), [(X[:60], y[:60]), (X[60:], y[60:])]):
        model = he(mlp(6, 16, T or 1))
        before = float(functional.mse_loss(model(X), targets).detach())
        report = campaign_(model, data, generator=seeded())
        after = float(functional.mse_loss(model(X), targets).detach())
        assert after < 0.5 * min(before, float(targets.var()))
        assert [layer.select for layer in report.layers] == [PURSUED, HEAD]
        assert (report.classes, report.head.classes, report.head.wanted) == (0, 0, 1)
        assert "120 samples, " in str(report)


def test_float_targets_are_not_for_campaigns_nor_streamed():
    X, _ = blobs(6)
    y = X[:, :3]
    for options in ({"select": "campaign"}, {"head": "campaign"}):
        with pytest.raises(TypeError, match="data: expected y as integer, boolean or string labels, got float32"):
            campaign_(net(), (X, y), **options)
    with pytest.raises(ValueError, match="max_samples: expected a number with float targets"):
        campaign_(net(), [(X, y)], max_samples=None)


def test_drawn_layers_are_drawn_afresh():
    X, y = blobs(12)
    torch.manual_seed(0)
    model = Residual()
    before = model.outer.weight.detach().clone()
    report = campaign_(model, (X, y), generator=seeded())
    drawn = report["outer"]
    assert (drawn.select, drawn.pool, drawn.picks, drawn.score) == ("drawn", 16, tuple(range(16)), None)
    assert not torch.isclose(model.outer.weight, before).any()
    std = float(model.outer.weight.detach().std())
    assert std == pytest.approx(16**-0.5, rel=0.2)  # no rectifier follows: gain 1, not He's sqrt(2)
    again = Residual()
    campaign_(again, (X, y), generator=seeded(1))
    assert not torch.isclose(model.outer.weight, again.outer.weight).any()


@pytest.mark.parametrize("name", ["inner", "outer", "head"])  # pursued, drawn, fitted without candidates
def test_given_candidates_are_pursued_in_any_layer(name):
    X, y = blobs(12)
    model = Residual()
    given, biases = torch.randn(40, 16, generator=seeded(3)), torch.randn(40, generator=seeded(4))
    report = campaign_(model, (X, y), candidates={name: (given, biases)}, generator=seeded())
    picks = list(report[name].picks)
    assert (report[name].select, report[name].pool) == ("pursuit", 40)
    assert torch.equal(getattr(model, name).weight, given[picks])
    assert torch.equal(getattr(model, name).bias, biases[picks])
    assert picks != list(range(len(picks)))
    assert (report.head is None) == (name == "head")


def test_bases():
    X, y = blobs(12)
    shapes = []

    def base(weight):
        shapes.append(tuple(weight.shape))
        return nn.init.orthogonal_(weight)

    model = mlp(12, 8, 3)
    report = campaign_(model, (X, y), base=base, generator=seeded())
    assert shapes == [(8, 12)] * 10
    assert report["0"].pool == 80
    pairs = mlp(12, 8, 3)
    assert campaign_(pairs, (X, y), base="data_pairs", generator=seeded())["0"].pool == 80
    differences = (X[:, None] - X[None]).flatten(0, 1)
    cosines = functional.cosine_similarity(pairs[0].weight.detach()[:, None], differences[None], dim=2)
    np.testing.assert_allclose(cosines.max(1).values, 1, atol=1e-5)  # every neuron is a difference of two samples


def test_a_pool_of_one_is_drawn():
    X, y = blobs(6)
    model = net()
    report = campaign_(model, (X, y), pool=1, generator=seeded())
    assert [layer.select for layer in report.layers] == ["drawn", "least_squares"]
    with torch.no_grad():
        np.testing.assert_allclose(model[0](X).mean(0), 0, atol=1e-5)
    assert loss_and_accuracy(model, X, y)[1] > 0.75


def test_bias_and_gain():
    X, y = blobs(6)
    weights = {}
    for options in ({}, {"gain": 0.5}, {"bias": "zeros"}, {"bias": 0.3}):
        model = net()
        campaign_(model, (X, y), generator=seeded(), pool=1, **options)
        weights[tuple(options.items())] = model[0]
    np.testing.assert_allclose(weights[("gain", 0.5),].weight.detach(), 0.5 * weights[()].weight.detach(), rtol=1e-6)
    assert weights[("bias", "zeros"),].bias.tolist() == [0] * 7
    np.testing.assert_allclose(weights[("bias", 0.3),].bias.detach(), 0.3)
    assert float(weights[()].bias.detach().abs().max()) > 0.01


def test_why_no_head_was_fitted_is_a_note():
    X, y = blobs(6)
    for model, why in ((net(classes=2), "it has 2 outputs for labels of 3 classes"), (nn.Sequential(*net(), nn.ReLU()), "not the model's")):
        report = campaign_(model, (X, y), generator=seeded())
        assert report.head is None
        assert report.layers[-1].select in ("drawn", "pursuit")
        assert any(note.startswith("no head was fitted") and why in note for note in report["2"].notes)


@pytest.mark.parametrize(
    ("options", "selected"),
    [
        ({"select": "campaign"}, ["campaign", "campaign"]),
        ({"select": "campaign", "head": "least_squares"}, ["campaign", "least_squares"]),
        ({"head": "campaign"}, ["pursuit", "campaign"]),
        ({"layers": ["0"]}, ["pursuit"]),
        ({"layers": ["2"]}, ["least_squares"]),
    ],
)
def test_select_and_head(options, selected):
    X, y = blobs(6)
    report = campaign_(net(), (X, y), generator=seeded(), **options)
    assert [layer.select for layer in report.layers] == selected
    assert (report.head is not None) == (selected[-1] == "least_squares")
