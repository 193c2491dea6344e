"""Rows belong to their labels: models that reorder, route, drop or repeat samples inside are found out, and the campaign goes on."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nc_fast.init import campaign_


class Inside(nn.Module):
    """first -> what the test does with the samples -> inner -> undone -> last."""

    def __init__(self, there, back=None):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.there, self.back = there, back

    def forward(self, x):
        x = torch.relu(self.first(x))
        order = self.there(x)
        inner = torch.relu(self.inner(x[order]))
        out = x.clone()
        out[order] = inner
        return self.last(self.back(out) if self.back else out)


class Experts(nn.Module):
    """Top-1 routing: an expert sees the samples that the router sends it."""

    def __init__(self, n=2, share=None):
        super().__init__()
        self.router, self.experts, self.last = nn.Linear(6, n), nn.ModuleList(nn.Linear(6, 8) for _ in range(n)), nn.Linear(8, 3)
        self.share = share  # expert choice: each takes so large a part of the samples, its best

    def forward(self, x):
        scores, out = self.router(x), x.new_zeros(len(x), 8)
        for number, expert in enumerate(self.experts):
            if self.share:
                rows = scores[:, number].topk(max(1, int(self.share * len(x)))).indices
            else:
                rows = torch.nonzero(scores.argmax(1) == number)[:, 0]
            if len(rows):
                out[rows] = torch.relu(expert(x[rows]))
        return self.last(out)


def kept(report):
    return {layer.name: layer.reason for layer in report.kept}


@pytest.mark.parametrize(
    "order",
    [
        lambda x: x[:, 0].argsort(),  # by content
        lambda x: x.abs().sum(1).argsort(descending=True),
        lambda x: torch.arange(len(x)).flip(0),  # by place
        lambda x: torch.arange(len(x)).roll(1),
        lambda x: torch.cat([torch.arange(0, len(x), 2), torch.arange(1, len(x), 2)]),
    ],
    ids=["sorted", "sorted by length", "flipped", "rolled", "even first"],
)
def test_layers_that_see_samples_in_another_order_are_kept(order):
    X, y = blobs(6)
    model = Inside(order)
    before = model.inner.weight.detach().clone()
    report = campaign_(model, (X, y), generator=torch.Generator().manual_seed(0))
    assert [layer.name for layer in report.layers] == ["first", "last"]
    assert "reorders" in kept(report)["inner"]
    assert torch.equal(model.inner.weight, before)
    assert any("inner" in warning and "reorders" in warning for warning in report.warnings)


@pytest.mark.parametrize("there", [lambda x: torch.arange(len(x)), lambda x: x[:, 0].argsort().argsort().argsort().argsort().argsort()[:0]])
def test_samples_in_their_order_are_no_reason_and_none_at_all_is_one(there):
    X, y = blobs(6)
    report = campaign_(Inside(there), (X, y))
    assert ("inner" in kept(report)) == (len(there(X)) == 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "share"), [(2, None), (4, None), (2, 0.5), (3, 0.4)])
@pytest.mark.parametrize("max_samples", [2000, None])
def test_experts_are_kept_whatever_the_router_does(seed, n, share, max_samples):
    torch.manual_seed(seed)
    X, y = blobs(6)
    model = Experts(n, share)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = (X, y) if max_samples else [(X[:50], y[:50]), (X[50:], y[50:])]
    report = campaign_(model, data, max_samples=max_samples)
    names = [layer.name for layer in report.layers]
    assert names[-1] == "last"
    assert "router" in names
    for number in range(n):
        name = f"experts.{number}"
        alone = name in names  # a router that sends all samples to one expert
        assert alone or name in kept(report)
        assert not alone or (share is None and torch.equal(model.router(X).argmax(1), torch.full((len(X),), number)))
        assert alone or torch.equal(model.state_dict()[f"{name}.weight"], before[f"{name}.weight"])


def test_an_expert_that_few_samples_reach_is_found_out_on_all_of_them(monkeypatch):
    """The first samples all go one way; the walk meets others."""
    monkeypatch.setattr("nc_fast.init.trace.MARKED_SAMPLES", 3)
    X, y = blobs(6)

    class Late(Experts):
        def forward(self, x):
            return self.last(torch.relu(self.experts[0](x if len(x) < 20 else x[: len(x) // 2])).repeat(1 if len(x) < 20 else 2, 1))

    for data, most in (((X, y), 2000), ([(X, y), (X, y)], None)):
        report = campaign_(Late(), data, max_samples=most)
        assert "60 rows" in kept(report)["experts.0"] or "of 120 rows it gets 60" in kept(report)["experts.0"]
        assert [layer.name for layer in report.layers] == ["last"]


def test_repeated_rows_that_stay_together_are_samples_and_others_are_not():
    X, y = blobs(6)

    class Repeat(nn.Module):
        def __init__(self, together):
            super().__init__()
            self.inner, self.last, self.together = nn.Linear(6, 8), nn.Linear(8, 3), together

        def forward(self, x):
            x = x.repeat_interleave(2, 0) if self.together else x.repeat(2, 1)
            z = torch.relu(self.inner(x))
            return self.last(z[::2] if self.together else z[: len(z) // 2])

    assert not campaign_(Repeat(True), (X, y)).kept
    assert "reorders, repeats or drops" in kept(campaign_(Repeat(False), (X, y)))["inner"]


def test_noise_inside_the_model_changes_no_order():
    X, y = blobs(6)

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.last(x + torch.randn_like(x))

    assert not campaign_(Noisy(), (X, y)).kept


def test_a_packed_sequence_s_layers_are_kept_and_the_rest_initialized():
    X, y = blobs(5, 6)
    lengths = torch.arange(len(X)) % 5 + 1

    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.lstm, self.last = (
                nn.Linear(6, 8),
                nn.Linear(8, 8),
                nn.LSTM(8, 8, batch_first=True),
                nn.Linear(8, 3),
            )

        def forward(self, x, lengths):
            x = torch.relu(self.first(x))
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            packed = packed._replace(data=torch.relu(self.inner(packed.data)))  # rows sorted by length, padding left out
            out, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
            return self.last(out[:, 0])

    report = campaign_(Packed(), ((X, lengths), y))
    assert [layer.name for layer in report.layers] == ["first", "last"]
    assert set(kept(report)) == {"inner", "lstm"}
    assert "state" in kept(report)["lstm"]


def test_half_precision_is_no_reorder():
    X, y = blobs(6)
    model = nn.Sequential(*[part for _ in range(6) for part in (nn.Linear(6, 6), nn.ReLU())], nn.Linear(6, 3)).to(torch.bfloat16)
    report = campaign_(model, (X.bfloat16(), y))
    assert not report.kept
    assert np.isfinite(report.head.loss_after)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_that_is_kept_for_its_positions_is_not_written(bias):
    """Nothing is read for a layer that is only drawn without a bias: what does not fit is found before."""
    X, y = blobs(6, 4)

    class Halved(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(4, 8), nn.Linear(8, 8, bias), nn.Linear(8, 3)

        def forward(self, x, attention_mask):
            x = torch.relu(self.first(x))
            pooled = x[:, ::2] + x[:, 1::2]  # three positions, of which the mask says nothing
            return self.last((pooled + self.inner(pooled)).mean(1))

    mask = torch.arange(6) < torch.arange(1, 7).repeat(20)[:, None]
    model = Halved()
    before = {name: value.clone() for name, value in model.inner.state_dict().items()}
    report = campaign_(model, ({"x": X, "attention_mask": mask.long()}, y))
    assert [layer.name for layer in report.layers] == ["first", "last"]
    assert "the mask for each of (6,) positions" in kept(report)["inner"]
    assert all(torch.equal(value, before[name]) for name, value in model.inner.state_dict().items())
