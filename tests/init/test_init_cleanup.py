"""Whatever a model does in its forward pass, and wherever an error comes, everything is left as found; tensors of every kind."""

import inspect
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, net, seeded
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, Dataset
from torch.utils.hooks import RemovableHandle

import nc_fast.init
from nc_fast.init import campaign_, fit_head_

START = {"campaign_": campaign_, "fit_head_": fit_head_}


class StoppedError(Exception):
    pass


def bits(tensor):
    """A tensor's value, to the bit."""
    tensor = tensor.detach()
    if tensor.is_meta:
        return tensor.shape
    if tensor.is_sparse:
        return bits(tensor._indices()), bits(tensor._values())
    tensor = tensor.int_repr() if tensor.is_quantized else tensor
    return tensor.shape, tensor.dtype, tensor.stride(), tensor.clone().contiguous().numpy().tobytes()


def record(model, data=None, generator=None):
    """Everything that is to be as found: a dict of things to compare."""
    found = {
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002  (the state users' code has)
        "torch": torch.get_rng_state().tolist(),
        "own": [g.get_state().tolist() for g in (generator, getattr(data, "generator", None)) if g is not None],
        "switches": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.is_autocast_cache_enabled(),
            torch.get_deterministic_debug_mode(),
            torch.get_default_dtype(),
        ),
    }
    for place, module in model.named_modules(remove_duplicate=False):
        found[place, "mode"] = module.training
        found[place, "attributes"] = [(name, id(value)) for name, value in vars(module).items() if name != "training"]
        for name, value in vars(module).items():
            if isinstance(value, dict):
                found[place, name] = [(key, id(item)) for key, item in value.items()]
            elif isinstance(value, set):
                found[place, name] = set(value)
            elif isinstance(value, torch.Tensor):
                found[place, name] = bits(value)
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            found[place, "tensor", name] = (bits(tensor), tensor.requires_grad, tensor.is_leaf, tensor.is_leaf and id(tensor.grad))
            if not tensor.is_sparse:
                found[place, "where", name] = tensor.data_ptr()
    return found


def assert_same(before, after, but=()):
    differ = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key) and key not in but]
    assert not differ


class Drawing(Dataset):
    """Draws from every global generator, as augmentations do."""

    def __init__(self):
        self.X, self.y = blobs(6, n=24)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, row):
        shift = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002  (as users' code does)
        return self.X[row] + 1e-3 * shift, self.y[row]


def loader():
    return DataLoader(Drawing(), batch_size=12, shuffle=True, generator=seeded(3))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)[0]


def rich():
    """A model with most of what can be left otherwise: modes, running statistics, frozen parts, hooks, a parametrization, attention."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        parametrizations.spectral_norm(nn.Linear(8, 8)),
        nn.Tanh(),
        nn.Unflatten(1, (2, 4)),
        Attention(),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    model[2].eval()
    model[0].bias.requires_grad_(False)
    model[9].register_forward_hook(lambda *_: None)
    model[9].weight.grad = torch.ones(3, 8)
    return model


# ------------------------------------------------------------------------------------------------ an error at any moment

PACKAGE = str(Path(nc_fast.init.__file__).parent)
# Not moments: what comes before anything changes or after all is given back, and the loop over the steps of clean-up itself.
OUTSIDE = ("arguments.py", "campaign.py", "fit_head.py", "find.py", "report.py", "state.py", "run.py", "memory.py")


class Moments:
    """Within the block, counts calls of the functions that work, and of clean-up's; raises once, at the n-th."""

    def __init__(self, n, error, only=""):
        self.n, self.error, self.only, self.count = n, error, only, 0

    def __enter__(self):
        self.traced = sys.gettrace()
        sys.settrace(self.called)
        return self

    def __exit__(self, *_):
        sys.settrace(self.traced)

    def called(self, frame, event, _argument):
        file = frame.f_code.co_filename
        # A generator that ends is called once more, where nobody hears an error.
        ends = frame.f_code.co_flags & inspect.CO_GENERATOR
        if event == "call" and not ends and file.startswith(PACKAGE) and not file.endswith(OUTSIDE) and file.endswith(self.only):
            self.count += 1
            if self.count == self.n:
                raise self.error("moment")


def spread(total, n):
    return np.unique(np.linspace(1, total, n).astype(int)).tolist()


def interrupted(start, n, error, only=""):
    """Start a model that is stopped at the n-th moment; return how many there were."""
    model, data, generator = rich(), loader(), seeded(1)
    before = record(model, data, generator)
    with Moments(n, error, only) as moments:
        try:
            START[start](model, data, generator=generator, max_samples=18)
        except (error, RuntimeError):  # a model that cannot be called is one, with the reason
            assert moments.count >= n
        else:
            assert moments.count < n
            return moments.count
    assert_same(before, record(model, data, generator))
    return moments.count


@pytest.mark.parametrize("error", [StoppedError, KeyboardInterrupt])
@pytest.mark.parametrize("start", START)
def test_an_error_at_any_moment(start, error):
    total = interrupted(start, 10**9, error)
    assert total > 400
    for n in spread(total, 15):
        assert interrupted(start, n, error) >= n


@pytest.mark.parametrize("start", START)
def test_an_error_at_the_steps_of_clean_up(start):
    """Calls in snapshots.py: those that look at what there is, those that prepare, and those that give back."""
    total = interrupted(start, 10**9, StoppedError, only="snapshots.py")
    assert total > 100
    for n in spread(total, 40):
        assert interrupted(start, n, StoppedError if n % 2 else KeyboardInterrupt, only="snapshots.py") >= n


@pytest.mark.parametrize("generator", [None, "given"])
@pytest.mark.parametrize("start", START)
def test_an_error_in_what_the_user_gives(start, generator):
    """The model's forward pass, hooks, the loss, the loader: at every call; the random states, too, with or without a generator."""
    calls = 0

    def tick(*_):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise StoppedError

    def loss(outputs, y):
        tick()
        return nn.functional.cross_entropy(outputs, y)

    def run():
        nonlocal calls
        calls = 0
        model, data = rich(), loader()
        model.register_forward_pre_hook(tick)
        model[5].register_forward_hook(tick)
        data.collate_fn = lambda rows: (tick(), torch.utils.data.default_collate(rows))[1]
        given = seeded(1) if generator else None
        before = record(model, data, given)
        try:
            START[start](model, data, generator=given, max_samples=18, loss=loss)
        except (StoppedError, RuntimeError):
            assert_same(before, record(model, data, given))
        else:
            assert calls < stop

    stop = 10**9
    run()
    total = calls
    assert total > 20
    for stop in spread(total, 25):
        run()
        assert calls >= stop


@pytest.mark.parametrize("start", START)
def test_hooks_whose_removal_fails(start, monkeypatch):
    removed, remove = [], RemovableHandle.remove

    def failing(handle):
        removed.append(handle)
        if len(removed) == stop:
            raise StoppedError
        remove(handle)

    monkeypatch.setattr(RemovableHandle, "remove", failing)
    stop = 0
    START[start](rich(), blobs(6))
    total = len(removed)
    assert total > 10
    for n in spread(total, 25):
        stop = n
        removed.clear()
        model = rich()
        before = record(model)
        with pytest.raises(StoppedError):
            START[start](model, blobs(6))
        assert_same(before, record(model))


@pytest.mark.parametrize("failing", ["mode", "random state", "tensor"])
def test_a_step_that_always_fails_keeps_no_other_from_being_taken(failing, monkeypatch):
    """And the weights, which were written by then, are given back."""

    class Stubborn(nn.ReLU):
        """Can be set to evaluation mode, and never back."""

        def change(self, mode):
            if mode and modes == [False]:
                raise StoppedError
            modes[:] = [mode]

        training = property(lambda self: modes[0], change)

    class Unwritable(torch.Tensor):
        def copy_(self, *_):
            raise StoppedError

    model, modes = rich(), [True]
    if failing == "mode":
        model[5] = Stubborn()
        kind = {("5", "mode")}
    elif failing == "tensor":
        model[5].register_buffer("count", torch.zeros(1).as_subclass(Unwritable))
        model[5].register_forward_hook(lambda module, *_: module.count.add_(1) and None)
        kind = {("5", "tensor", "count")}
    before = record(model)
    if failing == "random state":

        def fail(_state):
            raise StoppedError

        monkeypatch.setattr(random, "setstate", fail)
        kind = {"random"}
    with pytest.raises(StoppedError):
        campaign_(model, blobs(6), generator=seeded())
    monkeypatch.undo()
    after = record(model)
    assert kind == {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_the_work_s_error_surfaces_before_clean_up_s(monkeypatch):
    model = rich()
    before = record(model)

    def fail(_state):
        raise ArithmeticError

    def failing(weight):
        raise StoppedError

    state = random.getstate()
    monkeypatch.setattr(random, "setstate", fail)
    with pytest.raises(StoppedError) as caught:
        campaign_(model, blobs(6), base=failing, generator=seeded())
    monkeypatch.undo()
    random.setstate(state)
    assert isinstance(caught.value.__context__, ArithmeticError)  # the traceback shows it
    assert_same(before, record(model))


# ------------------------------------------------------------------------------------------------ what forward passes do


class Odd(nn.Module):
    """Does something odd in its forward pass, between two layers."""

    def __init__(self, kind, folder):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        prepare, self.odd = KINDS[kind]
        prepare(self, folder)

    def forward(self, x):
        z = self.first(x)
        return self.last(torch.relu(self.odd(self, z)))


def changes(act):
    def odd(model, z):
        act(model, z)
        return z

    return odd


def buffer(make, persistent=True):
    return lambda model, folder: model.register_buffer("b", make(), persistent=persistent)


def quietly(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is deprecated, or cannot be written
        return make()


def inference(make):
    with torch.inference_mode():
        return make()


def own_submodule(module):
    def prepare(model, folder):
        model.part = module()

    return prepare


def memory_map(folder):
    np.save(folder / "map.npy", np.ones(8, np.float32))
    return quietly(lambda: torch.from_numpy(np.load(folder / "map.npy", mmap_mode="r")))


def two_over_one(model, folder):
    whole = torch.zeros(12)
    model.register_buffer("b", whole[:8])
    model.register_buffer("c", whole[4:])


def twice(model, folder):
    model.part = nn.BatchNorm1d(8)
    model.again = model.part


def grow(model, z):
    model.b = torch.cat([model.b, z[:1].detach()])


def two_buffers(model, folder):
    model.register_buffer("b", torch.zeros(8), persistent=False)
    model.register_buffer("c", torch.zeros(8))


def reregister(model, z):
    """Now it is the last, and persistent."""
    value = model.b
    del model.b
    model.register_buffer("b", value + 1)


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("b", torch.zeros(8))
        self.register_buffer("c", torch.zeros(8))
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        self.b += 1
        self.c = self.c + 1
        return self.norm(x)


def set_switches(model, z):
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_default_dtype(torch.float64)


def nothing(model, folder):
    pass


KINDS = {
    "expanded": (buffer(lambda: torch.zeros(1).expand(8)), lambda model, z: z + model.b),
    "expanded, NaN": (buffer(lambda: torch.full((1,), torch.nan).expand(8)), lambda model, z: z + model.b.nan_to_num()),
    "of inference mode": (buffer(lambda: inference(lambda: torch.zeros(8))), lambda model, z: z + model.b),
    "of inference mode, counting": (buffer(lambda: inference(lambda: torch.zeros(8))), changes(lambda model, z: model.b.add_(1))),
    "fresh BatchNorm of inference mode": (
        own_submodule(lambda: inference(lambda: nn.BatchNorm1d(8, affine=False))),
        lambda model, z: model.part(z),
    ),
    "read-only memory map": (lambda model, folder: model.register_buffer("b", memory_map(folder)), lambda model, z: z + model.b),
    "two over one memory": (two_over_one, changes(lambda model, z: model.b.add_(1))),
    "replaced": (buffer(lambda: torch.zeros(8)), changes(lambda model, z: setattr(model, "b", model.b + 1))),
    "grown": (buffer(lambda: torch.zeros(2, 8)), changes(grow)),
    "resized in place": (buffer(lambda: torch.zeros(8)), changes(lambda model, z: model.b.resize_(16).fill_(1))),
    "other data": (
        buffer(lambda: torch.zeros(8)),
        changes(lambda model, z: setattr(model.b, "data", torch.ones(2, 2, dtype=torch.float64))),
    ),
    "through NumPy": (buffer(lambda: torch.zeros(8)), changes(lambda model, z: model.b.numpy().fill(1))),
    "in place, with gradient": (buffer(lambda: torch.zeros(8)), changes(lambda model, z: model.b.add_(z.mean()))),
    "signed zeros": (buffer(lambda: torch.zeros(8)), changes(lambda model, z: model.b.neg_())),
    "NaN": (buffer(lambda: torch.full((8,), torch.nan)), changes(lambda model, z: model.b.fill_(1))),
    "transposed": (buffer(lambda: torch.zeros(8, 4).T[:, ::2]), changes(lambda model, z: model.b.add_(1))),
    "None first": (lambda model, folder: model.register_buffer("b", None), changes(lambda model, z: setattr(model, "b", z.detach()))),
    "set to None": (buffer(lambda: torch.zeros(8)), changes(lambda model, z: setattr(model, "b", None))),
    "registered": (nothing, changes(lambda model, z: model.register_buffer("new", z.detach(), persistent=False))),
    "registered again": (two_buffers, changes(reregister)),
    "not persistent": (buffer(lambda: torch.zeros(8), False), changes(lambda model, z: model.b.add_(1))),
    "complex": (buffer(lambda: torch.zeros(8, dtype=torch.complex64)), changes(lambda model, z: model.b.add_(1j))),
    "quantized": (
        buffer(lambda: quietly(lambda: torch.quantize_per_tensor(torch.zeros(8), 0.1, 0, torch.qint8))),
        changes(lambda model, z: model.b.copy_(torch.ones(8))),
    ),
    "sparse": (buffer(lambda: torch.eye(8).to_sparse().coalesce()), changes(lambda model, z: model.b.mul_(2))),
    "meta": (buffer(lambda: torch.zeros(8, device="meta")), changes(lambda model, z: model.b.add_(1))),
    "empty": (buffer(lambda: torch.zeros(0, 8)), changes(lambda model, z: model.b.mul_(2))),
    "attribute, in place": (lambda model, folder: setattr(model, "count", torch.zeros(1)), changes(lambda model, z: model.count.add_(1))),
    "attribute, new": (nothing, changes(lambda model, z: setattr(model, "hidden", z))),
    "module in two places": (twice, lambda model, z: model.again(model.part(z))),
    "module, new": (nothing, changes(lambda model, z: setattr(model, "late", nn.BatchNorm1d(8)))),
    "mode": (own_submodule(nn.Dropout), changes(lambda model, z: model.train())),
    "frozen parameter": (own_submodule(lambda: nn.LayerNorm(8)), changes(lambda model, z: model.part.weight.data.mul_(0.9))),
    "requires_grad": (own_submodule(lambda: nn.LayerNorm(8)), changes(lambda model, z: model.part.requires_grad_(False))),
    "grad": (own_submodule(lambda: nn.LayerNorm(8)), changes(lambda model, z: setattr(model.part.weight, "grad", torch.ones(8)))),
    "parameter replaced": (
        own_submodule(lambda: nn.LayerNorm(8)),
        changes(lambda model, z: setattr(model.part, "weight", nn.Parameter(torch.zeros(8)))),
    ),
    "hook": (nothing, changes(lambda model, z: model.last.register_forward_hook(lambda *_: None))),
    "switches": (nothing, changes(set_switches)),
    "scripted": (own_submodule(lambda: quietly(lambda: torch.jit.script(Scripted()))), lambda model, z: model.part(z)),
}
FILLED = {(layer, "tensor", part) for layer in ("first", "last") for part in ("weight", "bias")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", START)
def test_what_a_forward_pass_does_is_undone(start, kind, tmp_path):
    model, generator = Odd(kind, tmp_path), seeded(0)
    moved = {("", "where", "b")} if kind == "resized in place" else set()  # memory that grew lies elsewhere
    keys, before = list(model.state_dict()), record(model)
    START[start](model, blobs(6), generator=generator)
    after = record(model)
    assert list(model.state_dict()) == keys
    assert_same(before, after, but=FILLED | moved)
    filled = FILLED if start == "campaign_" else {key for key in FILLED if key[0] == "last"}
    assert {key for key in FILLED if before[key] != after[key]} == filled


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", START)
def test_what_a_forward_pass_does_is_undone_after_an_error(start, kind, tmp_path):
    model, calls = Odd(kind, tmp_path), 0

    def loss(outputs, y):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise StoppedError
        return nn.functional.cross_entropy(outputs, y)

    before = record(model)
    with pytest.raises(StoppedError):
        START[start](model, blobs(6), generator=seeded(0), loss=loss)
    assert_same(before, record(model), but={("", "where", "b")} if kind == "resized in place" else ())


# ------------------------------------------------------------------------------------------------ memory that is shared, or takes no writes


def test_a_buffer_over_a_weight_s_memory_follows_the_weight():
    model = net()
    model.register_buffer("view", model[0].weight.data[2:])
    campaign_(model, blobs(6), generator=seeded())
    plain = net()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name != "view"})
    assert model.view.data_ptr() == model[0].weight[2:].data_ptr()
    assert torch.equal(model.view, model[0].weight[2:])
    fresh = net()
    campaign_(fresh, blobs(6), generator=seeded())
    assert torch.equal(model[0].weight, fresh[0].weight)


def flat(columns):
    """All weights as views of one tensor: rows of it, or columns that lie between each other."""
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    whole = torch.randn(12, 6, generator=seeded()) if not columns else torch.randn(6, 12, generator=seeded())
    for number, part in enumerate(whole.chunk(2, dim=int(columns))):
        model[2 * number].weight = nn.Parameter(part)
    return model, whole


@pytest.mark.parametrize("columns", [False, True])
def test_weights_that_are_parts_of_one_tensor(columns):
    model, whole = flat(columns)
    before = whole.clone()
    report = campaign_(model, blobs(6), generator=seeded())
    assert [layer.name for layer in report.layers] == ["0", "2", "4"]
    assert torch.equal(torch.cat([model[0].weight, model[2].weight], dim=int(columns)), whole)
    assert not torch.isclose(whole, before).any()
    model, whole = flat(columns)
    places = [parameter.data_ptr() for parameter in model.parameters()]

    def failing(outputs, y):
        raise StoppedError

    with pytest.raises(StoppedError):
        campaign_(model, blobs(6), generator=seeded(), loss=failing)
    assert torch.equal(whole, before)
    assert places == [parameter.data_ptr() for parameter in model.parameters()]


def expanded(part, folder):
    return nn.Parameter(part[:1].clone().expand(part.shape))


def overlapping(part, folder):
    return nn.Parameter(torch.zeros(100).as_strided(part.shape, (1,) * part.ndim))


def of_inference_mode(part, folder):
    return inference(lambda: nn.Parameter(part.clone()))


def mapped(part, folder):
    np.save(folder / "map.npy", part.detach().numpy())
    return nn.Parameter(quietly(lambda: torch.from_numpy(np.load(folder / "map.npy", mmap_mode="r"))))


UNWRITABLE = {
    "is expanded": expanded,
    "is expanded: several of its entries": overlapping,
    "was made in torch.inference_mode": of_inference_mode,
    "lies in memory that is read-only": mapped,
}


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("reason", UNWRITABLE)
def test_a_layer_that_takes_no_writes_is_kept(reason, part, tmp_path):
    """A write to a read-only memory map would end the process."""
    if part == "bias" and reason == "is expanded: several of its entries":
        part = "weight"  # a bias has one dimension
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3))
    setattr(model[2], part, UNWRITABLE[reason](getattr(model[2], part).detach(), tmp_path))
    before = record(model)
    report = campaign_(model, blobs(6), generator=seeded())
    assert [layer.name for layer in report.layers] == ["0", "4"]
    (kept,) = report.kept
    assert kept.name == "2"
    assert kept.reason.startswith(f"its {part} {reason}")
    assert_same(before, record(model), but={(layer, "tensor", name) for layer in "04" for name in ("weight", "bias")})
    with pytest.raises(ValueError, match=rf"^layer: expected a Linear output layer, got its {part} {reason}"):
        fit_head_(model, blobs(6), layer="2")


def test_a_private_memory_map_takes_writes(tmp_path):
    model = net()
    torch.save(model.state_dict(), tmp_path / "saved.pt")
    model.load_state_dict(torch.load(tmp_path / "saved.pt", mmap=True), assign=True)
    assert [layer.name for layer in campaign_(model, blobs(6)).layers] == ["0", "2"]


@pytest.mark.parametrize("tie", ["all of it", "a part", "an embedding"])
def test_layers_whose_weights_lie_in_one_memory_are_kept(tie):
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    kept = ["0", "2"]
    if tie == "an embedding":
        model[2].weight.data = torch.randn(12, 6)[:6]
        model.register_parameter("table", nn.Parameter(model[2].weight.data))
        kept = ["2", "table"]
    elif tie == "a part":
        whole = torch.randn(10, 6)
        model[0].weight, model[2].weight = nn.Parameter(whole[:6]), nn.Parameter(whole[4:])
    else:
        model[2].weight.data = model[0].weight.data
    report = campaign_(model, blobs(6), generator=seeded())
    assert sorted(layer.name for layer in report.kept) == kept
    assert "its weight shares memory with" in {layer.name: layer.reason for layer in report.kept}["2"]
