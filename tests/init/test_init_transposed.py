"""Transposed convolutions: their patches times their weight are torch's output; they are initialized as other convolutions are."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from init_cases import blobs, seeded
from test_init_grids import halves
from torch import nn
from torch.nn import functional

from nc_fast.init import campaign_
from nc_fast.init.labels import SampleLabels
from nc_fast.init.layers.base import BatchAxis, PatchDraw
from nc_fast.init.layers.patches import patches, patches_at
from nc_fast.init.layers.transposed import TransposedConvLayer

SAMPLES_FIRST = BatchAxis(0, 1)
ALL = PatchDraw(1 << 20, 1, 0)
KINDS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def transposed(draw):
    n = draw(st.sampled_from([1, 2, 3]))

    def side(least, most):
        return tuple(draw(st.integers(least, most)) for _ in range(n))

    stride, dilation = side(1, 3), side(1, 2)
    more = tuple(draw(st.integers(0, max(step, spread) - 1)) for step, spread in zip(stride, dilation, strict=True))
    torch.manual_seed(0)
    conv = KINDS[n](6, 12, side(1, 4), stride, side(0, 3), more, groups=draw(st.sampled_from([1, 2, 3])), dilation=dilation)
    x = torch.randn(2, 6, *side(2, 4))
    layer = TransposedConvLayer("up", conv)
    assume(min(layer.grid(x)) > 0)
    return layer, x


@settings(deadline=None, max_examples=80)
@given(transposed())
def test_patches_times_the_weight_is_the_transposed_convolution(case):
    layer, x = case
    with torch.no_grad():
        expected = layer.module(x)
    assert layer.grid(x) == tuple(expected.shape[2:])
    assert layer.weight.shape == (12, 6 // layer.groups, *layer.module.kernel_size)
    blocks = zip(x.chunk(layer.groups, 1), layer.weight.chunk(layer.groups), layer.bias.chunk(layer.groups), strict=True)
    for group, (channels, weight, bias) in enumerate(blocks):
        every = patches(layer.axes, channels)
        some = torch.randperm(len(every))[: len(every) // 2]
        assert torch.equal(patches_at(layer.axes, channels, layer.grid(x), some), every[some])
        out = every @ weight.flatten(1).T + bias
        wanted = expected.chunk(layer.groups, 1)[group].movedim(1, -1)
        np.testing.assert_allclose(out.reshape(wanted.shape), wanted, atol=1e-5)
    labels = SampleLabels(np.arange(2))
    np.testing.assert_allclose(layer.preactivation(x, SAMPLES_FIRST, labels).reshape(-1), expected.movedim(1, -1).reshape(-1), atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(transposed(), st.sampled_from([None, nn.utils.parametrizations.weight_norm]))
def test_what_is_installed_is_read_back(case, parametrization):
    layer, x = case
    if parametrization:
        parametrization(layer.module)
    wanted = torch.randn(layer.weight.shape)
    with torch.no_grad():
        layer.install(wanted.flatten(1))
        layer.install_bias(torch.arange(12.0))
        assert layer.changes_of(wanted.flatten(1)) == ()
        torch.testing.assert_close(layer.weight, wanted)
        assert layer.bias.tolist() == list(range(12))
        assert layer.computes(x, layer.module(x))


@pytest.mark.parametrize("drawn", [False, True], ids=["all", "drawn"])
def test_every_output_position_has_its_own_label(drawn):
    conv = nn.ConvTranspose2d(1, 1, 2, 2)
    x = torch.arange(1.0, 13).reshape(3, 1, 2, 2)
    y = np.arange(3 * 16).reshape(3, 4, 4)
    draw = PatchDraw(20, 3, 0) if drawn else ALL
    ((X, found),) = TransposedConvLayer("up", conv).rows(x, SAMPLES_FIRST, SampleLabels(y), 0, draw)
    assert len(X) == (20 if drawn else 48) == len(set(found.tolist()))
    for patch, label in zip(X, found, strict=True):
        image, row, column = np.unravel_index(label, y.shape)
        seen = torch.zeros(2, 2)  # the kernel of 2 at stride 2 lies over one sample, and over the zeros beside it
        seen[(row + 1) % 2, (column + 1) % 2] = x[image, 0, row // 2, column // 2]
        assert torch.equal(patch.reshape(2, 2), seen)


class Decoder(nn.Module):
    """Convolutions down, transposed ones up, then an image."""

    def __init__(self, up=nn.ConvTranspose2d, **rules):
        super().__init__()
        self.d1, self.d2 = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.u1, self.u2, self.out = up(12, 10, 2, 2, **rules), up(10, 8, 4, 2, 1, **rules), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        for layer in (self.d1, self.d2, self.u1, self.u2):
            x = torch.relu(layer(x))
        return self.out(x)


@pytest.mark.parametrize("labels", ["a label an image", "a label a pixel"])
def test_a_decoder_is_initialized_with_steady_signals(labels):
    X, y = halves()
    y = y if labels == "a label a pixel" else y.float().mean((1, 2)).gt(0.5).long()
    report = campaign_(Decoder(), (X, y), generator=seeded())
    assert [(layer.name, layer.select) for layer in report.layers] == [*((name, "pursuit") for name in ("d1", "d2", "u1", "u2")), ("out", "drawn")]
    assert not report.kept
    assert report["u1"].kind == "ConvTranspose2d"
    for layer in report.layers:
        assert 0.4 < layer.after.std / report["d1"].after.std < 2.5
        assert layer.after.dead == 0
    assert labels == "a label an image" or min(report[name].score for name in ("u1", "u2")) > 0.7


@pytest.mark.parametrize(("stride", "kernel", "padding"), [(1, 3, 1), (2, 2, 0), (2, 4, 1), (3, 3, 0)])
@pytest.mark.parametrize("base", ["kaiming_normal", "data_pairs"])
def test_pre_activations_are_as_large_as_a_convolution_s(base, stride, kernel, padding):
    X, y = blobs(16, 8, 8)

    def spread_of(layer):
        model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
        model(X)
        return campaign_(model, (X, y), base=base, generator=seeded())["0"].after.std

    up, plain = nn.ConvTranspose2d(16, 32, kernel, stride, padding), nn.Conv2d(16, 32, 3, padding=1)
    assert 0.75 < spread_of(up) / spread_of(plain) < 1.4


class Resized(Decoder):
    """Says how large the output is to be, as decoders with skip connections do."""

    def forward(self, x):
        a = torch.relu(self.d1(x))
        b = torch.relu(self.d2(a))
        return self.out(torch.relu(self.u2(torch.relu(self.u1(b, output_size=a.shape)), x.shape[2:])))


@pytest.mark.parametrize("max_samples", [None, 40])
def test_output_size_is_followed(max_samples):
    X, y = halves(side=18)  # 9 and 5 inside: without output_size they would be 10 and 20
    X, y = X[..., :18, :18], y[:, :18, :18]
    batches = [(X[:20], y[:20]), (X[20:], y[20:])] if max_samples is None else (X, y)
    model = Resized()
    model.u1, model.u2 = nn.ConvTranspose2d(12, 10, 3, 2, 1), nn.ConvTranspose2d(10, 8, 3, 2, 1)
    report = campaign_(model, batches, max_samples=max_samples, generator=seeded())
    assert [layer.name for layer in report.layers] == ["d1", "d2", "u1", "u2", "out"]
    assert model(X).shape[2:] == (18, 18)
    with torch.no_grad():
        a = torch.relu(model.d1(X))
        u1 = model.u1(torch.relu(model.d2(a)), output_size=a.shape)
    assert abs(float(u1.mean())) < 0.2 * float(u1.std())  # centred


class Cast(nn.ConvTranspose2d):
    def forward(self, x):
        return functional.conv_transpose2d(x, self.weight.to(x.dtype), self.bias, self.stride, self.padding)


class Doubled(nn.ConvTranspose2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Folded(nn.ConvTranspose2d):
    """Takes an input that its class does not."""

    def forward(self, x):
        return super().forward(torch.cat([x[:, ::2], x[:, 1::2]], 1).flatten(2).reshape(x.shape)[:, : self.in_channels])


@pytest.mark.parametrize(("up", "kept"), [(Cast, False), (Doubled, True), (Folded, True)])
def test_a_forward_of_its_own_is_initialized_where_it_computes_the_same(up, kept):
    X, y = halves()
    report = campaign_(Decoder(up), (X, y), generator=seeded())
    reasons = {layer.name: layer.reason for layer in report.kept}
    assert reasons == (dict.fromkeys(("u1", "u2"), f"{up.__name__} has a forward of its own, which is not x W + b") if kept else {})


def test_given_candidates_are_rows_a_neuron_each():
    X, y = blobs(4, 6)
    conv = nn.ConvTranspose1d(4, 6, 3, 2, groups=2)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 13, 3))
    pool = torch.randn(20, 2, 3)
    report = campaign_(model, (X, y), candidates={"0": pool}, generator=seeded())
    neurons = TransposedConvLayer("0", conv).weight
    torch.testing.assert_close(neurons, pool[list(report["0"].picks)])
    assert torch.equal(conv.weight[0, 1], neurons[1, 0].flip(0))  # torch's input channel 0 and the first group's second neuron
