"""Positions that masks exclude are no samples; batches padded to their own longest are held as they are."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import paper, seeded
from torch import nn
from torch.utils.data import DataLoader, Dataset

from nc_fast.init import campaign_, fit_head_, sampling
from nc_fast.init.batches import Forward
from nc_fast.init.items import ItemReader

N, T, D = 96, 9, 4
FAR = 9.0  # what padding holds
CLASSES = torch.arange(N) % 2


class Pooled(nn.Module):
    """Averages over the tokens that count; the mask's name is its second parameter's."""

    def __init__(self):
        super().__init__()
        self.a, self.h = nn.Linear(D, 8), nn.Linear(8, 2)

    def forward(self, x, attention_mask):
        return self.pooled(x, attention_mask)

    def pooled(self, x, counts):
        counts = counts.float()[..., None]
        return self.h((torch.relu(self.a(x)) * counts).sum(1) / counts.sum(1))


class Padded(Pooled):
    def forward(self, x, src_key_padding_mask):
        return self.pooled(x, ~src_key_padding_mask)


class Keys(Pooled):
    def forward(self, x, *, key_padding_mask):
        return self.pooled(x, ~key_padding_mask)


class Other(Pooled):
    def forward(self, x, real):
        return self.pooled(x, real)


def sequences(n=N, length=T, seed=0):
    """Sequences of which the last tokens are padding: x, which are real, y."""
    generator = seeded(n + length + 1000 * seed)
    y = torch.arange(n) % 2
    real = torch.arange(length)[None] < torch.randint(2, length, (n, 1), generator=generator)
    x = torch.randn(n, length, D, generator=generator) + y[:, None, None]
    return torch.where(real[..., None], x, FAR), real, y


def assert_centred(model, x, real):
    """Centred biases: the mean pre-activation over the real tokens is 0, and padding would move it."""
    z = model.a(x).detach()
    assert abs(float(z[real].mean())) < 0.05 < abs(float(z.mean()))


X, REAL, Y = sequences()
AS_BATCHES = [slice(first, first + 32) for first in range(0, N, 32)]


def batches(*parts):
    return [tuple(part[rows] for part in parts) for rows in AS_BATCHES]


FORMS = {
    "keywords": (Pooled, ({"x": X, "attention_mask": REAL}, Y), {}),
    "floats": (Pooled, ({"x": X, "attention_mask": REAL.float()}, Y), {}),
    "integers": (Pooled, ({"x": X, "attention_mask": REAL.long()}, Y), {}),
    "by position": (Pooled, ((X, REAL), Y), {}),
    "batches": (Pooled, batches(X, REAL, Y), {}),
    "dicts": (Pooled, [{"x": x, "attention_mask": real, "label": y} for x, real, y in batches(X, REAL, Y)], {}),
    "padding": (Padded, batches(X, ~REAL, Y), {}),
    "keys": (Keys, [{"x": x, "key_padding_mask": ~real, "y": y} for x, real, y in batches(X, REAL, Y)], {}),
    "named": (Other, batches(X, REAL, Y), {"mask": "real"}),
    "array": (Other, ((X, REAL), Y), {"mask": REAL.numpy()}),
    "tensor": (Other, ((X, REAL), Y), {"mask": REAL.float()}),
    "adapter": (Other, batches(X, REAL, Y), {"batch": lambda b: ((b[0], b[1]), b[2], b[1])}),
}


@pytest.mark.parametrize("start", [campaign_, paper])
@pytest.mark.parametrize("most", [2000, 50, None])
@pytest.mark.parametrize("form", FORMS)
def test_positions_that_a_mask_excludes_are_no_samples(form, most, start):
    model, data, options = FORMS[form]
    model = model()
    report = start(model, data, max_samples=most, generator=seeded(), **options)
    assert report.notes == ()
    if most != 50:
        assert_centred(model, X, REAL)
    else:  # centred over other samples; padding, nine in every feature, would move it further
        assert abs(float(model.a(X).detach()[REAL].mean())) < 0.3


def test_what_padding_holds_does_not_matter():
    models = [Pooled(), Pooled()]
    models[1].load_state_dict(models[0].state_dict())
    for model, held in zip(models, (FAR, -3.0), strict=True):
        x = torch.where(REAL[..., None], X, held)
        campaign_(model, ((x, REAL), Y), generator=seeded())
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_false_counts_all():
    model = Pooled()
    campaign_(model, ((X, REAL), Y), mask=False, max_samples=None)
    assert abs(float(model.a(X).detach().mean())) < 1e-4


def test_fit_head_knows_masks():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.h = nn.Linear(D, 2)

        def forward(self, x, attention_mask=None):
            return self.h(x)

    y = (X.sum(2) > 2).long()
    weights = []
    for data in (((X, REAL), y), ((X,), torch.where(REAL, y, -100))):
        model = Tagger()
        fit_head_(model, data, max_samples=None)
        weights.append(model.h.weight.detach())
    torch.testing.assert_close(*weights)


def test_labels_left_out_and_masks_both_apply():
    y = torch.where(torch.rand(N, T, generator=seeded(3)) < 0.3, -100, (X.sum(2) > 2).long())
    reader = ItemReader(Forward(Pooled()), targets=False, ignore=(-100,))
    sampled = sampling.collect(((X, REAL), y), None, reader)
    (batch,) = sampled.read(N)
    present = (REAL & (y != -100)).any(1)
    np.testing.assert_array_equal(batch.labels.counted, (REAL & (y != -100))[present])


NOT_TAKEN = {
    "four dimensions": (Pooled, torch.ones(N, 1, 1, T)),
    "added": (Pooled, torch.zeros(N, T) - 1e4),
    "one number a sample": (Pooled, torch.ones(N)),
    "added, of padding": (Padded, torch.ones(N, T)),
}


@pytest.mark.parametrize("case", NOT_TAKEN)
def test_other_masks_are_not_looked_at_and_said(case, monkeypatch):
    model, mask = NOT_TAKEN[case]
    monkeypatch.setattr(Pooled, "pooled", lambda self, x, _: self.h(torch.relu(self.a(x)).mean(1)))
    monkeypatch.setattr(Padded, "forward", lambda self, x, src_key_padding_mask: self.pooled(x, None))
    name = "attention_mask" if model is Pooled else "src_key_padding_mask"
    report = campaign_(model(), ((X, mask), Y))
    (note,) = report.notes
    assert note.startswith(f"data: {name} of shape {tuple(mask.shape)} was not looked at")


@pytest.mark.parametrize(
    ("mask", "data", "error", "message"),
    [
        ("x", ((X, REAL), Y), ValueError, r"mask: expected 0 and 1, or booleans, of shape \(n, \*positions\) with n = 96, got shape"),
        ("real", ((X, REAL), Y), ValueError, r"mask: expected the name of one of the inputs \['x', 'attention_mask'\], got 'real'"),
        (REAL[:5], ((X, REAL), Y), ValueError, r"mask: expected .* with n = 96, got shape \(5, 9\)"),
        (Y, ((X, REAL), Y), ValueError, r"mask: expected .* got shape \(96,\)"),
        (REAL, batches(X, REAL, Y), TypeError, r"mask: expected an array only with data=\(X, y\), got one with batches; batch="),
    ],
)
def test_wrong_masks_are_refused(mask, data, error, message):
    with pytest.raises(error, match=message):
        campaign_(Pooled(), data, mask=mask)


def test_nothing_that_counts_is_an_error():
    with pytest.raises(ValueError, match="data: expected at least one sample, got none"):
        campaign_(Pooled(), ((X, REAL), Y), mask=~(REAL | ~REAL))


class Texts(Dataset):
    """Sequences of 2 to 9 tokens, with labels known in advance or not."""

    def __init__(self, known, per_token=False):
        self.items = [(X[row, : int(REAL[row].sum())], int(Y[row])) for row in range(N)]
        self.per_token = per_token
        if known:
            self.targets = Y.tolist()

    def __len__(self):
        return N

    def __getitem__(self, row):
        return self.items[row]

    def collated(self, items):
        longest = max(len(x) for x, _ in items)
        padded = torch.stack([nn.functional.pad(x, (0, 0, 0, longest - len(x)), value=FAR) for x, _ in items])
        real = torch.stack([torch.arange(longest) < len(x) for x, _ in items])
        y = torch.tensor([label for _, label in items])
        labels = torch.where(real, y[:, None], -100) if self.per_token else y
        return {"x": padded, "attention_mask": real, "labels": labels}


class Tagging(Pooled):
    def pooled(self, x, counts):
        return self.h(torch.relu(self.a(x)))


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("most", [2000, 40, None])
def test_batches_padded_to_their_own_longest(most, known, per_token):
    texts = Texts(known, per_token)
    loader = DataLoader(texts, 8, shuffle=True, collate_fn=texts.collated, generator=seeded(2))
    model = (Tagging if per_token else Pooled)()
    report = campaign_(model, loader, max_samples=most, generator=seeded())
    assert (report.samples, report.classes, report.kept) == (min(most or N, N), 2, ())
    assert report.layers[-1].select == "least_squares"
    if most != 40:
        assert_centred(model, X, REAL)
    else:
        assert abs(float(model.a(X).detach()[REAL].mean())) < 0.4


def collect(data, most, model=Pooled):
    return sampling.collect(data, most, ItemReader(Forward(model()), targets=True, ignore=(-100,)))


def of_lengths(*lengths, n=20):
    for seed, length in enumerate(lengths):
        yield sequences(n, length, seed)


@pytest.mark.parametrize("most", [30, 2000])
def test_pieces_hold_every_sample_once_with_its_label(most):
    given = list(of_lengths(5, 7, 5, 6))
    sampled = collect(given, most)
    assert not sampled.held
    key = {tuple(x.flatten().tolist()): int(y) for xs, _, ys in given for x, y in zip(xs, ys, strict=True)}
    found = [
        (tuple(x.flatten().tolist()), label)
        for batch in sampled.read(4)
        for x, label in zip(batch.inputs[0], batch.labels.values.tolist(), strict=True)
    ]
    assert len({x for x, _ in found}) == len(found) == min(most, 80) == sampled.size
    assert all(key[x] == label for x, label in found)
    labels = np.array([label for _, label in found])
    assert np.bincount(labels).tolist() == [len(labels) / 2] * 2  # classes share evenly, over all shapes


def test_the_order_does_not_depend_on_the_size_of_batches_and_a_head_is_judged_by_every_shape():
    sampled = collect(list(of_lengths(5, 7, 6, n=32)), 2000)
    orders = [[x for batch in sampled.read(size) for x in batch.inputs[0].flatten(1).sum(1).tolist()] for size in (1, 3, 10, 1000)]
    assert orders[0] == orders[1] == orders[2] == orders[3]
    leading = sampled.leading(12)
    assert sum(map(len, leading)) == 12
    assert {batch.inputs[0].shape[1] for batch in leading} == {5, 6, 7}
    assert [x for batch in leading for x in batch.inputs[0].flatten(1).sum(1).tolist()] == orders[0][:12]


class Turning:
    """Batches of other lengths each, that start with another one every time they are read."""

    def __init__(self, *lengths):
        self.batches, self.starts = list(of_lengths(*lengths)), 0

    def __iter__(self):
        self.starts += 1
        first = self.starts % len(self.batches)
        yield from (self.batches[first:] + self.batches[:first])


@pytest.mark.parametrize("most", [2000, None])
def test_a_model_is_looked_at_with_one_length_whatever_the_order(most):
    for data in (Turning(5, 7, 6, 8), Turning(8, 5)):
        report = campaign_(Pooled(), data, max_samples=most)
        assert ([layer.name for layer in report.layers], report.kept) == (["a", "h"], ())


def test_float_targets_of_several_shapes_keep_their_samples():
    given = [(x, real, x[:, 0, :2]) for x, real, _ in of_lengths(5, 7, 6)]
    sampled = collect(given, 2000)
    for batch in sampled.read(7):
        np.testing.assert_allclose(sampled.targets[batch.labels.values], batch.inputs[0][:, 0, :2])
    report = campaign_(Pooled(), given)
    assert (report.samples, report.classes) == (60, 0)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 59, 60])
def test_leading_samples_are_the_first_none_alone(n):
    sampled = collect(list(of_lengths(5, 7, 6)), 2000)
    order = [x for batch in sampled.read(1000) for x in batch.inputs[0].flatten(1).sum(1).tolist()]
    leading = sampled.leading(n)
    found = [x for batch in leading for x in batch.inputs[0].flatten(1).sum(1).tolist()]
    assert found == order[: len(found)]
    assert n - 1 <= len(found) <= n
    assert n == 1 or min(map(len, leading)) > 1
