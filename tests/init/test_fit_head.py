"""The fitted head: a ridge head on what the layer reads, as large as the loss asks for and 2 / lr allows."""

import warnings

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, net, seeded
from torch import nn
from torch.nn import functional

import nc_fast
from nc_fast.init import fit_head_
from nc_fast.init.batches import LabelledBatch
from nc_fast.init.labels import SampleLabels
from nc_fast.init.objective import Answers, Objective

UNSEEN = 15  # an eighth of 120 samples; the first ones with max_samples=None


def seeded_net(seed=0, **options):
    torch.manual_seed(seed)
    return net(**options)


def one_hot(y, n):
    return functional.one_hot(y, n).double().numpy()


def expected(model, X, T, report):
    """Return weight and bias (of one-hot targets, before 1 / C is taken off) of the ridge head, times the report's scale."""
    with torch.no_grad():
        hidden = model[:2](X)[UNSEEN:]
    head = nc_fast.ridge_head(hidden.flatten(0, -2), np.asarray(T)[UNSEEN:].reshape(-1, T.shape[-1]), standardize=False)
    assert head.ridge == report.ridge
    return report.scale * head.weights.T.numpy(), report.scale * head.intercept.numpy()


def assert_fitted(layer, weight, bias):
    np.testing.assert_allclose(layer.weight.detach(), weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.bias.detach(), bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("classes", "labels"), [(3, [0, 1, 2]), (9, [7, 1, 4]), (4, [0, 2, 3])])
def test_it_is_the_ridge_head_times_scale_minus_the_middle(classes, labels):
    X, y = blobs(6)
    y = torch.tensor(labels)[y]
    model = seeded_net(classes=classes)
    report = fit_head_(model, (X, y), max_samples=None)
    weight, bias = expected(model, X, one_hot(y, classes), report)
    assert_fitted(model[2], weight, bias - report.scale / classes)
    assert (report.name, report.samples, report.classes, report.limit) == ("2", 120, 3, 20)
    assert 1 <= report.scale <= report.wanted
    accuracy = float((model(X).argmax(1) == y).float().mean())
    assert accuracy > 0.8


def test_one_output_for_two_classes_is_the_second_s():
    X, y = blobs(6)
    model = seeded_net(classes=1)
    report = fit_head_(model, (X, y > 0), max_samples=None)
    weight, bias = expected(model, X, one_hot((y > 0).long(), 2)[:, 1:], report)
    assert_fitted(model[2], weight, bias - report.scale / 2)
    assert float(((model(X)[:, 0] > 0) == (y > 0)).float().mean()) > 0.8


def test_labels_that_are_strings_stand_for_outputs_in_sorted_order():
    X, y = blobs(6)
    models = [seeded_net(), seeded_net()]
    for model, labels in zip(models, (y, np.array(["ant", "bee", "cat"])[y]), strict=True):
        fit_head_(model, (X, labels), generator=seeded())
    assert torch.equal(models[0][2].weight, models[1][2].weight)


@pytest.mark.parametrize("T", [None, 1, 4])
def test_float_targets(T):
    X, _ = blobs(6)
    targets = (X @ torch.randn(6, T or 1, generator=seeded())).sin()
    y = targets[:, 0] if T is None else targets
    model = seeded_net(classes=T or 1)
    report = fit_head_(model, (X, y), max_samples=None)
    assert_fitted(model[2], *expected(model, X, targets.double().numpy(), report))
    assert (report.classes, report.wanted) == (0, 1)
    assert report.scale <= 1
    assert report.loss_after < report.loss_before
    with torch.no_grad():
        after = functional.mse_loss(model(X[:UNSEEN]).reshape(y[:UNSEEN].shape), y[:UNSEEN])
    assert report.loss_after == pytest.approx(float(after), rel=1e-5)


def test_a_label_per_token_is_a_sample_per_token():
    X, _ = blobs(5, 6)
    y = (X.sum(2) > 0).long()
    models = [seeded_net(classes=2), seeded_net(classes=2)]
    tokens = fit_head_(models[0], (X, y), max_samples=None)
    flat = fit_head_(models[1], (X.flatten(0, 1), y.flatten()), max_samples=None)
    torch.testing.assert_close(models[0][2].weight, models[1][2].weight, rtol=1e-4, atol=1e-5)
    assert tokens.sharpness == pytest.approx(flat.sharpness, rel=1e-3)
    assert tokens.loss_after == pytest.approx(flat.loss_after, rel=1e-4)


def test_without_a_bias_the_intercept_is_left_out():
    X, y = blobs(6)
    model = seeded_net(bias=False)
    model[2] = nn.Linear(7, 3, bias=False)
    report = fit_head_(model, (X, y), max_samples=None)
    weight, _ = expected(model, X, one_hot(y, 3), report)
    np.testing.assert_allclose(model[2].weight.detach(), weight, rtol=1e-4, atol=1e-5)
    assert report.notes == ("it has no bias parameter; its intercept is left out",)


def test_a_frozen_bias_is_kept():
    X, y = blobs(6)
    model = seeded_net()
    model[2].bias.requires_grad_(False)
    before = model[2].bias.clone()
    report = fit_head_(model, (X, y))
    assert torch.equal(before, model[2].bias)
    assert "frozen" in str(report)


def test_a_parametrized_head_is_set_through_its_parametrization():
    X, y = blobs(6)
    plain, model = seeded_net(), seeded_net()
    nn.utils.parametrizations.weight_norm(model[2])
    for one in (plain, model):
        fit_head_(one, (X, y), max_samples=None, lr=None)
    torch.testing.assert_close(model[2].weight, plain[2].weight, rtol=1e-4, atol=1e-5)


def test_with_a_frozen_backbone_only_the_head_is_sharp():
    X, y = blobs(6)
    model = seeded_net()
    whole = fit_head_(seeded_net(), (X, y), max_samples=None, lr=None)
    model[0].requires_grad_(False)
    backbone = model[0].weight.clone()
    frozen = fit_head_(model, (X, y), max_samples=None, lr=None)
    with torch.no_grad():
        hidden = model[:2](X)
    alone = nn.Linear(7, 3)
    report = fit_head_(alone, (hidden, y), max_samples=None, lr=None)
    assert torch.equal(backbone, model[0].weight)
    assert frozen.sharpness == pytest.approx(report.sharpness, rel=1e-4)
    assert frozen.sharpness < 0.9 * whole.sharpness
    torch.testing.assert_close(alone.weight, model[2].weight)


def test_the_user_s_loss_is_used():
    X, y = blobs(6)

    def cooler(z, y):
        return functional.cross_entropy(z / 2, y)

    found = {}
    for loss in (None, cooler):
        model = seeded_net()
        with torch.no_grad():
            before = float((loss or functional.cross_entropy)(model(X[:UNSEEN]), y[:UNSEEN]))
        found[loss] = fit_head_(model, (X, y), loss=loss, max_samples=None, lr=None)
        assert found[loss].loss_before == pytest.approx(before, rel=1e-5)
        with torch.no_grad():
            after = float((loss or functional.cross_entropy)(model(X[:UNSEEN]), y[:UNSEEN]))
        assert found[loss].loss_after == pytest.approx(after, rel=1e-5)
    assert found[cooler].sharpness != pytest.approx(found[None].sharpness, rel=0.01)


def test_a_log_softmax_with_its_loss_is_a_cross_entropy():
    X, y = blobs(6)
    plain, model = seeded_net(), nn.Sequential(*seeded_net(), nn.LogSoftmax(1))
    expected = fit_head_(plain, (X, y), loss=functional.cross_entropy, max_samples=None)
    report = fit_head_(model, (X, y), loss=functional.nll_loss, max_samples=None)
    assert report.wanted == expected.wanted
    assert report.sharpness == pytest.approx(expected.sharpness, rel=1e-3)


def test_a_loss_without_curvature_ends():
    X, _ = blobs(6)
    report = fit_head_(seeded_net(classes=2), (X, X[:, :2]), loss=functional.l1_loss)
    assert (report.sharpness, report.scale, report.warnings) == (0, 1, ())


def hinge(z, y):
    own = z.gather(1, y[:, None])
    return (1 + z - own).relu().sum(1).mean() - 1


def test_a_loss_of_labels_without_curvature_is_as_large_as_wanted():
    X, y = blobs(6)
    report = fit_head_(seeded_net(), (X, y), loss=hinge)
    assert (report.sharpness, report.scale) == (0, report.wanted)
    assert report.loss_after < report.loss_before


@pytest.mark.parametrize("seed", range(3))
def test_sharpness_stays_below_2_by_lr_and_a_larger_rate_has_no_larger_scale(seed):
    X, y = blobs(6)
    X = X * (1, 3, 0.3)[seed]
    scales = []
    for lr in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
        model = seeded_net(seed)
        report = fit_head_(model, (X, y), lr=lr, max_samples=None)
        assert report.limit == pytest.approx(min(2 / lr, 40))
        assert report.sharpness <= report.limit or report.warnings
        objective = Objective(
            model,
            model[-1],
            torch.device("cpu"),
            [LabelledBatch(X[:UNSEEN], SampleLabels(y[:UNSEEN].numpy()))],
            Answers(np.arange(3), np.arange(3), None),
            None,
            99,
        )
        exact = objective.sharpness(objective.gradient(), 60)[0]
        assert 0.5 * exact <= report.sharpness <= 1.001 * exact
        scales.append(report.scale)
    assert scales == sorted(scales, reverse=True)
    assert scales[0] > scales[-1]


def test_the_layer_can_be_named_and_the_report_prints():
    X, y = blobs(6)
    model = seeded_net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = fit_head_(model, (X, y), layer="2", generator=seeded())
    lines = str(report).splitlines()
    assert lines[0].startswith(
        f"head 2: scale {report.scale:.3g} of {report.wanted:.3g} wanted, sharpness {report.sharpness:.3g}, limit 20"
    )
    assert report.to_dict()["warnings"] == list(report.warnings)
    assert report.seconds > 0


def test_a_parametrization_that_changes_the_head_is_refused():
    model = seeded_net()
    nn.utils.parametrizations.spectral_norm(model[2])
    with pytest.raises(ValueError, match=r"layer '2': its parametrization changed the weights by .* head='campaign'"):
        fit_head_(model, blobs(6))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_float_targets_of_a_sigmoid_s_outputs_are_on_the_right_side_of_a_half(shape):
    y = (torch.arange(120) % 2).float()
    X = torch.randn(120, 6, generator=torch.Generator().manual_seed(0)) + 2 * y[:, None]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid(), nn.Flatten(0) if shape == () else nn.Identity())
    fit_head_(model, (X, y.reshape(-1, *shape)))
    with torch.no_grad():
        predicted = model(X).flatten() > 0.5
    assert float((predicted == y.bool()).float().mean()) > 0.9
