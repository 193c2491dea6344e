"""Every weight of a model is initialized or kept with a reason: other kinds of layers, parameters without a layer, constant inputs."""

import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, seeded
from torch import nn
from torch.nn import functional

from nc_fast.init import campaign_


class Conv1D(nn.Module):
    """GPT-2's: a Linear whose weight is (in, out)."""

    def __init__(self, n_out, n_in, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out) * 0.02)
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x):
        z = x.reshape(-1, x.shape[-1]) @ self.weight
        return (z if self.bias is None else z + self.bias).view(*x.shape[:-1], -1)


class OutIn(Conv1D):
    """The same as nn.Linear, of another class."""

    def __init__(self, n_out, n_in, bias=True):
        super().__init__(n_out, n_in, bias)
        self.weight = nn.Parameter(self.weight.detach().T.contiguous())

    def forward(self, x):
        return functional.linear(x, self.weight, self.bias)


class Cast(nn.Linear):
    """A subclass that computes what its parent does (timm's casts within autocast)."""

    def forward(self, x):
        return functional.linear(x, self.weight.to(x.dtype), self.bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(6, 16), (8, 8)], ids=["oblong", "square"])
@pytest.mark.parametrize("kind", [Conv1D, OutIn, Cast])
def test_what_computes_the_same_as_linear_gets_the_same_neurons(kind, sizes, bias):
    n_in, n_hidden = sizes
    X, y = blobs(n_in)

    def build(layer):
        torch.manual_seed(0)
        if layer is Cast:
            return nn.Sequential(Cast(n_in, n_hidden, bias), nn.ReLU(), Cast(n_hidden, 3))
        if layer is nn.Linear:
            return nn.Sequential(nn.Linear(n_in, n_hidden, bias), nn.ReLU(), nn.Linear(n_hidden, 3))
        return nn.Sequential(layer(n_hidden, n_in, bias), nn.ReLU(), layer(3, n_hidden))

    plain, other = build(nn.Linear), build(kind)
    reports = [campaign_(model, (X, y), generator=seeded()) for model in (plain, other)]
    assert [layer.select for layer in reports[1].layers] == ["pursuit", "least_squares"]
    assert reports[1].layers[0].picks == reports[0].layers[0].picks
    assert reports[1].layers[0].kind == ("Linear" if kind is Cast else kind.__name__)
    torch.testing.assert_close(other(X), plain(X), rtol=1e-3, atol=1e-4)


class Gained(Conv1D):
    def forward(self, x):
        return 2 * super().forward(x)


class Flat(nn.Conv2d):
    """A convolution that makes pictures of rows first, which its class could not take."""

    def forward(self, x):
        return super().forward(x.reshape(len(x), 1, 2, -1)).flatten(1)


class Activated(Conv1D):
    def forward(self, x):
        return super().forward(x).relu()


class Tabled(Conv1D):
    """A table of rows, looked up."""

    def forward(self, x):
        return self.weight[(x[:, 0] > 0).long()] + self.bias


@pytest.mark.parametrize("kind", [Gained, Activated, Tabled])
def test_what_computes_more_than_linear_is_kept(kind):
    X, y = blobs(6)
    model = nn.Sequential(kind(8, 6), nn.Linear(8, 3))
    before = model[0].weight.detach().clone()
    report = campaign_(model, (X, y))
    assert [(layer.name, layer.reason) for layer in report.kept] == [
        ("0", f"{kind.__name__} has a forward of its own, which is not x W + b")
    ]
    assert torch.equal(model[0].weight, before)


class Everything(nn.Module):
    """Weights of every kind that no layer is made of."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.gru, self.cell = nn.Embedding(9, 6), nn.LSTM(6, 6), nn.GRU(6, 6, 2), nn.RNNCell(6, 6)
        self.pairs, self.up = nn.Bilinear(6, 6, 6), nn.ConvTranspose1d(6, 6, 1)
        self.experts = nn.Parameter(torch.randn(4, 6, 6) * 0.1)
        self.place = nn.Parameter(torch.randn(1, 5, 6) * 0.1)
        self.token, self.scale = nn.Parameter(torch.zeros(1, 1, 6)), nn.Parameter(torch.ones(6))
        self.inside, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, ids):
        x = (self.embed(ids) + self.place + self.token) * self.scale
        x = x + self.lstm(x)[0] + self.gru(x)[0] + self.cell(x.reshape(-1, 6)).view_as(x) + self.pairs(x, x)
        x = x + self.up(x.transpose(1, 2)).transpose(1, 2)
        x = x + torch.einsum("btd,edf->btf", x, self.experts)
        x = x + functional.linear(x, self.inside.weight, self.inside.bias)  # the module is never called
        return self.head(x.mean(1))


def test_every_matrix_is_initialized_or_kept_with_a_reason():
    generator = seeded()
    ids, y = torch.randint(9, (90, 5), generator=generator), torch.arange(90) % 3
    model = Everything()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = campaign_(model, (ids, y), generator=generator)
    reasons = {layer.name: layer.reason for layer in report.kept}
    assert [layer.name for layer in report.layers] == ["head"]
    assert set(reasons) == {"embed", "lstm", "gru", "cell", "pairs", "up", "experts", "place", "inside"}
    for name, words in {
        "embed": "tokens",
        "lstm": "state",
        "gru": "state",
        "cell": "state",
        "pairs": "two inputs",
        "experts": "a parameter of Everything, 4 x 6 x 6",
        "place": "1 x 5 x 6",
        "inside": "without calling it",
    }.items():
        assert words in reasons[name]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if not name.startswith("head"))


def test_a_convolution_that_its_class_could_not_compute_is_kept():
    X, y = blobs(6)
    report = campaign_(nn.Sequential(Flat(1, 4, (2, 1)), nn.ReLU(), nn.Linear(12, 3)), (X, y))
    assert [(layer.name, layer.reason) for layer in report.kept] == [("0", "Flat has a forward of its own, which is not x W + b")]


@pytest.mark.parametrize("base", [None, "data_pairs", "kaiming_normal"])
@pytest.mark.parametrize("select", ["pursuit", "campaign"])
def test_a_layer_whose_inputs_do_not_vary_ends_no_campaign(base, select):
    """As behind a branch that starts at zero."""
    X, y = blobs(2, 6, 6)

    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Parameter(torch.zeros(()))
            self.conv, self.fc, self.head = nn.Conv2d(2, 4, 3), nn.Linear(72, 8), nn.Linear(8, 3)

        def forward(self, x):
            inside = torch.relu(self.conv(self.gate * x))
            return self.head(torch.relu(self.fc(x.flatten(1))) + inside.mean((2, 3)).repeat(1, 2))

    model = Branch()
    report = campaign_(model, (X, y), base=base, select=select, head="least_squares", generator=seeded())
    assert [layer.name for layer in report.layers] == ["conv", "fc", "head"]
    assert "4 of its neurons say nothing about the data" in " ".join(report["conv"].notes)
    assert report["fc"].select == select
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert 0.1 < float(model.conv.weight.detach().std()) * 18**0.5 / 2**0.5 < 2  # as He draws it


def test_a_call_that_initialized_nothing_warns():
    X, y = torch.randint(9, (60, 4)), torch.arange(60) % 3
    model = nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.Linear(24, 3))
    model[2].requires_grad_(False)
    with pytest.warns(UserWarning, match=r"nothing was initialized.*2: frozen"):
        report = campaign_(model, (X, y))
    assert not report.layers
