"""Batches as loaders give them: whatever form an item has, the model gets its inputs and the campaign the labels, or one error says more."""

import warnings
from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, net, paper, seeded
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nc_fast.init import campaign_, fit_head_

X, Y = blobs(6)
ROWS = torch.arange(len(Y))
BATCHES = [(X[first : first + 16], Y[first : first + 16]) for first in range(0, len(Y), 16)]
FORMS = {"held": 2000, "streamed": None}
Named = namedtuple("Named", "image label")


@dataclass
class Item:
    image: object
    label: object


class Two(nn.Module):
    """Takes two inputs."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, left, right):
        return self.net(torch.cat([left, right], 1))


class Optional(nn.Module):
    """Takes one input, and may take another."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x, features=None):
        assert features is None
        return self.net(x)


class One(nn.Module):
    """Takes one list, or one dict."""

    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = net(), kind

    def forward(self, parts):
        assert type(parts) is self.kind
        return self.net(torch.cat(list(parts.values()) if self.kind is dict else parts, 1))


def loader(*tensors, size=16):
    return DataLoader(TensorDataset(*tensors), size)


def right_weights(most):
    """What a plain pair of the same samples leads to."""
    torch.manual_seed(0)
    model = net()
    campaign_(model, BATCHES, max_samples=most, generator=seeded())
    return model[0].weight.detach()


def weights_of(data, most, model=net, **options):
    torch.manual_seed(0)
    built = model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = campaign_(built, data, max_samples=most, generator=seeded(), **options)
    assert (report.samples, report.classes, report.kept) == (len(Y), 3, ())
    return next(module for module in built.modules() if isinstance(module, nn.Linear)).weight.detach()


def split(x):
    return x[:, :2], x[:, 2:]


LABEL_KEYS = ["labels", "label", "target", "targets", "y"]
RIGHT = {
    **{key: (net, [{"image": x, key: y} for x, y in BATCHES], {}) for key in LABEL_KEYS},
    "keywords": (Two, [{"right": split(x)[1], "left": split(x)[0], "label": y} for x, y in BATCHES], {}),
    "an input called target": (net, [{"input": x, "labels": y} for x, y in BATCHES], {}),
    "named tuple": (net, [Named(x, y) for x, y in BATCHES], {}),
    "a mapping that is no dict": (net, [UserDict({"input": x, "labels": y}) for x, y in BATCHES], {}),  # as tokenizers return
    "dataclass": (net, [Item(x, y) for x, y in BATCHES], {}),
    "two inputs": (Two, [(*split(x), y) for x, y in BATCHES], {}),
    "one list": (lambda: One(list), [(list(split(x)), y) for x, y in BATCHES], {}),
    "one dict": (lambda: One(dict), [{"a": split(x)[0], "b": split(x)[1], "y": y} for x, y in BATCHES], {}),
    "an empty batch": (net, [BATCHES[0], (X[:0], Y[:0]), *BATCHES[1:]], {}),
    "labels as lists": (net, [(x, y.tolist()) for x, y in BATCHES], {}),
    "labels (n, 1)": (net, [(x, y[:, None]) for x, y in BATCHES], {}),
    "batch=": (net, [(x, "name", y) for x, y in BATCHES], {"batch": lambda b: (b[0], b[2])}),
    "batch= of dicts": (net, [{"x": x, "label": 9 - y, "y": y} for x, y in BATCHES], {"batch": lambda b: (b["x"], b["y"])}),
}


@pytest.mark.parametrize("most", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("form", RIGHT)
def test_inputs_reach_the_model_and_labels_the_campaign(form, most):
    model, data, options = RIGHT[form]
    torch.testing.assert_close(weights_of(data, most, model, **options), right_weights(most))


@pytest.mark.parametrize("most", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("function", [campaign_, fit_head_])
@pytest.mark.parametrize("extra", [ROWS, ROWS.double() / 120, ROWS[:, None].float()], ids=["index", "weight", "column"])
@pytest.mark.parametrize("model", [net, Optional])
def test_indices_and_weights_are_not_taken_for_labels(model, extra, function, most):
    if model is Optional and extra.ndim > 1:
        pytest.skip("(x, features, targets): as the model takes it")
    data = loader(X, Y, extra)
    with pytest.raises(TypeError, match=r"data: batch 0: expected \(X, y\), .* got 3 parts; .*batch=lambda b: \(b\[0\], b\[1\]\)"):
        function(model(), data, max_samples=most)
    report = function(model(), data, max_samples=most, batch=lambda b: (b[0], b[1]))
    assert (report.samples, report.classes) == (120, 3)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ([BATCHES[0], {"X": X}], {}, TypeError, r"data: batch 1: expected one key 'labels' or .*, got \['X'\]; say what is what: batch="),
        ([{"x": X, "label": Y, "y": Y}], {}, TypeError, r"data: batch 0: expected one key .*, got \['label', 'x', 'y'\]"),
        (
            [{"x": X, "path": ["a"] * 120, "y": Y}],
            {},
            TypeError,
            r"data: batch 0: .* forward\(input.*\) takes, got \['x', 'path'\], of which",
        ),
        (
            [{"x": X, "ids": X, "y": Y}],
            {"model": Optional},
            TypeError,
            r"data: batch 0: .* got \['x', 'ids'\], of which \['ids'\] do not fit",
        ),
        ([{"left": X, "right ": X, "y": Y}], {"model": Two}, TypeError, r"data: batch 0: .* got .*, of which \['right '\] do not fit; say"),
        ([((X, X, X), Y)], {"model": Two}, TypeError, r"data: batch 0: .* forward\(left, right\) takes, got 3; say what is what: batch="),
        ([BATCHES[0], 3], {}, TypeError, r"data: batch 1: expected \(X, y\), got int; say what is what: batch="),
        (BATCHES, {"batch": lambda b: b["x"]}, ValueError, "batch: expected a function that takes batch 0, got TypeError"),
        (BATCHES, {"batch": lambda b: b[0]}, TypeError, r"batch: expected \(inputs, labels\) or .* for batch 0, got Tensor"),
        (BATCHES, {"batch": lambda b: (*b, None, None)}, TypeError, "batch: expected .* for batch 0, got 4 parts"),
        ((X, Y), {"batch": lambda b: b[0]}, TypeError, r"batch: expected .* for \(X, y\), got Tensor"),
        ([(X[:0], Y[:0])] * 2, {}, ValueError, "data: expected at least one sample, got none"),
    ],
)
@pytest.mark.parametrize("most", FORMS.values(), ids=FORMS)
def test_one_error_names_the_batch_and_what_to_do(data, options, error, message, most):
    options = dict(options)
    model = options.pop("model", net)()
    with pytest.raises(error, match=message):
        campaign_(model, data, max_samples=most, **options)


@pytest.mark.parametrize(
    "data", [(X, ROWS), loader(X, ROWS), [(X, ROWS)], loader(X, ROWS, size=7)], ids=["pair", "loader", "batches", "small"]
)
@pytest.mark.parametrize("most", [2000, 60, None])
def test_labels_that_look_like_numbers_of_rows_warn(data, most):
    with pytest.warns(UserWarning, match=r"data: no two of \d+ labels are the same: are they numbers of rows\? batch=") as caught:
        report = campaign_(net(), data, max_samples=most)
    assert len([one for one in caught if "numbers of rows" in str(one.message)]) == 1
    assert caught[0].filename == __file__
    assert report.notes[0] == str(caught[0].message)


@pytest.mark.parametrize("labels", [ROWS % 40, ROWS // 2, np.array([f"{row}" for row in range(120)])], ids=["40", "pairs", "names"])
def test_many_classes_do_not_warn(labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        campaign_(net(), (X, labels), max_samples=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        campaign_(net(classes=12), (X[:12], ROWS[:12]))


@pytest.mark.parametrize(
    "y", [Y.tolist(), Y.numpy().tolist(), Y[:, None], Y.numpy(), Y.to(torch.uint8)], ids=["list", "ints", "column", "numpy", "uint8"]
)
def test_a_pair_takes_labels_in_any_form(y):
    models = [net(), net()]
    for model, labels in zip(models, (Y, y), strict=True):
        torch.manual_seed(0)
        campaign_(model, (X, labels), generator=seeded())
    torch.testing.assert_close(models[0][0].weight, models[1][0].weight)


def test_a_pair_takes_series():
    pandas = pytest.importorskip("pandas")
    names = pandas.Series(["ant", "bee", "cat"])[Y.tolist()]
    for y in (names, names.astype("category"), names.tolist()):
        report = campaign_(net(), (pandas.DataFrame(X.numpy()), y))
        assert (report.samples, report.classes) == (120, 3)
    names.iloc[[3, 5]] = None
    with pytest.raises(ValueError, match=r"data: y: expected a label for every sample, got 2 missing, the first at 3"):
        campaign_(net(), (X, names))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (nn.functional.one_hot(Y), r"one-hot labels of shape \(120, 3\); the class numbers are y.argmax\(1\)"),
        (nn.functional.one_hot(Y).bool(), r"one-hot labels of shape \(120, 3\); the class numbers are y.argmax\(1\)"),
        ((X[:, :4] > 0).long(), r"several labels a sample, of shape \(120, 4\), which are no classes; float targets: y.double\(\)"),
    ],
)
def test_one_hot_and_several_labels_name_the_cause(y, message):
    with pytest.raises(ValueError, match=message):
        campaign_(net(), (X, y))


def test_soft_labels_are_no_classes_of_a_campaign():
    soft = torch.softmax(X[:, :3], 1)
    with pytest.raises(ValueError, match=r"data: y: .* soft labels of shape \(120, 3\), .*; the likeliest are y.argmax\(1\)"):
        paper(net(), (X, soft))
    assert campaign_(net(), (X, soft)).layers[-1].select == "least_squares"


def test_a_label_per_token_is_never_taken_for_one_hot():
    x = torch.randn(60, 5, 6, generator=seeded())
    starts = nn.functional.one_hot(torch.arange(60) % 5)  # one token of every sequence
    assert campaign_(net(classes=2), (x, starts)).classes == 2


ALONE = {"last": loader(X[:113], Y[:113]), "every": loader(X, Y, size=1), "first": [(X[:1], Y[:1]), (X[1:], Y[1:])]}


@pytest.mark.parametrize("most", [2000, 113, None])
@pytest.mark.parametrize("data", ALONE.values(), ids=ALONE)
def test_a_sample_alone_is_joined_to_others(data, most):
    model = nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))
    report = campaign_(model, data, max_samples=most)
    assert [layer.name for layer in report.layers] == ["0", "3"]


@pytest.mark.parametrize("n", [2, 3, 5, 121])
def test_passes_never_hold_one_sample(n, monkeypatch):
    monkeypatch.setattr("nc_fast.init.walk.PASS_BYTES", 1)
    sizes = []
    model = nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    x = torch.randn(n, 6, generator=seeded())
    campaign_(model, (x, torch.arange(n) % 2), pool=2, max_samples=None, select="campaign")
    assert min(sizes) >= 2


def test_one_sample_of_its_shape_and_a_fresh_batchnorm_is_one_clear_error():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)

        def forward(self, x):
            return self.b(self.norm(self.a(x).mean(1)).relu())

    data = [(torch.randn(8, 5, 6), torch.arange(8) % 3), (torch.randn(1, 4, 6), torch.zeros(1).long())]
    with pytest.raises(
        ValueError, match=r"data: expected at least two samples of one shape at a time .*, got one alone of shape \(1, 4, 6\)"
    ):
        campaign_(Pooled(), data)


@pytest.mark.parametrize("most", [2000, 50, None])
@pytest.mark.parametrize("form", ["pair", "loader", "batches"])
def test_what_is_not_finite_is_named_where_the_user_has_it(form, most):
    x = X.clone()
    x[::7, 2] = float("nan")
    data = {"pair": (x, Y), "loader": loader(x, Y), "batches": [(x[:50], Y[:50]), (x[50:], Y[50:])]}[form]
    with pytest.raises(ValueError, match=r"data: (?:batch (\d+): )?X: expected finite numbers, got nan at \((\d+), 2\)") as caught:
        campaign_(net(), data, max_samples=most)
    words = str(caught.value).replace(":", "").split()
    batch = int(words[words.index("batch") + 1]) if "batch" in words else 0
    row = int(words[-2].strip("(,"))
    first = batch * (50 if form == "batches" else 16)
    assert torch.isnan(x[first + row, 2])
