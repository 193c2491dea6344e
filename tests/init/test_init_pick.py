"""What a campaign picks, how it is scored, and in which order it is installed."""

import importlib
from itertools import permutations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st
from init_cases import blobs, net, paper, seeded
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nc_fast
from nc_fast.init import fisher_scores
from nc_fast.init.pick import assign, deal, output_of_class


@pytest.mark.parametrize("bias", ["center", "zeros", 0.3])
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_layer_gets_what_the_array_campaign_picks(bias, alpha):
    X, y = blobs(6)
    generator = seeded(3)
    pool = torch.randn(70, 6, generator=generator)
    offsets = {"center": -(pool @ X.mean(0)), "zeros": torch.zeros(70)}.get(bias, torch.full((70,), 0.3))
    expected = nc_fast.campaign(pool.T, X, y, 7, bias=offsets, alpha=alpha)
    model = net()
    report = paper(model, (X, y), alpha=alpha, bias=bias, candidates={"0": pool})
    assert sorted(report["0"].picks) == sorted(expected.indices.tolist())
    picks = list(report["0"].picks)
    assert torch.equal(model[0].weight, pool[picks])
    np.testing.assert_allclose(model[0].bias.detach(), offsets[picks], atol=1e-5)
    assert report["0"].score == pytest.approx(float(expected.scores.mean()), rel=1e-4)
    assert report["0"].pool == 70


def test_without_a_bias_parameter_scores_use_zero_and_the_report_says_so():
    X, y = blobs(6)
    pool = torch.randn(70, 6, generator=seeded(3))
    expected = nc_fast.campaign(pool.T, X, y, 7, bias=0.0, alpha=0.5)
    report = paper(net(bias=False), (X, y), alpha=0.5, candidates={"0": pool})
    assert sorted(report["0"].picks) == sorted(expected.indices.tolist())
    assert report["0"].notes == ("it has no bias parameter; scores use 0",)


def test_given_biases_are_scored_and_kept():
    X, y = blobs(6)
    pool, offsets = torch.randn(40, 6, generator=seeded(3)), torch.randn(40, generator=seeded(4))
    expected = nc_fast.campaign(pool.T, X, y, 7, bias=offsets, alpha=1.0)
    model = net()
    report = paper(model, (X, y), candidates={"0": (pool, offsets)}, layers=["0"])
    picks = list(report["0"].picks)
    assert sorted(picks) == sorted(expected.indices.tolist())
    assert torch.equal(model[0].bias, offsets[picks])


def test_before_batchnorm_neurons_are_compared_at_mean_0_and_std_1():
    X, y = blobs(6)
    pool = torch.randn(40, 6, generator=seeded(3))
    model = nn.Sequential(nn.Linear(6, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))
    scales = torch.logspace(-2, 2, 40)[:, None]
    plain, scaled = (paper(model, (X, y), candidates={"0": p}, layers=["0"]) for p in (pool, pool * scales))
    assert plain["0"].picks == scaled["0"].picks
    assert not plain["0"].notes


def test_centred_layers_have_mean_zero_and_gain_multiplies_weights():
    X, y = blobs(6)
    models = [net(), net()]
    for model, gain in zip(models, (1.0, 0.5), strict=True):
        report = paper(model, (X, y), gain=gain, max_samples=None, generator=seeded())
        with torch.no_grad():
            np.testing.assert_allclose(model[0](X).mean(0), 0, atol=1e-5)
            np.testing.assert_allclose(model(X).mean(0), 0, atol=1e-5)
        assert report["0"].after.mean == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(models[1][0].weight.detach(), 0.5 * models[0][0].weight.detach())


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [("linear", [1, 0.5, 0]), (0.3, [0.3] * 3), ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]), (lambda t: t**2, [0, 0.25, 1])],
)
def test_alpha_by_depth(alpha, expected):
    X, y = blobs(6)
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3))
    assert [layer.alpha for layer in paper(model, (X, y), alpha=alpha).layers] == expected
    if not isinstance(alpha, list):  # depth is the network's, whichever layers are initialized
        assert paper(model, (X, y), alpha=alpha, layers=["2"])["2"].alpha == expected[1]


@pytest.mark.parametrize("base", ["kaiming_normal", "xavier_uniform_", "orthogonal", "trunc_normal"])
def test_draws_have_the_layer_s_own_fans(base):
    X, y = blobs(40)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3))
    shapes = []
    function = getattr(nn.init, base.rstrip("_") + "_")

    def watched(weight):
        shapes.append(tuple(weight.shape))
        return function(weight)

    paper(model, (X, y), base=watched, pool=4, generator=seeded())
    assert shapes == [(30, 40)] * 4 + [(3, 30)] * 4
    named = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3))
    paper(named, (X, y), base=base, pool=4, generator=seeded())
    assert torch.equal(model[0].weight, named[0].weight)


def test_outputs_are_assigned_to_classes():
    X, y = blobs(6)
    for labels in (y, y + 5, torch.tensor([2, 0, 1])[y]):
        model = net()
        paper(model, (X, labels), generator=seeded())
        with torch.no_grad():
            means = torch.stack([model(X)[labels == c].mean(0) for c in labels.unique()])
        np.testing.assert_array_equal(means.argmax(0), np.arange(3))


def test_more_outputs_than_classes_and_labels_that_are_output_numbers():
    X, y = blobs(6)
    labels = torch.tensor([7, 1, 4])[y]
    model = net(classes=9)
    paper(model, (X, labels), generator=seeded())
    with torch.no_grad():
        out = model(X)
    means = np.array([[float(out[labels == c, output].mean()) for output in (7, 1, 4)] for c in (7, 1, 4)])
    assert np.trace(means) == max(means[np.arange(3), list(other)].sum() for other in permutations(range(3)))
    free = [output for output in range(9) if output not in (7, 1, 4)]
    assert float(out[:, free].abs().max()) > 0


def test_one_output_for_two_classes_is_high_for_the_second():
    X, y = blobs(6)
    for seed in range(5):
        model = net(classes=1)
        paper(model, (X, y > 0), generator=seeded(seed))
        with torch.no_grad():
            assert model(X)[y > 0].mean() > model(X)[y == 0].mean()


@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 2**32))
def test_assignment_is_the_best_of_all(n_classes, spare, seed):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(n_classes, n_classes + spare))
    indices = np.arange(100, 100 + n_classes + spare)
    outputs = rng.permutation(n_classes + spare)[:n_classes]
    ordered = assign(indices, means, outputs)
    assert sorted(ordered) == indices.tolist()
    total = means[np.arange(n_classes), ordered[outputs] - 100].sum()
    for _ in range(20):
        other = rng.permutation(n_classes + spare)[:n_classes]
        assert total >= means[np.arange(n_classes), other].sum() - 1e-9


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_dealing_takes_the_classes_in_turn_and_keeps_each_one_s_order(groups):
    group = np.sort(groups)
    indices = np.arange(len(group))
    dealt = deal(indices, group)
    assert sorted(dealt) == indices.tolist()
    for c in set(groups):
        assert np.all(np.diff(dealt[group[dealt] == c]) > 0)
    first = group[dealt][: len(set(groups))]
    assert len(set(first.tolist())) == len(first)


def test_classes_stand_for_outputs():
    assert output_of_class(np.array([0, 2]), 3).tolist() == [0, 2]
    assert output_of_class(np.array([5, 9]), 3) is None  # a stray label never moves a class to another output
    assert output_of_class(np.array([-1, 1]), 2) is None
    assert output_of_class(np.array(["cat", "dog"]), 2).tolist() == [0, 1]
    assert output_of_class(np.arange(4), 3) is None


@pytest.mark.parametrize("criterion", ["fisher", fisher_scores])
def test_criteria_by_name_and_the_user_s_own(criterion):
    X, y = blobs(6)
    pool = torch.randn(40, 6, generator=seeded(3))
    expected = nc_fast.campaign(pool.T, X, y, 7, bias=-(pool @ X.mean(0)), criterion=fisher_scores)
    report = paper(net(), (X, y), criterion=criterion, candidates={"0": pool})
    assert sorted(report["0"].picks) == sorted(expected.indices.tolist())


def test_fisher_survives_a_perfect_and_a_dead_candidate():
    y = np.array([0, 0, 1, 1])
    X = np.array([[1.0, 2.0, 5.0], [1.0, 3.0, 5.0], [2.0, 4.0, 5.0], [2.0, 6.0, 5.0]])
    score, group = fisher_scores(nc_fast.class_moments(np.eye(3), X, y))
    assert score[0] == 2 * score[1] > 0
    assert score[2] == 0
    assert group.tolist() == [1, 1, 0]


def test_by_class_off_leaves_outputs_unassigned():
    X, y = blobs(6)
    pool = torch.randn(40, 7, generator=seeded(3))
    model = net()
    report = paper(model, (X, y), by_class=False, candidates={"2": pool}, generator=seeded())
    hidden = torch.relu(model[0](X)).detach()
    expected = nc_fast.campaign(pool.T, hidden, y, 3, bias=-(pool @ hidden.mean(0)), activation="identity", alpha=0.0, by_class=False)
    assert sorted(report["2"].picks) == sorted(expected.indices.tolist())


@pytest.fixture
def always_screened(monkeypatch):
    """Screen however small the pool."""
    monkeypatch.setattr(importlib.import_module("nc_fast.screening.screen"), "PAYS", np.inf)


@pytest.mark.usefixtures("always_screened")
@pytest.mark.parametrize("criterion", [None, "fisher"])
@pytest.mark.parametrize("max_samples", [None, 1500])  # streamed in batches, and held
def test_screened_layers_get_the_exact_picks(criterion, max_samples):
    X, y = blobs(20, n=1500)
    wanted = {}
    for method in ("exact", "screened"):
        model = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 6))
        data = DataLoader(TensorDataset(X, y), batch_size=400)
        options = {"criterion": criterion, "max_samples": max_samples, "pool": 60}
        report = paper(model, data, method=method, generator=seeded(2), **options)
        wanted[method] = [set(layer.picks) for layer in report.layers], [layer.notes for layer in report.layers]
        assert (model(X).argmax(1) == y).float().mean() > 0.5
    picks, notes = zip(*wanted.values(), strict=True)
    assert picks[0][0] == picks[1][0]  # the hidden layer's; the output layer's inputs may come in another order
    assert notes[0] == [(), ()]
    assert "of 2400 candidates scored exactly; picks differ" in notes[1][0][0]


@pytest.mark.usefixtures("always_screened")
def test_what_cannot_be_screened_is_scored_exactly(monkeypatch):
    X, y = blobs(6, n=900)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 1))
    monkeypatch.setattr("nc_fast.init.pick.SCREENED_BYTES", 1000)
    report = paper(model, DataLoader(TensorDataset(X, y % 2), batch_size=300), method="screened", max_samples=None, pool=50)
    assert [layer.notes for layer in report.layers] == [(), (), ()]


def test_a_pool_that_is_too_small_to_screen_says_nothing():
    X, y = blobs(6)
    expected = paper(net(), (X, y), generator=seeded())
    report = paper(net(), (X, y), method="screened", generator=seeded())
    assert [layer.picks for layer in report.layers] == [layer.picks for layer in expected.layers]
    assert [layer.notes for layer in report.layers] == [(), ()]
