"""Errors say what was probably meant: a layer's weight for candidates, other spellings of activations, classes for functions."""

import numpy as np
import pytest
from test_errors import GOOD, D, M

import nc_fast
from nc_fast.types import Scores

LAYER = np.random.default_rng(1).normal(size=(M, D))  # a row a neuron, as torch.nn.Linear.weight
UNTRANSPOSED = {  # what follows from it is not complained about: k, bias, scores
    "campaign": lambda W, X, y: nc_fast.campaign(W, X, y, 3),
    "campaign, k": lambda W, X, y: nc_fast.campaign(W, X, y, M),
    "campaign, bias": lambda W, X, y: nc_fast.campaign(W, X, y, M, bias=np.zeros(M)),
    "class_moments": lambda W, X, y: nc_fast.class_moments(W, X, y),
    "class_moments, batches": lambda W, X, y: nc_fast.class_moments(W, [(X, y)]),
    "pursuit, k": lambda W, X, y: nc_fast.pursuit(W, X, y, M),
    "pursuit, batches": lambda W, X, y: nc_fast.pursuit(W, [(X, y)], None, 3),
    "select": lambda W, X, y: nc_fast.select(W, np.ones(M), M, by_class=False),
    "select, Scores": lambda W, X, y: nc_fast.select(W, Scores(np.ones(M), np.zeros(M, int), np.ones(M, bool), np.zeros(1, int)), 3),
}


@pytest.mark.parametrize("library", ["numpy", "torch", "sparse"])
@pytest.mark.parametrize("call", UNTRANSPOSED)
def test_rows_taken_for_neurons(call, library):
    W, X, y = LAYER, GOOD["X"], GOOD["y"]
    if library == "torch":
        torch = pytest.importorskip("torch")
        W, X, y = torch.nn.Parameter(torch.tensor(W)), torch.tensor(X), torch.tensor(y)
    if library == "sparse":
        X = pytest.importorskip("scipy.sparse").csr_array(X)
    name = "W_candidates" if call.startswith(("campaign", "pursuit")) and "batches" not in call else "W"
    start = "batch 0: W" if "batches" in call else name
    right = r"\(D, 9\), a column a neuron" if call.startswith("select") else r"\(4, M\) to match X"
    with pytest.raises(ValueError, match=rf"^{start}: expected shape \(D, M\) = {right}, got \(9, 4\); pass {name}\.T where rows"):
        UNTRANSPOSED[call](W, X, y)
    UNTRANSPOSED[call](W.T, X, y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": M}, rf"k: expected 1 <= k <= M = {D}, got {M}; pass W\.T where rows are neurons"),
        ({"k": 2, "bias": np.zeros(M)}, rf"bias: expected a number or shape \(M,\) = \({D},\), got \({M},\); pass W\.T where rows"),
    ],
)
def test_rows_taken_for_neurons_before_a_batch_is_read(change, message):
    with pytest.raises(ValueError, match=message):
        nc_fast.pursuit(LAYER, [(GOOD["X"], GOOD["y"])], None, **change)


@pytest.mark.parametrize("k", [0, 10])
def test_no_other_k_is_blamed_on_the_orientation(k):
    with pytest.raises(ValueError, match=r"^k: expected 1 <= k <= M = 9, got [0-9]+$"):
        nc_fast.campaign(**{**GOOD, "k": k})


NEAR = {
    "relu": ["ReLU", "RELU", "nn.ReLU", "rleu", "rectifier"],
    "silu": ["SiLU", "swish", "Swish"],
    "leaky_relu": ["LeakyReLU", "leakyrelu", "leaky-relu", "lrelu", "leaky_rleu"],
    "gelu": ["GELU", "Gelu"],
    "gelu_tanh": ["gelu_new", "gelu_pytorch_tanh", "GELU_tanh"],
    "identity": ["linear", "none", "Identity", "None"],
    "sigmoid": ["logistic", "Sigmoid", "sigmiod"],
    "softplus": ["SoftPlus"],
    "elu": ["ELU"],
    "tanh": ["Tanh", "TANH"],
    None: ["hardtanh", "Hardswish", "hard_sigmoid", "ReLU6", "selu", "PReLU", "GLU", "softmax", "logsigmoid", "xyz", ""],
}


@pytest.mark.parametrize(("written", "meant"), [(written, meant) for meant, names in NEAR.items() for written in names])
def test_the_activation_that_was_meant(written, meant):
    end = f"; did you mean '{meant}'?" if meant else ""
    with pytest.raises(ValueError, match=rf"^activation: expected one of .*, got '{written}'{end}$".replace("?", r"\?")):
        nc_fast.class_moments(GOOD["W_candidates"], GOOD["X"], GOOD["y"], activation=written)


@pytest.mark.parametrize(
    ("argument", "written", "meant"), [("backend", "CPU", "cpu"), ("method", "Exact", "exact"), ("shard", "SAMPLE", "samples")]
)
def test_other_names_in_any_case(argument, written, meant):
    with pytest.raises(ValueError, match=f"^{argument}: expected one of .*, got '{written}'; did you mean '{meant}'"):
        nc_fast.campaign(**{**GOOD, argument: written})


def test_torch_activations_on_weights_of_either_library():
    torch = pytest.importorskip("torch")
    functions = {"relu": [torch.nn.ReLU(), torch.nn.ReLU(inplace=True), torch.relu, torch.nn.functional.relu_], "tanh": [torch.nn.Tanh()]}
    arrays = [GOOD[name] for name in ("W_candidates", "X", "y")]
    for name, given in functions.items():
        expected = nc_fast.class_moments(*arrays, activation=name)
        for function in given:
            found = nc_fast.class_moments(*map(torch.tensor, arrays), activation=function)
            np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
            message = f"^activation: expected a callable on NumPy arrays of float64, as W is, got TypeError: .*; did you mean '{name}'"
            with pytest.raises(TypeError, match=message):
                nc_fast.class_moments(*arrays, activation=function)


@pytest.mark.parametrize(("name", "hint"), [("ReLU", "; did you mean 'relu'"), ("SiLU", "; did you mean 'silu'"), ("Hardtanh", "")])
def test_a_class_is_no_activation(backend, name, hint):
    cls = getattr(pytest.importorskip("torch").nn, name)
    with pytest.raises(TypeError, match=rf"^activation: expected a name or a function, got the class {name}{hint}"):
        nc_fast.campaign(**{**GOOD, "activation": cls, "backend": backend})
