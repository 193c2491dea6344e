"""Screened campaigns: the picks are the exact method's, and what the certificate says is so."""

import sys

import numpy as np
import pytest
from screening_cases import gaussian, safe_problem

import nc_fast
from nc_fast.screening import surrogates
from nc_fast.screening.tail import Tail

screen_module = sys.modules["nc_fast.screening.screen"]


@pytest.fixture
def problem():
    return safe_problem()


@pytest.fixture
def always(monkeypatch):
    """Screen however small the pool."""
    monkeypatch.setattr(screen_module, "PAYS", np.inf)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("k", [7, 60])
def test_picks_are_the_exact_ones(k, alpha, by_class, problem):
    found = nc_fast.campaign(*problem, k, alpha=alpha, by_class=by_class, method="screened")
    exact = nc_fast.campaign(*problem, k, alpha=alpha, by_class=by_class)
    assert exact.certificate is None
    assert set(found.indices.tolist()) == set(exact.indices.tolist())
    certificate = found.certificate
    assert not certificate.exact
    assert certificate.shortlist + certificate.audit < 0.5 * certificate.pool
    assert 0 <= certificate.probability < 0.2
    assert "audited at random" in str(certificate)
    np.testing.assert_array_equal(np.sort(found.groups), np.sort(exact.groups))
    if alpha == 1:
        np.testing.assert_array_equal(found.indices, exact.indices)
        np.testing.assert_allclose(found.scores, exact.scores, rtol=0.01)


@pytest.mark.usefixtures("always")
def test_the_same_input_gives_the_same_result(problem):
    first, second = (nc_fast.campaign(*problem, 30, method="screened") for _ in range(2))
    assert first.certificate == second.certificate
    for name in ("indices", "scores", "gains"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_a_small_pool_is_scored_exactly(problem):
    W, X, y = problem
    found, exact = (nc_fast.campaign(W[:, :300], X, y, 20, method=method) for method in ("screened", "exact"))
    np.testing.assert_array_equal(found.indices, exact.indices)
    assert found.certificate.probability == 0
    assert "too small" in str(found.certificate)


def fisher(moments):
    return moments.between() ** 2 / (moments.within() ** 2 + 1e-3), moments.mean.argmax(0)


def ranks(moments):
    return moments.spread().argsort().argsort().astype(float), moments.mean.argmax(0)


def last_class(moments):
    return moments.spread(), moments.mean.argmin(0)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("criterion", "screens"), [(fisher, True), (last_class, True), (ranks, False)])
def test_criteria_of_the_user(criterion, screens, problem):
    found, exact = (nc_fast.campaign(*problem, 20, criterion=criterion, method=method) for method in ("screened", "exact"))
    np.testing.assert_array_equal(found.indices, exact.indices)
    assert found.certificate.exact or screens
    assert screens or "by the rest of the pool" in str(found.certificate)


@pytest.mark.parametrize("k", [1, 12, 40])
def test_more_picks_than_features(k, rng, always):
    X, y = gaussian(rng, 2000, 3)
    W = rng.normal(size=(3, 3000)).astype(np.float32)
    found, exact = (nc_fast.campaign(W, X, y, k, by_class=False, method=method) for method in ("screened", "exact"))
    assert set(found.indices.tolist()) == set(exact.indices.tolist())
    assert found.restarts == exact.restarts


def test_dead_candidates_are_not_picked(rng, always):
    X, y = gaussian(rng, 2000, 8)
    X = np.abs(X)
    W = -np.abs(rng.normal(size=(8, 2000))).astype(np.float32)  # relu never fires
    alive = rng.choice(2000, 60, replace=False)
    W[:, alive] *= -1
    found = nc_fast.campaign(W, X, y, 40, method="screened")
    assert set(found.indices.tolist()) == set(nc_fast.campaign(W, X, y, 40).indices.tolist()) <= set(alive.tolist())
    with pytest.warns(UserWarning, match="dead ones"):
        found = nc_fast.campaign(W, X, y, 70, method="screened")
    with pytest.warns(UserWarning, match="dead ones"):
        exact = nc_fast.campaign(W, X, y, 70)
    np.testing.assert_array_equal(found.indices, exact.indices)


@pytest.mark.parametrize("seed", [8, 29, 37, 39])
def test_an_audit_found_dead_stands_for_what_is_not_known_to_be(seed, always):
    # On these, the dead of the audit stayed in the rest while their likes were shortlisted: the weights of the score were wrong.
    rng = np.random.default_rng(seed)
    X, y = gaussian(rng, 2000, 8)
    W = -np.abs(rng.normal(size=(8, 2000))).astype(np.float32)
    W[:, rng.choice(2000, 60, replace=False)] *= -1
    found = nc_fast.campaign(W, np.abs(X), y, 40, method="screened")
    assert set(found.indices.tolist()) == set(nc_fast.campaign(W, np.abs(X), y, 40).indices.tolist())


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_pool_of_which_nearly_all_weights_are_zero(seed, by_class, always):
    """Once all that are not zero are known, nobody is left that could be picked: such runs ended in an AttributeError."""
    rng = np.random.default_rng(seed)
    X, y = gaussian(rng, 1000, 10)
    W = np.zeros((10, 3000), np.float32)
    W[:, rng.choice(3000, 5, replace=False)] = rng.normal(size=(10, 5))
    found = nc_fast.campaign(W, X, y, 5, by_class=by_class, method="screened")
    assert set(found.indices.tolist()) == set(np.flatnonzero(W.any(axis=0)).tolist())
    assert found.certificate.probability < 0.01


def test_integers_strings_and_tensors(problem, always):
    torch = pytest.importorskip("torch")
    W, X, y = problem
    X = np.clip(X * 20 + 100, 0, 255).astype(np.uint8)
    names = np.array(list("abcde"))[y]
    found = nc_fast.campaign(W, X, names, 10, method="screened")
    assert set(found.indices.tolist()) == set(nc_fast.campaign(W, X, names, 10).indices.tolist())
    tensors = nc_fast.campaign(torch.from_numpy(W), torch.from_numpy(X), y, 10, method="screened")
    assert tensors.indices.tolist() == found.indices.tolist()
    assert isinstance(tensors.candidates.score, torch.Tensor)


@pytest.mark.parametrize("by_class", [True, False])
def test_select_gives_the_picks_that_were_screened_for_and_no_others(by_class, problem, always):
    W, X, y = problem
    found = nc_fast.campaign(W, X, y, 62, by_class=by_class, method="screened")
    scores = found.candidates
    assert scores.live.sum() < W.shape[1]
    np.testing.assert_array_equal(nc_fast.select(W, scores, 62, by_class=by_class).indices, found.indices)
    exact = nc_fast.campaign(W, X, y, 62, by_class=by_class)
    assert scores.quota.tolist() == (np.bincount(exact.groups).tolist() if by_class else [62])
    for k, otherwise in ((61, by_class), (200, by_class), (62, not by_class)):
        with pytest.raises(ValueError, match=r"k, by_class: expected what the scores were screened for, 62 picks in [15] groups, got"):
            nc_fast.select(W, scores, k, by_class=otherwise)


def test_scores_that_are_exact_after_all_serve_any_k(problem):
    found = nc_fast.campaign(*problem, 60, method="screened")
    assert found.certificate.exact
    assert found.candidates.quota is None


def test_a_checkpoint_asks_for_exact_moments(problem, tmp_path):
    found = nc_fast.campaign(*problem, 10, method="screened", checkpoint=tmp_path / "moments.npz")
    assert found.certificate.exact
    assert "checkpoint" in found.certificate.reason


def test_one_pass_on_the_gpu_backend(rng, always, monkeypatch):
    from nc_fast.backends.registry import BACKENDS

    if BACKENDS["gpu"].missing():
        pytest.skip(BACKENDS["gpu"].missing())
    gpu_moments = pytest.importorskip("nc_fast.backends.gpu.moments")
    monkeypatch.setattr(screen_module, "AUDIT_BASE", 60)
    whole, passes = gpu_moments.class_moments, []

    def recorded(W, *args, precision, **options):
        passes.append((precision, W.shape[1]))
        return whole(W, *args, precision=precision, **options)

    X, y = gaussian(rng, 200, 16)
    W = rng.normal(size=(16, 200)).astype(np.float32)
    exact = nc_fast.campaign(W, X, y, 5, backend="gpu")
    monkeypatch.setattr(gpu_moments, "class_moments", recorded)
    found = nc_fast.campaign(W, X, y, 5, backend="gpu", method="screened")
    assert set(found.indices.tolist()) == set(exact.indices.tolist())
    assert "fp16" in found.certificate.surrogate
    assert [of for of in passes if of[0] == "fp16"] == [("fp16", 200)]
    assert sum(columns for precision, columns in passes if precision == "auto") < 200


# Sabotage: what the audit is there to catch, and what it would miss without its margins.


def classes_shuffled(mixture):
    def moments(self, W, bias, activation):
        found = mixture(self, W, bias, activation)
        return type(found)(found.classes, found.count, found.mean[::-1], found.m2[::-1])

    return moments


def noise(mixture):
    def moments(self, W, bias, activation):
        found = mixture(self, W, bias, activation)
        drawn = np.random.default_rng(0).normal(size=found.mean.shape)
        return type(found)(found.classes, found.count, drawn, np.abs(drawn) * found.count[:, None])

    return moments


@pytest.mark.parametrize("sabotage", [classes_shuffled, noise])
def test_a_wrong_surrogate_is_caught(sabotage, problem, always, monkeypatch):
    monkeypatch.setattr(surrogates.GaussianMixture, "moments", sabotage(surrogates.GaussianMixture.moments))
    W, X, y = problem
    found, exact = (nc_fast.campaign(W, X, y, 40, method=method) for method in ("screened", "exact"))
    assert found.certificate.exact or found.certificate.shortlist > 2 * 40  # the right surrogate shortlists 42
    assert set(found.indices.tolist()) == set(exact.indices.tolist())


def imprecise(mixture):
    def moments(self, W, bias, activation):
        found = mixture(self, W, bias, activation)
        factor = np.exp(0.05 * np.random.default_rng(1).normal(size=found.n_candidates))
        return type(found)(found.classes, found.count, found.mean * factor, found.m2 * factor**2)

    return moments


@pytest.mark.usefixtures("always")
def test_without_margins_picks_are_missed(problem, monkeypatch):
    monkeypatch.setattr(surrogates.GaussianMixture, "moments", imprecise(surrogates.GaussianMixture.moments))
    exact = set(nc_fast.campaign(*problem, 60, alpha=1.0).indices.tolist())
    assert set(nc_fast.campaign(*problem, 60, alpha=1.0, method="screened").indices.tolist()) == exact
    monkeypatch.setattr(Tail, "exceeds", lambda self, x: (np.asarray(x) <= 0).astype(float))
    assert set(nc_fast.campaign(*problem, 60, alpha=1.0, method="screened").indices.tolist()) != exact
