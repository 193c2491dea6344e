"""Every wrong argument: one clear message before any work."""

import inspect
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, paper
from torch import nn

from nc_fast.init import campaign_, fit_head_

OF_CAMPAIGNS = {"alpha": 0.5, "by_class": False, "criterion": "fisher", "method": "exact"}  # with a value that is right

CASES = [
    ({"select": "pursuits"}, ValueError, "select: expected one of 'pursuit', 'campaign', got 'pursuits'; did you mean 'pursuit'"),
    ({"head": "least squares"}, ValueError, "head: expected one of 'least_squares', 'campaign', got 'least squares'; did you mean"),
    ({"lr": 0}, ValueError, "lr: expected a number > 0, got 0"),
    ({"lr": "0.1"}, TypeError, "lr: expected a number, got '0.1'"),
    ({"loss": "mse"}, TypeError, r"loss: expected a callable of \(outputs, y\) or None, got str"),
    *[
        ({name: value}, ValueError, f"{name}: expected None without select='campaign' or head='campaign', got")
        for name, value in OF_CAMPAIGNS.items()
    ],
    ({"pool": 0}, ValueError, "pool: expected at least 1, got 0"),
    ({"pool": 2.5}, TypeError, "pool: expected an integer, got 2.5"),
    ({"pool": True}, TypeError, "pool: expected an integer, got True"),
    ({"base": "kaiming"}, ValueError, r"base: expected one of .*, got 'kaiming'; did you mean"),
    ({"base": "constant"}, ValueError, "base: expected one of"),
    ({"base": 3}, TypeError, "base: expected one of"),
    ({"base": nn.init.constant_}, TypeError, "base: expected a callable that needs only a tensor to fill"),
    ({"base": lambda w: w.fill_(float("nan"))}, ValueError, "layer '0': W: expected finite numbers, got nan|bias: expected finite"),
    ({"alpha": "linar"}, ValueError, "alpha: expected one of 'linear', got 'linar'; did you mean 'linear'"),
    ({"alpha": 1.5}, ValueError, r"alpha: expected a number in \[0, 1\], got 1.5"),
    ({"alpha": [0.5]}, ValueError, "alpha: expected 2 numbers, one for each of 0, 2, got 1"),
    ({"alpha": [0.5, 3]}, ValueError, r"alpha: expected a number in \[0, 1\], got 3"),
    ({"alpha": lambda _: 2.0}, ValueError, r"alpha: expected a number in \[0, 1\], got 2.0"),
    ({"bias": "centre"}, ValueError, "bias: expected one of 'center', 'zeros', got 'centre'; did you mean 'center'"),
    ({"bias": None}, TypeError, "bias: expected a number, got None"),
    ({"bias": float("inf")}, ValueError, "bias: expected a finite number, got inf"),
    ({"gain": 0}, ValueError, "gain: expected a number > 0, got 0"),
    ({"gain": "1"}, TypeError, "gain: expected a number, got '1'"),
    ({"max_samples": 1}, ValueError, "max_samples: expected at least 2, got 1"),
    ({"max_patches": 0}, ValueError, "max_patches: expected at least 1, got 0"),
    ({"max_samples": 10.0}, TypeError, "max_samples: expected an integer, got 10.0"),
    ({"layers": "0"}, TypeError, "layers: expected a list of names or None, got '0'"),
    ({"layers": ["fc"]}, ValueError, "layers: expected one of '0', '2', got 'fc'"),
    ({"by_class": 1}, TypeError, "by_class: expected True or False, got 1"),
    ({"criterion": "fischer"}, ValueError, "criterion: expected one of 'ib', 'fisher', got 'fischer'; did you mean 'fisher'"),
    ({"criterion": 3}, TypeError, "criterion: expected one of"),
    ({"method": "exakt"}, ValueError, "method: expected one of .*; did you mean 'exact'"),
    ({"generator": 3}, TypeError, "generator: expected a torch.Generator or None, got int"),
    ({"progress": 3}, TypeError, "progress: expected True, False or a callable, got int"),
    ({"activations": "rellu"}, ValueError, "activation: expected one of .*; did you mean 'relu'"),
    ({"activations": {"1": "relu"}}, ValueError, "activations: expected one of '0', '2', got '1'"),
    ({"candidates": torch.ones(9, 6)}, TypeError, "candidates: expected a dict, layer name -> weight, got Tensor"),
    ({"candidates": {"fc": torch.ones(9, 6)}}, ValueError, "candidates: expected one of '0', '2', got 'fc'"),
    ({"candidates": {"0": 3}}, TypeError, r"candidates\['0'\]: expected a tensor \(M, 6\), or a pair .* got int"),
    ({"candidates": {"0": torch.ones(9, 5)}}, ValueError, r"candidates\['0'\]: expected a tensor \(M, 6\), got shape \(9, 5\)"),
    ({"candidates": {"0": torch.ones(3, 6)}}, ValueError, r"candidates\['0'\]: expected at least 7 rows, the layer's neurons, got 3"),
    ({"candidates": {"0": torch.ones(9, 6).long()}}, TypeError, r"candidates\['0'\]: expected floating numbers, got torch.int64"),
    ({"candidates": {"0": (torch.ones(9, 6), torch.ones(8))}}, ValueError, r"expected biases of shape \(M,\) = \(9,\), got \(8,\)"),
    ({"candidates": {"0": torch.ones(9, 6) / 0}}, ValueError, r"candidates\['0'\]: expected finite numbers, got inf"),
    ({"base": lambda _: None}, ValueError, "layer '0': (W|bias): expected finite numbers, got nan"),
    ({"batch": lambda: None}, TypeError, "batch: expected a callable that needs only an item of the data"),
    ({"batch": lambda b: b[7]}, ValueError, r"batch: expected a function that takes \(X, y\), got IndexError"),
    ({"mask": "attention_mask"}, ValueError, r"mask: expected the name of one of the inputs \['input'\], got 'attention_mask'"),
    ({"mask": np.ones((120, 6)) / 2}, ValueError, r"mask: expected 0 and 1, or booleans, of shape \(n, \*positions\) with n = 120, got"),
    (
        {"ignore_index": (0, 1, 2)},
        ValueError,
        "data: expected at least one sample, got none but 120 labelled 0 or 1 or 2, which ignore_index",
    ),
]


def with_a_campaign(arguments):
    """Return arguments to which those that belong to campaigns are right."""
    return {"select": "campaign", **arguments} if set(arguments) & set(OF_CAMPAIGNS) else arguments


@pytest.mark.parametrize(("arguments", "error", "message"), CASES)
def test_wrong_arguments_are_refused(arguments, error, message):
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    if error is not ValueError or "expected None" not in message:
        arguments = with_a_campaign(arguments)
    with pytest.raises(error, match=message):
        campaign_(model, blobs(6), **arguments)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


X, Y = blobs(6)
GIVEN = torch.ones(9, 6)
SPARSE = GIVEN.to_sparse()
# For every argument, values of wrong kinds.
WRONG_KINDS = {
    "model": [None, "mlp", nn.Linear, SimpleNamespace(parameters=list)],
    "data": [
        *[None, 3, 0.5, "Xy", b"Xy", X, Y, (X,), (X, None), (None, Y), (X, Y.to(torch.complex64)), (X.numpy().astype(str), Y)],
        *[(np.ma.masked_array(X.numpy()), Y), (X, np.ma.masked_array(Y.numpy())), (X.to_sparse(), Y), (X.to("meta"), Y)],
        *[{"X": X, "y": Y}, [(X, None)], [(None, Y)], [(X, {"y": Y})], [(X, [object()] * 120)], [{"X": X}], [3]],
    ],
    "select": [None, 3, True, ["pursuit"]],
    "head": [3, True, ["campaign"]],
    "lr": ["0.1", True, 1j, [0.1], np.ones(1), torch.tensor(0.1)],
    "loss": ["mse", 3, True, [len]],
    "pool": ["10", 10.0, np.nan, True, [10], GIVEN],
    "base": [3, ["kaiming_normal"], True, nn.init.constant_, lambda: None],
    "alpha": [True, 1j, {}, [None], ["linear"], [True], np.array(0.5), np.ones((2, 2)), torch.tensor(0.5), lambda: 0.5],
    "bias": [None, True, np.False_, 1j, [0.0], ("center",), np.zeros(7), torch.tensor(0.0), lambda: 0],
    "gain": [None, True, "1", 1j, [1.0], np.ones(1), torch.tensor(1.0)],
    "max_samples": [0.5, "2000", True, np.inf, [2000]],
    "max_patches": [0.5, "2000", True, np.inf, [2000], None],
    "layers": [3, 0.5, True, "0", [3], [None], [b"0"], {0: "relu"}, nn.Linear(6, 7)],
    "by_class": ["no", 1, 0.0, [True], np.array([True])],
    "criterion": [3, True, ["ib"], np.ones(3)],
    "method": [True, 3, ["exact"], len],
    "generator": [1, True, "seed", np.random.default_rng(0), torch.Generator],
    "progress": [None, "yes", 1, [True], np.True_],
    "activations": [3, True, ["relu", "relu"], {"0": None}, {"0": 3}, {0: "relu"}, {None: "relu"}],
    "candidates": [
        *[3, GIVEN, [GIVEN], ("0", GIVEN), {0: GIVEN}, {"0": None}, {"0": GIVEN.numpy()}, {"0": (GIVEN, 3)}, {"0": GIVEN.bool()}],
        *[{"0": (GIVEN, torch.ones(9, dtype=torch.complex64))}, {"0": SPARSE}, {"0": GIVEN.to("meta")}],
    ],
    "ignore_index": [True, -100.0, [None], [0, 1.5], {"a": 1.0}.values(), len],
    "batch": ["x", 3, True, [len], {"x": "y"}, lambda: None],
    "mask": [True, 3, 0.5, ["mask"], (True,), len],
}
WRONG_KINDS_OF_HEADS = {name: WRONG_KINDS[name] for name in ("model", "data", "lr", "loss")} | {
    "layer": [3, True, ["2"], b"2", nn.Linear(7, 3)],
    "max_samples": WRONG_KINDS["max_samples"],
    **{name: WRONG_KINDS[name] for name in ("generator", "ignore_index", "batch", "mask")},
}
TABLES = {campaign_: WRONG_KINDS, fit_head_: WRONG_KINDS_OF_HEADS}
KINDS = [
    pytest.param(function, name, value, id=f"{function.__name__}-{name}-{number}")
    for function, table in TABLES.items()
    for name, values in table.items()
    for number, value in enumerate(values)
]
MESSAGE_NAMES = {"activations": "activations?"}


class Unread:
    """Data that must not be read, since another argument is wrong."""

    def __iter__(self):
        raise AssertionError("work began")


def test_the_tables_have_every_argument():
    for function, table in TABLES.items():
        assert list(table) == list(inspect.signature(function).parameters)


@pytest.mark.parametrize(("function", "name", "value"), KINDS)
def test_wrong_kinds_are_refused_in_one_form_before_any_work(function, name, value):
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))
    model.register_forward_pre_hook(lambda *_: pytest.fail("work began"))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    arguments = with_a_campaign({"model": model, "data": Unread(), **{name: value}})
    with pytest.raises(TypeError) as caught:
        function(**arguments)
    assert re.match(rf"{MESSAGE_NAMES.get(name, name)}\b.*: expected .*, got ", str(caught.value), re.DOTALL), caught.value
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (3, TypeError, "model: expected a torch.nn.Module, got int"),
        (nn.ReLU(), ValueError, "model: expected at least one Linear, Conv1d, Conv2d, Conv3d or MultiheadAttention layer, got none"),
        (nn.LazyLinear(3), ValueError, "model: expected initialized parameters, got lazy ones; call the model on a batch first"),
        (nn.Linear(6, 3, device="meta"), ValueError, "model: expected parameters with storage, got the meta device"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_models_that_cannot_be_initialized(model, error, message):
    with pytest.raises(error, match=message):
        campaign_(model, blobs(6))


def test_layers_are_named_by_the_module_they_are_in():
    X, y = blobs(6)
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 7)), nn.ReLU(), nn.Linear(7, 3))
    before = model[2].weight.detach().clone()
    report = campaign_(model, (X, y), layers=["0"])
    assert [layer.name for layer in report.layers] == ["0.0", "0.2"]
    assert torch.equal(before, model[2].weight)


def test_a_single_layer_is_a_last_one():
    X, y = blobs(6)
    report = paper(nn.Linear(6, 3), (X, y))
    assert [(layer.name, layer.alpha) for layer in report.layers] == [("model", 0)]
