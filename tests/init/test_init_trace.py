"""What a forward pass shows: order, activations, layers that cannot be initialized."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import Follow, blobs, paper
from torch import nn
from torch.nn import functional

from nc_fast.init import campaign_


def flag(x):
    return functional.relu(x) if x.shape[0] > 0 else x  # control flow: a symbolic trace fails here


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.ReLU(), "relu"),
        (nn.ReLU(inplace=True), "relu"),
        (torch.relu, "relu"),
        (lambda x: x.relu_(), "relu"),
        (lambda x: functional.leaky_relu(x), "leaky_relu"),
        (nn.LeakyReLU(0.01), "leaky_relu"),
        (nn.LeakyReLU(0.2), "leaky_relu"),
        (nn.ELU(), "elu"),
        (nn.GELU(), "gelu"),
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (functional.silu, "silu"),
        (nn.SiLU(inplace=True), "silu"),
        (torch.tanh, "tanh"),
        (nn.Tanh(), "tanh"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Softplus(), "softplus"),
        (nn.Hardswish(), "hardswish"),
        (nn.ReLU6(), "hardtanh"),
        (nn.PReLU(), "prelu"),
        (nn.Mish(), "mish"),
        (nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Dropout(), nn.LayerNorm(8), nn.ReLU()), "relu"),
        (flag, "relu"),
        (nn.Softmax(1), "identity"),
        (nn.LogSoftmax(1), "identity"),
        (lambda x: x, "identity"),
        (lambda x: x + 1, "identity"),
    ],
)
def test_the_activation_that_follows_is_found(function, name):
    X, y = blobs(6)
    report = campaign_(Follow(function), (X, y))
    assert report["first"].activation == name
    assert report["last"].activation == "identity"
    assert not report["first"].notes


def test_a_leaky_slope_other_than_the_table_s_is_scored_as_it_is():
    X, y = blobs(6)
    found, given = [], []
    for picks, arguments in ((found, {}), (given, {"activations": {"first": lambda z: functional.leaky_relu(z, 0.5)}})):
        report = campaign_(Follow(nn.LeakyReLU(0.5)), (X, y), generator=torch.Generator().manual_seed(0), **arguments)
        picks.extend(report["first"].picks)
    assert found == given


@pytest.mark.parametrize("function", [torch.cumsum, lambda x: x.sort(1).values, lambda x: torch.sigmoid(x) * x * x])
def test_what_is_no_known_activation_is_reported(function):
    X, y = blobs(6)
    follow = (lambda x: function(x, 1)) if function is torch.cumsum else function
    report = campaign_(Follow(follow), (X, y))
    assert report["first"].activation == "identity"
    assert "identity assumed" in report["first"].notes[0]
    assert any("identity assumed" in warning for warning in report.warnings)
    named = campaign_(Follow(follow), (X, y), activations={"first": "silu"})["first"]
    assert named.activation == "silu"
    assert not named.notes  # nothing had to be assumed


class Crooked(nn.Module):
    """Layers registered in another order than they are used; one twice, one never, one shared, one not on data."""

    def __init__(self):
        super().__init__()
        self.c, self.b, self.a = nn.Linear(8, 3), nn.Linear(8, 8), nn.Linear(6, 8)
        self.twice, self.never = nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied, self.owner = nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied.weight = self.owner.weight
        self.query = nn.Parameter(torch.randn(1, 8))
        self.constant = nn.Linear(8, 8)

    def forward(self, x):
        x = functional.relu(self.a(x))
        x = functional.relu(self.b(x) + self.constant(self.query))
        x = self.twice(functional.relu(self.twice(x)))
        return self.c(functional.relu(self.owner(functional.relu(self.tied(x)))))


def test_order_is_the_data_s_and_oddities_are_reported_and_kept():
    X, y = blobs(6)
    model = Crooked()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = paper(model, (X, y))
    assert [layer.name for layer in report.layers] == ["a", "b", "c"]
    assert [layer.alpha for layer in report.layers] == [1, 0.5, 0]
    reasons = {layer.name: layer.reason for layer in report.kept}
    assert reasons == {
        "tied": "its weight is shared: tied.weight, owner.weight",
        "owner": "its weight is shared: tied.weight, owner.weight",
        "twice": "used 2 times in one pass, with different inputs",
        "constant": "its input does not grow with the samples",
        "never": "the data never reaches it",
    }
    for name in reasons:
        assert torch.equal(model.state_dict()[f"{name}.weight"], before[f"{name}.weight"])
    assert len(report.warnings) >= 5


class Tokens(nn.Module):
    """Tokens as a batch dimension of their own, in front of, or merged with the samples'."""

    def __init__(self, shape):
        super().__init__()
        self.first, self.last, self.shape = nn.Linear(6, 8), nn.Linear(8, 3), shape

    def forward(self, x):
        n = len(x)
        if self.shape == "second":
            return self.last(functional.relu(self.first(x.transpose(0, 1))).mean(0))
        if self.shape == "merged":
            return self.last(functional.relu(self.first(x.reshape(-1, 6))).reshape(n, -1, 8).mean(1))
        if self.shape == "interleaved":
            return self.last(functional.relu(self.first(x.transpose(0, 1).reshape(-1, 6))).reshape(-1, n, 8).mean(0))
        return self.last(functional.relu(self.first(x)).mean(1))


def test_the_samples_dimension_is_found_wherever_it_is():
    X, y = blobs(5, 6)
    picks = {}
    for shape in ("first", "second", "merged"):
        report = campaign_(Tokens(shape), (X, y), generator=torch.Generator().manual_seed(0))
        picks[shape] = report["first"].picks
    assert picks["first"] == picks["second"] == picks["merged"]
    (kept,) = campaign_(Tokens("interleaved"), (X, y)).kept
    assert kept.reason.startswith("the model reorders, repeats or drops samples")


def test_sequence_first_attention_equals_batch_first():
    X, y = blobs(5, 8)

    class Wrapped(nn.Module):
        def __init__(self, batch_first):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            x = x if self.layer.self_attn.batch_first else x.transpose(0, 1)
            return self.head(self.layer(x).mean(1 if self.layer.self_attn.batch_first else 0))

    models = []
    for batch_first in (True, False):
        model = Wrapped(batch_first)
        campaign_(model, (X, y), generator=torch.Generator().manual_seed(0))
        models.append(model)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), atol=1e-4)


def test_labels_for_every_token():
    X, _ = blobs(5, 6)
    y = (X.sum(2) > 0).long()
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    report = campaign_(model, (X, y), generator=torch.Generator().manual_seed(0))
    assert [layer.name for layer in report.layers] == ["0", "2"]
    assert float((model(X).argmax(2) == y).float().mean()) > 0.6
    report = paper(Tokens("first"), (X, y))
    assert [layer.name for layer in report.layers] == ["first"]
    assert [(layer.name, layer.reason) for layer in report.kept] == [("last", "labels for each of (5,) positions, its samples have none")]


def test_a_compiled_model_is_looked_into():
    X, y = blobs(6)
    model = Follow(nn.ReLU())
    before = model.first.weight.detach().clone()
    campaign_(torch.compile(model, backend="eager"), (X, y))
    assert not torch.equal(before, model.first.weight)
