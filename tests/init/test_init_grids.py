"""Labels and masks of positions are found again at every layer's grid."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import seeded
from torch import nn
from torch.nn import functional

from nc_fast.init import campaign_
from nc_fast.init.forward_pass import CallRecorder
from nc_fast.init.labels import LabelsDoNotFitError, SampleLabels
from nc_fast.init.positions import label_grids


def grids(model, x, positions):
    recorder = CallRecorder()
    with torch.no_grad(), recorder:
        model(x)
    return label_grids(recorder.calls, positions)


def middle(module, side):
    """Where the middle of what each output position sees lies in the input, by gradients of a sum over a window of ones."""
    x = torch.ones(1, 1, side, requires_grad=True)
    out = module(x)
    places = []
    for position in range(out.shape[-1]):
        (seen,) = torch.autograd.grad(out[0, 0, position], x, retain_graph=True)
        places.append(float((torch.nonzero(seen[0, 0]).double()).mean()))
    return places


def ones(conv):
    nn.init.ones_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


@pytest.mark.parametrize("side", [16, 17, 28])
@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(1, 1, 3, padding=1),
        nn.Conv1d(1, 1, 3),
        nn.Conv1d(1, 1, 5),
        nn.Conv1d(1, 1, 3, stride=2),
        nn.Conv1d(1, 1, 3, stride=3),
        nn.Conv1d(1, 1, 4, stride=4),
        nn.Conv1d(1, 1, 3, dilation=2),
        nn.AvgPool1d(2),
        nn.AvgPool1d(3, 2),
        nn.Sequential(nn.Conv1d(1, 1, 5), nn.AvgPool1d(2), nn.Conv1d(1, 1, 3)),
        nn.Sequential(nn.Conv1d(1, 1, 3, stride=2), nn.Conv1d(1, 1, 3)),
    ],
    ids=str,
)
def test_a_position_s_label_is_the_one_in_the_middle_of_what_it_sees(module, side):
    for part in module.modules():
        if isinstance(part, nn.Conv1d):
            ones(part)
    expected = middle(module, side)
    at = grids(module, torch.ones(1, 1, side), (side,)).get((len(expected),), np.arange(side))
    assert len(at) == len(expected)
    inner = slice(1, -1)  # at the edges padding hides a part of what is seen
    assert np.abs(at[inner] - np.array(expected)[inner]).max() <= 1  # a pool that leaves the last sample out is half a step aside
    if side % 4 == 0:
        assert np.abs(at[inner] - np.array(expected)[inner]).max() <= 0.5


def test_upsampling_leads_back_to_the_labels_own_grid():
    model = nn.Sequential(nn.MaxPool2d(2), nn.ConvTranspose2d(1, 1, 2, 2), nn.MaxPool2d(4), nn.Upsample(scale_factor=2))
    found = grids(model, torch.ones(2, 1, 16, 8), (16, 8))
    assert set(found) == {(8, 4), (4, 2)}
    assert found[4, 2].reshape(4, 2)[:, 0].tolist() == [9, 41, 73, 105]  # rows 1, 5, 9, 13 of 8 labels each, column 1


def test_positions_outside_of_the_labels_have_none():
    found = grids(nn.ZeroPad1d(2), torch.ones(2, 1, 5), (5,))
    assert found[9,].tolist() == [-1, -1, 0, 1, 2, 3, 4, -1, -1]
    values, counted = SampleLabels(np.arange(10).reshape(2, 5)).spread(1, (9,), found)
    assert counted[0].tolist() == [False] * 2 + [True] * 5 + [False] * 2
    assert values[1][counted[1]].tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("model", "side", "labels", "earlier"),
    [
        (nn.Sequential(nn.Conv1d(1, 1, 3), nn.Conv1d(1, 1, 3)), 12, 8, {12: [-1, -1, *range(8), -1, -1], 10: [-1, *range(8), -1]}),
        (nn.Sequential(nn.Conv1d(1, 1, 4, 4)), 8, 2, {8: [0, 0, 0, 0, 1, 1, 1, 1]}),
    ],
    ids=["cropped", "of patches"],
)
def test_labels_of_a_later_grid_are_found_at_the_grids_before_it(model, side, labels, earlier):
    found = grids(model, torch.ones(2, 1, side), (labels,))
    assert {grid: at.tolist() for (grid,), at in found.items()} == earlier


def test_labels_of_frames_are_found_in_spectrograms():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, (2, 1), 1), nn.MaxPool2d(2))
    found = grids(model, torch.ones(2, 1, 16, 5), (16,))
    assert {grid: at.tolist() for grid, at in found.items()} == {(8,): [0, 2, 4, 6, 8, 10, 12, 14], (4,): [1, 5, 9, 13]}


def test_a_global_pool_lies_under_no_label():
    assert not grids(nn.AdaptiveAvgPool2d(1), torch.ones(2, 1, 4, 4), (4, 4))


@pytest.mark.parametrize(
    ("rows", "positions", "expected"),
    [
        (1, (2, 3), [[0, 1, 2], [3, 4, 5]]),
        (1, (6,), [0, 1, 2, 3, 4, 5]),  # flattened
        (6, (), [0, 1, 2, 3, 4, 5]),  # merged with the samples
        (1, (2, 3, 2), [[[0, 0], [1, 1], [2, 2]], [[3, 3], [4, 4], [5, 5]]]),
        (1, (2, 2, 3), [[[0, 1, 2], [3, 4, 5]]] * 2),  # heads first
        (2, (3,), [[0, 1, 2], [3, 4, 5]]),
    ],
)
def test_labels_of_positions_are_found_in_many_forms(rows, positions, expected):
    values, counted = SampleLabels(np.arange(6).reshape(1, 2, 3)).spread(rows, positions, {})
    assert counted is None
    assert values.reshape(-1).tolist() == np.array(expected).reshape(-1).tolist()


@pytest.mark.parametrize(("rows", "positions"), [(1, ()), (1, (3, 2)), (1, (7,)), (1, (2, 4))])
def test_labels_that_do_not_fit_are_refused(rows, positions):
    with pytest.raises(LabelsDoNotFitError, match=r"labels for each of \(2, 3\) positions"):
        SampleLabels(np.zeros((4, 2, 3), int)).spread(rows, positions, {})


class UNet(nn.Module):
    """Down by a valid convolution, a stride and a pool; up by transposed convolution and interpolation."""

    def __init__(self):
        super().__init__()
        self.d1, self.d2, self.d3 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = torch.relu(self.d1(x))
        b = torch.relu(self.d3(functional.max_pool2d(torch.relu(self.d2(a)), 2)))
        return self.out(torch.cat([a, self.up(functional.interpolate(b, scale_factor=2))], 1))


def halves(n=40, side=16):
    """Images whose left part is bright, up to a random place, and a label for every pixel."""
    generator = seeded()
    edge = torch.randint(3, side - 3, (n, 1, 1), generator=generator)
    y = (torch.arange(side) >= edge).long().expand(n, side, side).contiguous()
    return torch.randn(n, 1, side, side, generator=generator) + 4 * (1 - y[:, None]), y


def test_a_network_with_labels_for_every_pixel_is_initialized_at_every_depth():
    X, y = halves()
    torch.manual_seed(0)
    report = campaign_(UNet(), (X, y), generator=seeded())
    assert [layer.name for layer in report.layers] == ["d1", "d2", "d3", "out"]
    assert [layer.name for layer in report.kept] == ["up"]
    for name in ("d1", "d2", "d3"):
        assert report[name].select == "pursuit"
        assert report[name].score > 0.7  # with labels of other places nothing is explained: below


def test_labels_of_other_places_explain_nothing(monkeypatch):
    X, y = halves()
    report = campaign_(UNet(), (X, y.flip(0).roll(5, 2)), generator=seeded())
    assert max(report[name].score for name in ("d1", "d2", "d3")) < 0.6


def test_positions_that_are_ignored_are_no_samples():
    X, y = halves()
    noise = torch.rand(y.shape, generator=seeded()) < 0.3
    X = torch.where(noise[:, None], torch.full_like(X, 100.0), X)
    reports = []
    for labels in (y, torch.where(noise, -100, y)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        report = campaign_(model, (X, labels), generator=seeded())
        with torch.no_grad():
            z = model[0](X).movedim(1, -1)[~noise]
        reports.append((report, float(z.mean()) / float(z.std())))
    assert reports[1][0]["0"].score > 0.7 > reports[0][0]["0"].score
    assert abs(reports[1][1]) < 0.05 < abs(reports[0][1])  # centred on what counts
