"""Compiled models run eagerly while they are initialized, and are compiled afterwards as before; scripted ones are refused."""

import warnings

import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, seeded
from torch import nn

from nc_fast.init import campaign_, fit_head_

pytest.importorskip("torch._dynamo")

START = {"campaign_": campaign_, "fit_head_": fit_head_}
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
stances = pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch >= 2.6")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 8)

    def forward(self, x):
        return activation(self.fc(x))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block, self.body, self.head = Block(), nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(self.block(x)))


def activation(x):
    return x.relu()


class Backend:
    """Runs graphs as they are; counts those it was given, and their runs."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, graph, _inputs):
        self.graphs += 1

        def run(*args):
            self.runs += 1
            return graph.forward(*args)

        return run


@pytest.fixture
def backend():
    torch._dynamo.reset()
    yield Backend()
    torch._dynamo.reset()


def model_compile(model, backend, _patch):
    model.compile(backend=backend)
    return model


def whole(model, backend, _patch):
    return torch.compile(model, backend=backend)


def block(model, backend, _patch):
    model.block = torch.compile(model.block, backend=backend)
    return model


def block_compile(model, backend, _patch):
    model.block.compile(backend=backend)
    return model


def layers(model, backend, _patch):
    model.body[0] = torch.compile(model.body[0], backend=backend)
    model.head = torch.compile(model.head, backend=backend)
    return model


def forward(model, backend, _patch):
    model.forward = torch.compile(model.forward, backend=backend)
    return model


def function(model, backend, patch):
    patch.setitem(globals(), "activation", torch.compile(activation, backend=backend))
    return model


MODULES = {form.__name__: form for form in (model_compile, whole, block, block_compile, layers, forward)}
FORMS = {**MODULES, "function": function}


def assert_as_eager(start, form, warm, backend, patch):
    X, y = blobs(6)
    plain = Network()
    expected = START[start](plain, (X, y), generator=seeded())
    values = [value.clone() for value in plain.state_dict().values()]
    plain_output = plain(X)  # before a form that compiles the function the plain network calls
    model = FORMS[form](Network(), backend, patch)
    statistics = {name: value.clone() for name, value in model.state_dict().items() if "1." in name}
    if warm:
        model(X)
        model.load_state_dict(statistics, strict=False)
        assert backend.graphs
    keys, before = list(model.state_dict()), (backend.graphs, backend.runs)
    report = START[start](model, (X, y), generator=seeded())
    assert (backend.graphs, backend.runs) == before
    assert list(model.state_dict()) == keys
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.state_dict().values(), values, strict=True))
    if start == "campaign_":
        assert [(one.kind, one.activation, one.picks) for one in report.layers] == [
            (one.kind, one.activation, one.picks) for one in expected.layers
        ]
        assert not report.kept
    torch.testing.assert_close(model(X), plain_output)
    if warm:  # the graph is the one compiled before, and reads the new weights
        assert backend.graphs == before[0]
    assert backend.runs > before[1]


@stances
@pytest.mark.parametrize("warm", [False, True], ids=["not run before", "run before"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", START)
def test_compiled_as_eager(start, form, warm, backend, monkeypatch):
    assert_as_eager(start, form, warm, backend, monkeypatch)


@pytest.mark.parametrize("form", MODULES)
def test_modules_without_stances(form, backend, monkeypatch):
    """As with torch before 2.6."""
    monkeypatch.delattr(torch.compiler, "set_stance", raising=False)
    assert_as_eager("campaign_", form, True, backend, monkeypatch)


@stances
@pytest.mark.parametrize("fails", [False, True])
def test_the_caller_s_stance_is_given_back(fails, backend):
    def loss(outputs, y):
        if fails:
            raise ArithmeticError
        return nn.functional.cross_entropy(outputs, y)

    X, y = blobs(6)
    model = torch.compile(Network(), backend=backend)
    with torch.compiler.set_stance("fail_on_recompile"):
        try:
            campaign_(model, (X, y), loss=loss)
        except ArithmeticError:
            assert fails
        with pytest.raises(RuntimeError, match="fail_on_recompile"):
            model(X)
    model(X)
    assert backend.runs == 1


def scripted(model, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(model)


def traced(model, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, X)


@pytest.mark.parametrize("form", [scripted, traced])
@pytest.mark.parametrize("start", START)
def test_a_scripted_model_is_refused(start, form):
    X, y = blobs(6)
    model = form(Network().eval(), X)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TypeError, match=r"^model: expected the module that was scripted or traced, got a .*; call torch.jit afterwards"):
        START[start](model, (X, y))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("form", [scripted, traced])
@pytest.mark.parametrize("start", START)
def test_beside_a_scripted_part_the_others_are_initialized(start, form):
    X, y = blobs(6)
    plain, model = Network().eval(), Network().eval()
    model.block = form(model.block, X)
    before = {name: value.clone() for name, value in model.block.state_dict().items()}
    fit_head_(plain, (X, y), generator=seeded())
    START[start](model, (X, y), generator=seeded())
    assert all(torch.equal(value, before[name]) for name, value in model.block.state_dict().items())
    changed = not torch.equal(model.head.weight, Network().head.weight)
    assert changed
    if start == "fit_head_":
        assert torch.equal(model.head.weight, plain.head.weight)
    assert not any(module.training for module in model.modules())
