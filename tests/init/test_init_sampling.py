"""Samples: stratified, read no further than needed, from whatever brings them."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st
from init_cases import blobs, paper
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from nc_fast.init import campaign_, sampling
from nc_fast.init.batches import Forward
from nc_fast.init.items import ItemReader
from nc_fast.quota import share_quota


def small(features=6):
    return nn.Sequential(nn.Linear(features, 5), nn.ReLU(), nn.Linear(5, 3))


def reader(model=None, **options):
    return ItemReader(Forward(model or nn.Identity()), targets=False, **options)


def collect(data, max_samples, **options):
    return sampling.collect(data, max_samples, reader(**options))


def all_of(samples, size=50):
    batches = list(samples.read(size))
    assert all(len(batch) <= size for batch in batches)
    return np.concatenate([batch.labels.values for batch in batches]), torch.cat([batch.inputs for batch in batches])


@given(st.lists(st.integers(0, 4), min_size=3, max_size=80), st.data())
def test_stratified_rows_are_distinct_and_shared_evenly(labels, data):
    labels = np.array(labels)
    n = data.draw(st.integers(1, len(labels)))
    rows = sampling._chosen(labels, n)
    assert len(set(rows.tolist())) == n
    sizes = np.bincount(labels)
    np.testing.assert_array_equal(np.sort(np.bincount(labels[rows], minlength=len(sizes))), np.sort(share_quota(sizes, n)))


class Counting(Dataset):
    """Images by number, with their labels known in advance or not; counts what is loaded."""

    def __init__(self, known):
        self.X, self.y = blobs(6)
        if known:
            self.targets = self.y.tolist()
        self.loaded = 0

    def __len__(self):
        return len(self.X)

    def __getitem__(self, row):
        self.loaded += 1
        return self.X[row], int(self.y[row])


def test_known_labels_spare_loading_the_rest():
    dataset = Counting(known=True)
    samples = collect(DataLoader(dataset, batch_size=16, shuffle=True), 30)
    assert dataset.loaded == samples.size == 30
    assert np.bincount(all_of(samples)[0]).tolist() == [10, 10, 10]
    subset = Subset(dataset, list(range(60, 120)))
    assert np.bincount(all_of(collect(DataLoader(subset, batch_size=16), 30))[0]).tolist() == [10, 10, 10]


def test_unknown_labels_are_read_until_every_class_has_its_share():
    dataset = Counting(known=False)
    samples = collect(DataLoader(dataset, batch_size=10), 30)
    assert 30 <= dataset.loaded <= 40
    assert np.bincount(all_of(samples)[0]).tolist() == [10, 10, 10]


def test_sorted_data_is_not_read_forever():
    read = 0

    def batches():
        nonlocal read
        while True:
            read += 10
            yield torch.randn(10, 6), torch.full((10,), int(read > 50))

    samples = collect(batches(), 20)
    assert read == 60  # both classes have their share then; at most 80 would have been read
    assert np.bincount(all_of(samples)[0]).tolist() == [10, 10]
    single = collect(((torch.randn(10, 6), torch.zeros(10, dtype=torch.int64)) for _ in range(1000)), 20)
    assert "only the first 80 samples" in single.notes[0]


def test_every_form_of_the_data_brings_pairs_that_belong_together():
    X, y = blobs(6)
    key = {tuple(x.tolist()): int(label) for x, label in zip(X, y, strict=True)}
    forms = [
        (X, y),
        [X, y],
        (X.numpy(), y.numpy()),
        DataLoader(TensorDataset(X, y), batch_size=7, shuffle=True),
        DataLoader(Subset(TensorDataset(X, y), range(90)), batch_size=7),
        [(X[:50], y[:50]), (X[50:], y[50:])],
        [(X[:50], y[:50].tolist()), (X[50:], y[50:].tolist())],
    ]
    for form in forms:
        for most in (40, None):
            labels, inputs = all_of(collect(form, most))
            assert len(labels) == (most or len(labels))
            assert [key[tuple(x.tolist())] for x in inputs] == labels.tolist()


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small()

    def forward(self, left, right):
        return self.net(torch.cat([left, right], 1))


def test_models_with_several_inputs():
    X, y = blobs(6)
    left, right = X[:, :2], X[:, 2:]
    weights = []
    for data in (
        ((left, right), y),
        ({"left": left, "right": right}, y),
        [(left, right, y)],
        [{"right": right, "left": left, "labels": y}],
    ):
        model = Both()
        campaign_(model, data, max_samples=None, bias="center", generator=torch.Generator().manual_seed(0))
        weights.append(model.net[0].weight.detach())
    for other in weights[1:]:
        np.testing.assert_allclose(weights[0], other, atol=1e-5)


@pytest.mark.parametrize("bias", ["center", "zeros"])
def test_passes_batch_by_batch_find_what_one_pass_finds(bias, monkeypatch):
    X, y = blobs(2, 5, 5)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(54, 8), nn.GELU(), nn.Linear(8, 3))
    found = []
    for most, pass_bytes in ((2000, 1 << 30), (None, 1 << 30), (None, 1), (None, 20_000)):
        monkeypatch.setattr("nc_fast.init.walk.PASS_BYTES", pass_bytes)
        data = (X, y) if most is None else [(X, y)]
        if most is not None:  # the same order as streamed
            monkeypatch.setattr(sampling, "_chosen", lambda labels, n: np.arange(n))
        found.append(campaign_(model, data, max_samples=most, bias=bias, generator=torch.Generator().manual_seed(0)))
    for other in found[1:]:
        assert [layer.picks for layer in other.layers] == [layer.picks for layer in found[0].layers]
        np.testing.assert_allclose([layer.score for layer in other.layers], [layer.score for layer in found[0].layers], rtol=1e-4)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (lambda X, y: (X, y[:5]), ValueError, r"data: expected X and y of one length, got X \(120, 6\) and y \(5,\)"),
        (lambda X, y: (X, y + 0.5), TypeError, r"data: expected y as integer, boolean or string labels, got float32; bin it first"),
        (lambda X, y: (X[:0], y[:0]), ValueError, "data: expected at least one sample, got none"),
        (lambda X, y: [X, X], TypeError, "data: expected y as integer"),
        (lambda X, y: [X], TypeError, r"data: batch 0: expected \(X, y\), got Tensor"),
        (
            lambda X, y: [{"X": X}],
            TypeError,
            r"data: batch 0: expected one key 'labels' or 'label' or .*, got \['X'\]; say what is what: batch=",
        ),
        (lambda X, y: [], ValueError, "data: expected at least one batch, got none"),
        (lambda X, y: DataLoader(TensorDataset(X[:0], y[:0])), ValueError, "data: expected at least one batch, got none"),
        (lambda X, y: (X / 0, y), ValueError, r"data: X: expected finite numbers, got (inf|-inf|nan) at"),
        (lambda X, y: (X, y * 0), ValueError, "y: expected at least two classes when alpha < 1, got 1"),
        (lambda X, y: 5, TypeError, "data: expected"),
    ],
)
def test_unusable_data_is_refused_before_any_work(data, error, message):
    model = small()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(error, match=message):
        paper(model, data(*blobs(6)))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_all_of_a_one_shot_iterator_cannot_be_streamed():
    X, y = blobs(6)
    with pytest.raises(TypeError, match="read more than once when max_samples=None, got a one-shot iterator"):
        campaign_(small(), iter([(X, y)]), max_samples=None)
    campaign_(small(), iter([(X, y)]))


@pytest.mark.parametrize("max_samples", [2000, None])
def test_labels_of_two_kinds_are_refused(max_samples):
    X, y = blobs(6)
    with pytest.raises(ValueError, match="y: expected labels of one kind, got integers and strings"):
        campaign_(small(), [(X, y), (X, y.numpy().astype(str))], max_samples=max_samples)


def test_integers_of_two_dtypes_keep_their_values():
    X, y = blobs(6)
    large = 2**63 + y.numpy().astype(np.uint64)
    data = [(X, large), (X, y.numpy())]
    for max_samples in (2000, None):
        assert collect(data, max_samples).classes.tolist() == [0, 1, 2, 2**63, 2**63 + 1, 2**63 + 2]


def test_one_class_will_do_where_labels_do_not_count():
    X, y = blobs(6)
    paper(small(), (X, y * 0), alpha=1.0)
    with pytest.raises(ValueError, match="two classes for criterion='fisher', got 1"):
        paper(small(), (X, y * 0), criterion="fisher")
