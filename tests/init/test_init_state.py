"""What campaign_ leaves alone: modes, buffers, generators, hooks; after an error, everything."""

import random

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, paper
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nc_fast.init import campaign_


def deep(depth=8, width=9):
    layers = [nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5)]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 3))


def linears(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_states(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def rng_states():
    return torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002  (the state users' code has)


def assert_same_rng(a, b):
    assert torch.equal(a[0], b[0])
    assert a[1:] == b[1:]


def test_only_weights_and_biases_of_reported_layers_change():
    X, y = blobs(6)
    model = deep()
    model[3].eval()
    model[4].weight.requires_grad_(False)
    model[8].bias.requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    before, modes = state(model), [module.training for module in model.modules()]
    wants = [parameter.requires_grad for parameter in model.parameters()]
    identities = [id(parameter) for parameter in model.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    rng = rng_states()
    data = X.clone()
    report = campaign_(model, (X, y), generator=torch.Generator().manual_seed(3))
    assert_same_rng(rng, rng_states())
    assert torch.equal(X, data)
    assert modes == [module.training for module in model.modules()]
    assert wants == [parameter.requires_grad for parameter in model.parameters()]
    assert identities == [id(parameter) for parameter in model.parameters()]
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    expected = {f"{layer.name}.{part}" for layer in report.layers for part in ("weight", "bias")} - {"8.bias"}
    assert changed == expected
    assert [(layer.name, layer.reason) for layer in report.kept] == [("4", "frozen (requires_grad is False)")]
    assert "frozen" in report["8"].notes[0]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt], ids=["error", "ctrl-c"])
@pytest.mark.parametrize("layer", range(8))
def test_an_error_at_any_layer_leaves_the_model_as_it_was(layer, error):
    X, y = blobs(6)
    model = deep()
    before, modes, rng = state(model), [module.training for module in model.modules()], rng_states()
    calls = 0

    def failing(weight):
        nonlocal calls
        calls += 1
        if calls > 3 * layer:  # pool = 3 draws a layer
            raise error("no more")
        return nn.init.kaiming_normal_(weight)

    with pytest.raises(error, match="no more"):
        paper(model, (X, y), pool=3, base=failing, generator=torch.Generator().manual_seed(0))
    assert calls == 3 * layer + 1
    assert_equal_states(before, state(model))
    assert modes == [module.training for module in model.modules()]
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert_same_rng(rng, rng_states())


def test_a_failing_forward_pass_leaves_the_model_as_it_was():
    X, y = blobs(6)
    model = deep()
    before = state(model)
    with pytest.raises(RuntimeError, match=r"data: expected batches that the model can be called with, got RuntimeError"):
        campaign_(model, (X[:, :5], y))
    assert_equal_states(before, state(model))
    assert all(module.training for module in model.modules())


def test_a_non_finite_activation_names_its_layer():
    X, y = blobs(6)
    model = nn.Sequential(nn.Linear(6, 4), nn.LogSigmoid(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    model[1].forward = lambda x: x / 0
    before = state(model)
    with pytest.raises(ValueError, match=r"layer '2': its inputs are not finite"):
        campaign_(model, (X, y))
    assert_equal_states(before, state(model))


def test_same_seed_same_weights_whatever_the_global_state():
    X, y = blobs(6)
    loader = DataLoader(TensorDataset(X, y), batch_size=16, shuffle=True)
    unsized = [(X[i : i + 16], y[i : i + 16]) for i in range(0, 120, 16)]
    for data in ((X, y), loader, unsized):
        results = []
        for seed in (1, 2):
            model = deep()
            torch.manual_seed(seed)
            campaign_(model, data, max_samples=60, generator=torch.Generator().manual_seed(7))
            results.append({name: value for name, value in state(model).items() if "weight" in name and "1." not in name})
        assert_equal_states(*results)


def test_init_functions_without_a_generator_argument_follow_the_generator_too():
    X, y = blobs(6)
    results = []
    for _ in range(2):
        model = deep()
        campaign_(model, (X, y), base=lambda w: w.copy_(torch.randn(w.shape)), generator=torch.Generator().manual_seed(7))
        results.append(model[0].weight)
    assert torch.equal(*results)


def test_without_a_generator_the_global_one_is_drawn_from():
    X, y = blobs(6)
    results = []
    for _ in range(2):
        model = deep()
        torch.manual_seed(11)
        before = torch.get_rng_state()
        campaign_(model, (X, y))
        assert not torch.equal(before, torch.get_rng_state())
        results.append(model[0].weight)
    assert torch.equal(*results)


def test_the_loader_s_own_generator_is_given_back():
    X, y = blobs(6)
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(X, y), batch_size=16, shuffle=True, generator=own)
    before = own.get_state()
    campaign_(deep(), loader, max_samples=None, generator=torch.Generator())
    assert torch.equal(before, own.get_state())


def test_fresh_batchnorm_normalizes_by_the_batch_and_keeps_its_statistics():
    X, y = blobs(6)
    fresh = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))
    report = paper(fresh, (100 * X, y), generator=torch.Generator().manual_seed(0))
    assert report["0"].activation == "batchnorm, relu"
    assert report["3"].after.std < 5  # its inputs have standard deviation 1, not 100
    assert int(fresh[1].num_batches_tracked) == 0
    assert torch.equal(fresh[1].running_var, torch.ones(9))
    trained = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3))
    trained(X)
    trained.eval()
    report = paper(trained, (100 * X, y), generator=torch.Generator().manual_seed(0))
    assert report["0"].activation == "relu"
    assert report["3"].after.std > 50


def test_dropout_is_off():
    X, y = blobs(6)
    weights = []
    for p in (0.0, 0.9):
        model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(p), nn.Linear(9, 3))
        campaign_(model, (X, y), generator=torch.Generator().manual_seed(0))
        weights.append(model[3].weight)
    assert torch.equal(*weights)
