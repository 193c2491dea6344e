"""Layers: inputs become samples, weights become rows and go back."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from init_cases import blobs
from torch import nn
from torch.nn.utils import prune

from nc_fast.init import campaign_
from nc_fast.init.labels import SampleLabels
from nc_fast.init.layers.attention import AttentionOutput, ProjectionLayer
from nc_fast.init.layers.base import BatchAxis, PatchDraw
from nc_fast.init.layers.convolution import ConvLayer, patches, patches_at

SAMPLES_FIRST = BatchAxis(0, 1)
ALL = PatchDraw(1 << 20, 1, 0)
KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@st.composite
def convolutions(draw):
    n = draw(st.sampled_from([1, 2, 3]))

    def side(least, most):
        return tuple(draw(st.integers(least, most)) for _ in range(n))

    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    same = draw(st.booleans())
    groups = draw(st.sampled_from([1, 2, 3]))
    torch.manual_seed(0)
    conv = KINDS[n](
        6,
        6,
        side(1, 3),
        stride=1 if same else side(1, 3),
        padding="same" if same else draw(st.sampled_from(["valid", side(0, 2)])),
        dilation=side(1, 2),
        groups=groups,
        padding_mode=mode,
    )
    return conv, torch.randn(2, 6, *side(5, 7))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_patches_times_the_weight_is_the_convolution(case):
    conv, x = case
    with torch.no_grad():
        expected = conv(x)
        for group, (channels, weight, bias) in enumerate(
            zip(x.chunk(conv.groups, 1), conv.weight.chunk(conv.groups), conv.bias.chunk(conv.groups), strict=True)
        ):
            every = patches(conv, channels)
            some = torch.randperm(len(every))[: len(every) // 2]
            assert torch.equal(patches_at(conv, channels, tuple(expected.shape[2:]), some), every[some])
            out = every @ weight.flatten(1).T + bias
            wanted = expected.chunk(conv.groups, 1)[group].movedim(1, -1)
            np.testing.assert_allclose(out.reshape(wanted.shape), wanted, atol=1e-5)
        assert ConvLayer("conv", conv).grid(x) == tuple(expected.shape[2:])


def test_every_patch_has_its_image_s_label():
    conv = nn.Conv2d(1, 1, 2, stride=2)
    x = torch.arange(2 * 16.0).reshape(2, 1, 4, 4)
    ((X, y),) = ConvLayer("conv", conv).rows(x, SAMPLES_FIRST, SampleLabels(np.array([7, 9])), 0, ALL)
    assert X[0].tolist() == [0, 1, 4, 5]
    assert y.tolist() == [7] * 4 + [9] * 4


def test_patches_that_are_held_are_bounded(monkeypatch):
    monkeypatch.setattr("nc_fast.init.layers.base.HELD_BYTES", 4 * 9 * 16)
    monkeypatch.setattr("nc_fast.init.layers.base.LEAST_PATCHES", 1)
    ((X, y),) = ConvLayer("conv", nn.Conv2d(1, 1, 3)).rows(
        torch.randn(5, 1, 6, 6), SAMPLES_FIRST, SampleLabels(np.arange(5)), 0, PatchDraw(99, 5, 0)
    )
    assert len(X) == len(y) == 16


@pytest.mark.parametrize("kind", ["a label an image", "a label a pixel", "a mask"])
def test_patches_are_drawn_with_equal_shares_of_the_classes(kind, rng):
    x, grid = torch.arange(40 * 64.0).reshape(40, 1, 8, 8), (40, 8, 8)
    y = np.arange(40) % 4 if kind != "a label a pixel" else (rng.random(grid) < 0.1).astype(int)
    counted = rng.random(grid) < 0.5 if kind == "a mask" else None

    def drawn(seed):
        (pair,) = ConvLayer("conv", nn.Conv2d(1, 1, 1)).rows(x, SAMPLES_FIRST, SampleLabels(y, counted), 0, PatchDraw(200, 40, seed))
        return pair

    (X, found), (again, _), (other, _) = map(drawn, (1, 1, 2))
    assert torch.equal(X, again)
    assert not torch.equal(X, other)
    assert len(X) == 200 == len(set(X.flatten().tolist()))
    counts = np.bincount(found)
    assert counts.min() == counts.max() == 200 // len(counts)
    place = np.unravel_index(X.flatten().long().numpy(), grid)
    assert (np.broadcast_to(y.reshape(*y.shape, *(1,) * (3 - y.ndim)), grid)[place] == found).all()
    assert counted is None or counted[place].all()


@pytest.mark.parametrize(
    ("labels", "rows", "grid", "expected"),
    [
        ([1, 2], 1, (), [1, 2]),
        ([1, 2], 3, (), [1, 1, 1, 2, 2, 2]),
        ([1, 2], 1, (2,), [[1, 1], [2, 2]]),
        ([[1, 2], [3, 4]], 1, (2,), [[1, 2], [3, 4]]),
        ([[1, 2], [3, 4]], 2, (), [1, 2, 3, 4]),
        ([[1, 2], [3, 4]], 2, (2,), [[1, 1], [2, 2], [3, 3], [4, 4]]),
    ],
)
def test_labels_are_spread_over_positions(labels, rows, grid, expected):
    assert SampleLabels(np.array(labels)).spread(rows, grid, {})[0].tolist() == expected


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 5, "vdim": 3}], ids=["packed", "separate"])
def test_attention_s_parts_make_up_its_output(batch_first, sizes):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, **sizes).eval()
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    q, k, v = torch.randn(4, 6, 8), torch.randn(4, 6, sizes.get("kdim", 8)), torch.randn(4, 6, sizes.get("vdim", 8))
    arguments = ((q, k), {"value": v})
    with torch.no_grad():
        expected, _ = attention(q, k, value=v)
        axis = BatchAxis(0 if batch_first else 1, 1)
        layers = [ProjectionLayer("a", attention, which) for which in range(3)]
        projected = [layer.preactivation(layer.input(*arguments), axis, SampleLabels(np.zeros(6, int))) for layer in layers]
        assert all(z.shape == (24, 8) for z in projected)
        out = AttentionOutput("a", attention)
        z = out.preactivation(out.input(*arguments), axis, SampleLabels(np.zeros(6, int)))
    wanted = expected if batch_first else expected.movedim(1, 0)
    np.testing.assert_allclose(z, wanted.reshape(24, 8), atol=1e-5)
    assert torch.equal(attention.out_proj.weight, AttentionOutput("a", attention).weight)


def test_projections_are_installed_in_their_own_part():
    attention = nn.MultiheadAttention(4, 2)
    before = attention.in_proj_weight.detach().clone()
    layer = ProjectionLayer("a", attention, 1)
    with torch.no_grad():
        layer.install(torch.ones(4, 4))
        layer.install_bias(torch.full((4,), 2.0))
    assert torch.equal(attention.in_proj_weight[4:8], torch.ones(4, 4))
    assert torch.equal(attention.in_proj_weight[:4], before[:4])
    assert torch.equal(attention.in_proj_weight[8:], before[8:])
    assert attention.in_proj_bias.tolist() == [0] * 4 + [2] * 4 + [0] * 4


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolution_takes_picks_from_each_group_s_own_pool(groups):
    X, y = blobs(4, 6)
    conv = nn.Conv1d(4, 8, 3, groups=groups)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    for base in ("kaiming_normal", "data_pairs"):
        report = campaign_(model, (X, y), pool=5, base=base, layers=["0"], generator=torch.Generator().manual_seed(0))
        picks = np.array(report["0"].picks)
        assert report["0"].pool == 40
        assert len(set(picks.tolist())) == 8
        group = picks * groups // 40 if base == "data_pairs" else picks % 8 * groups // 8  # pairs are drawn group by group
        np.testing.assert_array_equal(group, np.repeat(np.arange(groups), 8 // groups))


@pytest.mark.parametrize("parametrization", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrized_weights_are_set_through_their_parametrization(parametrization):
    X, y = blobs(8)
    linear = getattr(nn.utils.parametrizations, parametrization)(nn.Linear(8, 8))
    model = nn.Sequential(linear, nn.ReLU(), nn.Linear(8, 3)).eval()  # in training mode, reading a spectral norm changes it
    before = linear.weight.detach().clone()
    report = campaign_(model, (X, y), generator=torch.Generator().manual_seed(0))
    assert not report.kept
    assert not torch.allclose(linear.weight, before)
    changed = any("parametrization changed" in note for note in report["0"].notes)
    assert changed == (parametrization != "weight_norm")
    with torch.no_grad():
        z = model[0](X)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)  # centred for the weight as the parametrization left it


class NoInverse(nn.Module):
    def forward(self, w):
        return w * 2


def test_what_cannot_be_set_is_kept_and_reported():
    X, y = blobs(8)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.utils.parametrize.register_parametrization(model[0], "weight", NoInverse())
    prune.l1_unstructured(model[2], "weight", 0.5)
    before = [model[0].weight.detach().clone(), model[2].weight.detach().clone()]
    report = campaign_(model, (X, y))
    reasons = {layer.name: layer.reason for layer in report.kept}
    assert "right_inverse" in reasons["0"]
    assert "hook" in reasons["2"]
    assert torch.equal(model[0].weight, before[0])
    assert torch.equal(model[2].weight, before[1])
    assert [layer.name for layer in report.layers] == ["4"]


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_forward_of_its_own_is_not_guessed_at():
    X, y = blobs(8)
    report = campaign_(nn.Sequential(Doubled(8, 4), nn.ReLU(), nn.Linear(4, 3)), (X, y))
    assert [(layer.name, layer.reason) for layer in report.kept] == [("0", "Doubled has a forward of its own, which is not x W + b")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_stays(dtype):
    X, y = blobs(8)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).to(dtype)
    campaign_(model, (X.to(dtype), y))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    with torch.no_grad():
        np.testing.assert_allclose(model[0](X.to(dtype)).float().mean(0), 0, atol=0.05)
