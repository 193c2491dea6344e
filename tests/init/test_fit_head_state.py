"""fit_head_ leaves all but the head as found, and everything when it refuses or fails."""

import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, net, seeded
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from nc_fast.init import campaign_, fit_head_

START = {"fit_head_": fit_head_, "campaign_": campaign_}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_as(before, model):
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value), name


def normed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3))
    model[1](torch.randn(20, 9))
    model[3].eval()
    return model


def frozen_head():
    model = net()
    model[2].requires_grad_(False)
    return model


def tied_head():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    return model


def last_conv():
    return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 6), nn.Flatten())


@pytest.mark.parametrize(
    ("make", "labels", "options", "message"),
    [
        (last_conv, None, {}, "layer: '1' cannot be fitted: a fitted head is a Linear layer, this is Conv1d"),
        (net, None, {"layer": "0"}, "layer: '0' cannot be fitted: its output is not the model's"),
        (net, None, {"layer": "1"}, "layer: expected one of '0', '2', got '1'"),
        (net, None, {"layer": "head"}, "layer: expected one of '0', '2', got 'head'"),
        (lambda: net(classes=2), None, {}, "layer: '2' cannot be fitted: it has 2 outputs for labels of 3 classes"),
        (net, lambda X, y: X[:, :2], {}, "layer: '2' cannot be fitted: it has 3 outputs for 2 targets"),
        (net, lambda X, y: y * 0, {}, "layer: '2' cannot be fitted: there is one class only"),
        (frozen_head, None, {"layer": "2"}, "layer: '2' cannot be fitted: frozen"),
        (frozen_head, None, {}, "layer: '.' cannot be fitted: "),
        (tied_head, None, {}, "model: expected a Linear output layer, got .*its weight is shared"),
        (net, lambda X, y: y.double() / 0, {}, "data: y: expected finite"),
    ],
)
def test_refusals_leave_the_model_as_it_was(make, labels, options, message):
    X, y = blobs(6)
    model = make()
    before = state(model)
    with pytest.raises(ValueError, match=f"^{message}"):
        fit_head_(model, (X, y if labels is None else labels(X, y)), **options)
    assert_as(before, model)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
@pytest.mark.parametrize("start", START)
def test_an_error_in_the_loss_leaves_the_model_as_it_was(start, error):
    X, y = blobs(6)
    calls = []

    def counting(z, y):
        calls.append(z)
        if len(calls) > allowed[0]:
            raise error("no more")
        return functional.cross_entropy(z, y)

    allowed = [1000]
    START[start](normed(), (X, y), loss=counting)
    total = len(calls)
    assert total > 4
    for allowed[0] in (0, 1, total // 2, total - 1):
        model = normed()
        before, modes = state(model), [module.training for module in model.modules()]
        calls.clear()
        with pytest.raises(error, match="no more"):
            START[start](model, (X, y), loss=counting)
        assert_as(before, model)
        assert modes == [module.training for module in model.modules()]
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("start", START)
def test_only_weights_and_biases_change(start):
    X, y = blobs(6)
    model = normed()
    model[4].bias.requires_grad_(False)
    given = torch.ones_like(model[0].weight)
    model[0].weight.grad = given
    before, modes = state(model), [module.training for module in model.modules()]
    wants = [parameter.requires_grad for parameter in model.parameters()]
    rng = torch.get_rng_state()
    START[start](model, (X, y), generator=seeded())
    assert torch.equal(rng, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert wants == [parameter.requires_grad for parameter in model.parameters()]
    assert model[0].weight.grad is given
    assert torch.equal(given, torch.ones_like(given))
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "0.weight")
    assert all(parameter.is_leaf for parameter in model.parameters())
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    head = {"6.weight", "6.bias"}
    assert changed == (head if start == "fit_head_" else head | {"0.weight", "0.bias", "4.weight"})


@pytest.mark.parametrize("start", START)
def test_same_seed_same_bits_whatever_the_global_state(start):
    X, y = blobs(6)
    loader = DataLoader(TensorDataset(X, y), batch_size=16, shuffle=True)
    for data in ((X, y), loader, [(X[:70], y[:70]), (X[70:], y[70:])]):
        models = []
        for seed in (1, 2):
            model = normed()
            torch.manual_seed(seed)
            START[start](model, data, max_samples=80, generator=seeded(7))
            models.append(model)
        assert_as(state(models[0]), models[1])


def test_fresh_batchnorm_normalizes_by_the_batch_and_keeps_its_statistics():
    X, y = blobs(6)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    fit_head_(model, (100 * X, y), generator=seeded())
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name]), name
    model.train()
    with torch.no_grad():
        assert float((model(100 * X).argmax(1) == y).float().mean()) > 0.8
        assert float(model[3].weight.detach().abs().max()) < 10
