"""Labels that stand for no class: left out with ignore_index, and never a class that moves others to other outputs."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, net, paper, seeded
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nc_fast.init import campaign_, fit_head_

X, Y = blobs(6)
DROPPED = torch.arange(120) % 5 == 0
DEFAULT = "data: left out 24 of 120 labels, which are -100; with ignore_index=-100 this is not said"


def batches(x, y):
    return [(x[first : first + 17], y[first : first + 17]) for first in range(0, len(y), 17)]


FORMS = {
    "pair": lambda x, y: (x, y),
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), 16, shuffle=True),
    "batches": batches,
}


def accuracy(model):
    return float((model(X).argmax(1) == Y).float().mean())


@pytest.mark.parametrize("most", [2000, 60, None])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("void", "ignore"), [(-100, "default"), (-100, -100), (255, 255), (-1, [-1, 255]), (0, np.int64(0)), (0, (9, 0))])
def test_what_is_left_out_is_no_class(void, ignore, form, most):
    y = torch.where(DROPPED, void, Y)
    gone = (y == void).numpy()
    options = {} if ignore == "default" else {"ignore_index": ignore}
    model = net()
    report = campaign_(model, FORMS[form](X, y), max_samples=most, generator=seeded(), **options)
    assert (report.samples, report.classes) == (min(most or 120, int((~gone).sum())), len(np.unique(y.numpy()[~gone])))
    assert report.layers[-1].select == "least_squares"
    assert (DEFAULT in report.notes) == (ignore == "default" and (form != "batches" or most != 60))  # a search may end before the last
    kept = model(X)[torch.from_numpy(~gone)].argmax(1) == Y[torch.from_numpy(~gone)]
    assert float(kept.float().mean()) > 0.8


@pytest.mark.parametrize("most", [2000, None])
def test_the_rest_counts_as_if_it_were_alone(most):
    y, kept = torch.where(DROPPED, -100, Y), ~DROPPED
    models = [net(), net()]
    for model, data in zip(models, ((X, y), (X[kept], Y[kept])), strict=True):
        torch.manual_seed(0)
        campaign_(model, data, max_samples=most, generator=seeded())
    torch.testing.assert_close(models[0][0].weight, models[1][0].weight)
    torch.testing.assert_close(models[0][2].weight, models[1][2].weight)


@pytest.mark.parametrize("function", [campaign_, fit_head_])
def test_names_may_be_left_out_too(function):
    names = np.where(DROPPED, "unknown", np.array(["ant", "bee", "cat"])[Y])
    model = net()
    assert function(model, (X, names), ignore_index="unknown").classes == 3
    assert function(net(classes=4), (X, names)).classes == 4


@pytest.mark.parametrize("data", [(X, Y * 0 - 100), batches(X, Y * 0 - 100), DataLoader(TensorDataset(X, Y * 0 - 100), 16)])
@pytest.mark.parametrize("most", [2000, None])
def test_nothing_left_is_an_error(data, most):
    with pytest.raises(
        ValueError, match="data: expected at least one sample, got none but 120 labelled -100, which ignore_index leaves out"
    ):
        campaign_(net(), data, max_samples=most)


STRAY = [
    (torch.where(DROPPED, 255, 2 * Y), 5, {}, "labels 255 stand for none of 5 outputs, which are 0 to 4"),
    (Y + 1, 3, {}, "labels 3 stand for none of 3 outputs, which are 0 to 2"),
    (2 * (Y > 0).long() - 1, 2, {}, "labels -1 stand for none of 2 outputs, which are 0 to 1"),
    (2 * (Y > 0).long() - 1, 1, {}, "labels -1 stand for none of 2 outputs, which are 0 to 1"),
    (torch.where(DROPPED, -100, Y), 4, {"ignore_index": None}, "labels -100 stand for none of 4 outputs, which are 0 to 3"),
    (Y + 100, 40, {}, "labels 100, 101, 102 stand for none of 40 outputs, which are 0 to 39"),
    (torch.arange(120) % 8 + 100, 40, {}, "labels 100, 101, 102, 103, 104 and 3 more stand for none of 40 outputs, which are 0 to 39"),
]


@pytest.mark.parametrize(("y", "outputs", "options", "said"), STRAY)
def test_stray_labels_move_no_class_to_another_output(y, outputs, options, said):
    note = f"{said}; leave them out with ignore_index=, or renumber"
    report = campaign_(net(classes=outputs), (X, y), **options)
    assert f"2: no head was fitted: {note}" in report.warnings
    with pytest.raises(ValueError, match=f"layer: '2' cannot be fitted: {note}"):
        fit_head_(net(classes=outputs), (X, y), **options)
    report = paper(net(classes=outputs), (X, y), **options)
    assert f"2: its neurons were not assigned to classes: {note}" in report.warnings


@pytest.mark.parametrize("y", [Y > 0, np.array(["no", "yes"])[(Y > 0).int()]], ids=["booleans", "strings"])
def test_labels_that_are_no_numbers_stand_for_outputs_in_sorted_order(y):
    for start in (campaign_, fit_head_, paper):
        model = net(classes=2)
        report = start(model, (X, y), generator=seeded())
        assert not any("ignore_index" in line for line in report.warnings)
    model = net(classes=2)
    campaign_(model, (X, y), generator=seeded())
    assert float((model(X).argmax(1) == (Y > 0)).float().mean()) > 0.8


def tokens(n=60, length=7):
    x = torch.randn(n, length, 6, generator=seeded())
    return x, (x.sum(2) > 0).long()


@pytest.mark.parametrize("most", [2000, None])
@pytest.mark.parametrize("form", FORMS)
def test_tokens_that_are_left_out_change_nothing(form, most):
    """What they hold, far away from the others, neither moves the biases nor the head."""
    x, y = tokens()
    gone = torch.rand(y.shape, generator=seeded(1)) < 0.4
    gone[3] = True  # a whole sequence
    x[gone] += 50
    model = net(classes=2)
    report = campaign_(model, FORMS[form](x, torch.where(gone, -100, y)), max_samples=most, generator=seeded())
    assert (report.samples, report.classes) == (59, 2)
    assert report.notes == (f"data: left out {int(gone.sum())} of 420 labels, which are -100; with ignore_index=-100 this is not said",)
    assert abs(float(model[0](x)[~gone].detach().mean())) < 0.2
    assert float((model(x).argmax(2) == y)[~gone].float().mean()) > 0.75


def test_the_head_s_loss_is_over_the_tokens_that_count():
    x, y = tokens(n=16)
    y[: len(y) // 2, 3:] = -100
    model = net(classes=2)
    with torch.no_grad():
        before = float(nn.functional.cross_entropy(model(x[:2]).flatten(0, 1), y[:2].flatten()))
    report = fit_head_(model, (x, y), max_samples=None)
    assert report.loss_before == pytest.approx(before, rel=1e-5)
    assert report.notes == ("data: left out 32 of 112 labels, which are -100; with ignore_index=-100 this is not said",)


def test_pixel_masks_with_a_channel_are_labels_of_pixels():
    image = torch.randn(40, 1, 8, 8, generator=seeded())
    pixels = (image > 0).long()
    models = [nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, labels in zip(models, (pixels, pixels[:, 0]), strict=True):
        campaign_(model, (image, labels), generator=seeded())
    torch.testing.assert_close(models[0][0].weight, models[1][0].weight)
