"""Positions belong to their labels: models that reorder tokens or pixels inside are found out, and the campaign goes on."""

import pytest

pytest.importorskip("torch")

import torch
from init_cases import seeded
from torch import nn
from torch.nn import functional

from nc_fast.init import campaign_


class Tagger(nn.Module):
    """first -> tokens as the test leaves them -> inner -> tokens back -> last."""

    def __init__(self, order=None, prepended=0):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.order, self.token = order, nn.Parameter(torch.zeros(1, prepended, 6))

    def forward(self, x, attention_mask=None):
        prepended = self.token.shape[1]
        if prepended:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = torch.relu(self.first(x))
        if self.order is None:
            x = torch.relu(self.inner(x))
        else:
            order = self.order(x)[..., None].expand_as(x)
            x = torch.zeros_like(x).scatter(1, order, torch.relu(self.inner(x.gather(1, order))))
        return self.last(x)[:, prepended:]


class Pixels(nn.Module):
    def __init__(self, there, back):
        super().__init__()
        self.inner, self.last, self.there, self.back = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1), there, back

    def forward(self, x):
        return self.last(self.back(torch.relu(self.inner(self.there(x)))))


def tokens(*shape, n=60):
    """A vector for every position, and its class: (n, *shape, 6) and (n, *shape)."""
    y = torch.randint(3, (n, *shape), generator=seeded(1))
    return torch.randn(n, *shape, 6, generator=seeded(2)) + 3 * torch.eye(3, 6)[y], y


def kept(report):
    return {layer.name: layer.reason for layer in report.kept}


def in_all(order):
    return lambda x: order(torch.arange(x.shape[1])).expand(len(x), -1)


@pytest.mark.parametrize(
    "order",
    [
        in_all(lambda places: places.flip(0)),
        in_all(lambda places: places.roll(2)),
        in_all(lambda places: places[torch.randperm(len(places), generator=seeded(3))]),
        lambda x: x.norm(dim=2).argsort(1),
    ],
    ids=["reversed", "rolled", "shuffled", "sorted in every sample"],
)
@pytest.mark.parametrize("masked", [False, True])
def test_layers_that_see_tokens_in_another_order_are_kept(order, masked):
    X, y = tokens(7)
    mask = (torch.arange(7) < torch.randint(4, 8, (60, 1), generator=seeded(4))).long()
    report = campaign_(Tagger(order), ({"x": X, "attention_mask": mask} if masked else X, y), generator=seeded())
    assert [layer.name for layer in report.layers] == ["first", "last"]
    assert "reorders positions" in kept(report)["inner"]


@pytest.mark.parametrize(
    ("there", "back"),
    [
        (lambda x: x.flip(3), lambda x: x.flip(3)),
        (lambda x: x.roll((2, 2), (2, 3)), lambda x: x.roll((-2, -2), (2, 3))),
        (lambda x: x.transpose(2, 3), lambda x: x.transpose(2, 3)),
    ],
    ids=["flipped", "shifted", "height and width swapped"],
)
def test_layers_that_see_pixels_at_other_places_are_kept(there, back):
    y = torch.randint(2, (40, 8, 8), generator=seeded(1))
    X = torch.randn(40, 3, 8, 8, generator=seeded(2)) + 2 * y[:, None]
    report = campaign_(Pixels(there, back), (X, y), generator=seeded())
    assert "reorders positions" in kept(report)["inner"]
    assert [layer.name for layer in report.layers] == ["last"]


def test_models_that_mix_positions_are_no_reason():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.near, self.first, self.last = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.attention(torch.relu(self.first(x)))
            return self.last(functional.gelu(self.near(x.transpose(1, 2)).transpose(1, 2)))

    report = campaign_(Mixing(), tokens(8), generator=seeded())
    assert not report.kept


def test_a_model_that_predicts_a_token_by_those_before_it_is_no_reason():
    class Shifted(Tagger):
        def forward(self, x):
            return super().forward(functional.pad(x, (0, 0, 1, 0))[:, :-1])

    X, y = tokens(7)
    report = campaign_(Shifted(), (X.roll(-1, 1), y), generator=seeded())
    assert not report.kept
    assert report["last"].score > 0.5


@pytest.mark.parametrize("prepended", [1, 3])
@pytest.mark.parametrize("labels", ["tokens", "samples"])
def test_tokens_that_are_prepended_have_no_label(prepended, labels):
    X, y = tokens(7)
    mask = torch.arange(7) < torch.randint(3, 8, (60, 1), generator=seeded(4))
    X = torch.where(mask[..., None], X, 50.0)
    if labels == "samples":
        y = y[:, 0]
    model = Tagger(prepended=prepended)
    report = campaign_(model, ({"x": X, "attention_mask": mask.long()}, y), generator=seeded())
    assert {"first", "inner"} <= {layer.name for layer in report.layers}
    assert not {"first", "inner"} & set(kept(report))
    with torch.no_grad():
        assert float(model.first(X)[mask].mean().abs()) < 1e-4  # centred on the tokens that count


def test_a_model_that_refuses_a_changed_sample_is_not_asked_twice():
    """As those that look for the one end of a sentence do."""
    ids = torch.randint(3, 20, (60, 6), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 2

    class OneEnd(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.first, self.last = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, ids):
            if not bool(((ids == 2).sum(1) == 1).all()):
                raise ValueError("one end of a sentence")
            return self.last(torch.relu(self.first(self.embed(ids))))

    report = campaign_(OneEnd(), (ids, ids % 3))
    assert [layer.name for layer in report.layers] == ["first", "last"]
