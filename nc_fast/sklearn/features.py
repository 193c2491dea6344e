"""The layer alone: a transformer, and what the estimators that predict have in common with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from nc_fast.backends.registry import resolve
from nc_fast.inputs import checks
from nc_fast.inputs.label_checks import label_kind
from nc_fast.inputs.labels import IGNORE_INDEX
from nc_fast.inputs.left_out import LeftOut
from nc_fast.inputs.targets import sample_weight as checked_weights
from nc_fast.picks import filled
from nc_fast.sklearn.guard import guarded
from nc_fast.sklearn.rows import Rows, Sample, blocks, dense, distinct_rows
from nc_fast.sklearn.selection import activations, by_campaign, draw_pool, pursued
from nc_fast.stages.moments import CandidatePool

CANDIDATES = ("data_pairs", "gaussian")
SELECT = ("auto", "pursuit", "campaign", "none")
FLOATS = (np.float64, np.float32)


@dataclass(frozen=True, eq=False)
class Fit:
    """What a layer was picked from.

    Attributes
    ----------
    rows : all distinct rows.
    sample : the first of them, that neurons are picked on.
    pool : the candidates.
    rng : where random numbers come from.
    """

    rows: Rows
    sample: Sample
    pool: CandidatePool
    rng: np.random.Generator


class NeuronLayer(BaseEstimator):
    """A layer of neurons picked from a pool; the base of the estimators."""

    def __init__(
        self,
        n_neurons: int = 300,
        *,
        pool: int = 30,
        candidates: str | Callable[..., Any] = "data_pairs",
        select: str = "auto",
        activation: str | Callable[[Any], Any] = "relu",
        max_samples: int = 5000,
        standardize: bool = True,
        random_state: int | np.random.RandomState | None = None,
        backend: str = "auto",
        ignore_index: int | str | Sequence[int | str] | None = -100,
    ) -> None:
        self.n_neurons = n_neurons
        self.pool = pool
        self.candidates = candidates
        self.select = select
        self.activation = activation
        self.max_samples = max_samples
        self.standardize = standardize
        self.random_state = random_state
        self.backend = backend
        self.ignore_index = ignore_index

    def _check_parameters(self) -> None:
        checks.whole("n_neurons", self.n_neurons, 1)
        checks.whole("pool", self.pool, 1)
        if not callable(self.candidates):
            checks.choice("candidates", self.candidates, CANDIDATES)
        checks.choice("select", self.select, SELECT)
        checks.activation(self.activation)
        checks.whole("max_samples", self.max_samples, 2)
        checks.flag("standardize", self.standardize)
        resolve(self.backend, None)
        checks.ignore_index(self.ignore_index)

    def _fit_layer(self, X: Any, T: np.ndarray, weight: np.ndarray, ridge: float | None, *, classes: bool) -> Fit:
        """Set the layer's weights and biases, for X as it came."""
        if self.select == "campaign" and not classes:
            raise ValueError("select: expected 'auto', 'pursuit' or 'none' where y are no classes, got 'campaign'")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        rows = distinct_rows(X, T, weight, seed, classes=classes)
        if rows.size < 2:
            raise ValueError(f"X: expected at least two different rows, got n_samples = {X.shape[0]}, all alike")
        if self.standardize:
            rows = rows.standardized()
        sample, rng = rows.sample(slice(0, self.max_samples)), np.random.default_rng(seed)
        W, bias = draw_pool(self.candidates, sample, self.n_neurons * self.pool, self.n_neurons, rng)
        pool = CandidatePool.checked("candidates", W, bias, self.activation, self.backend, "auto")
        k = checks.count("n_neurons", self.n_neurons, pool.size)
        if self.select == "auto":
            picks = guarded(pool, rows, sample, k, ridge, rng)
            self.n_pursued_, order = len(picks), filled(picks, k)
        else:
            self.n_pursued_ = k if self.select == "pursuit" else 0
            order = self._order(pool, sample, k)
        self._take(pool.take(order), rows)
        return Fit(rows, sample, pool, rng)

    def _labelled(self, X: Any, y: np.ndarray, weight: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
        """Return samples, their labels (N,) and their weights, without those whose labels stand for no class."""
        labels = label_kind("y", y) if y.dtype == object else y.astype(np.int64) if y.dtype.kind == "f" else y
        ignore = checks.ignore_index(self.ignore_index)
        left_out = LeftOut((IGNORE_INDEX,) if isinstance(self.ignore_index, int) and ignore == (IGNORE_INDEX,) else ignore)
        rows = left_out.kept(labels)
        left_out.tell("y", 0 if rows is None else len(y) - len(rows), len(y))
        return (X, y, weight) if rows is None else (X[rows], y[rows], weight[rows])

    def _order(self, pool: CandidatePool, sample: Sample, k: int) -> np.ndarray:
        """Return the candidates that this estimator takes, in order."""
        if self.select == "campaign":
            return by_campaign(pool, sample, k)
        return filled(pursued(pool, sample, self.n_pursued_), k)

    def _take(self, neurons: CandidatePool, rows: Rows) -> None:
        """Keep neurons for standardized rows as neurons for rows as they come."""
        W = neurons.W / rows.scale[:, None]
        self.weights_ = W.astype(neurons.W.dtype)
        self.bias_ = (neurons.bias - rows.shift @ W).astype(neurons.W.dtype)

    def _layer(self) -> CandidatePool:
        return CandidatePool.checked("weights_", self.weights_, self.bias_, self.activation, self.backend, "auto")

    def _validated(self, X: Any) -> Any:
        """Return X as the layer takes it."""
        check_is_fitted(self)
        return validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=False)

    def _activations(self, X: Any) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the activations of some rows of a validated X at a time; only these are ever dense."""
        layer = self._layer()
        for block in blocks(0, X.shape[0], X.shape[1]):
            yield block, activations(layer, dense(X[block]).astype(layer.W.dtype, copy=False))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        return tags


class NeuronFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, NeuronLayer):
    """A layer of fixed neurons, picked from many for what they tell about y: a transformer.

    Candidates are drawn from the data; those are kept whose activations together explain the targets best, by forward
    orthogonal least squares (:func:`nc_fast.pursuit`).

    Parameters
    ----------
    n_neurons : int >= 1, default 300
    pool : int >= 1, default 30
        Candidates for every neuron.
    candidates : "data_pairs" (default), "gaussian" or callable
        Where they come from: pairs of samples with different targets, :func:`nc_fast.candidates.data_pairs`; Gaussian weights
        with biases that centre them; or ``candidates(X, y, M, rng) -> (weights (D, M), bias (M,))``, y being (N,) class
        numbers or (N, T) float targets.
    select : "auto" (default), "pursuit", "campaign" or "none"
        "auto" pursues as many neurons as held-out samples say is good, and takes the first of the pool for the others:
        pursuit alone overfits where samples are few (docs/estimators.md). "pursuit" pursues all. "campaign" is
        :func:`nc_fast.campaign`, for classes. "none" takes the first ``n_neurons`` candidates.
    activation : str or callable, default "relu"
        As in :func:`nc_fast.campaign`.
    max_samples : int >= 2, default 5000
        Samples that neurons are picked on.
    standardize : bool, default True
        Give every feature mean 0 and variance 1 (sparse X: only variance 1) before neurons are drawn. It is part of
        ``weights_`` and ``bias_``, which take X as it comes.
    random_state : int, RandomState or None, default None
    backend : "auto" (default), "reference", "cpu" or "gpu"
        As in :func:`nc_fast.campaign`.
    ignore_index : label, sequence of labels or None, default -100
        Samples of these labels are left out of ``fit``; where -100 leaves some out, a warning says so, and [-100] does not warn.

    Attributes
    ----------
    weights_ : (D, n_neurons)
        In the dtype of X, as are the biases: float32 for float32, else float64.
    bias_ : (n_neurons,)
    n_pursued_ : int
        The first so many neurons were pursued.
    n_features_in_, feature_names_in_
        As in all of scikit-learn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from nc_fast.sklearn import NeuronFeatures
    >>> X, y = load_iris(return_X_y=True)
    >>> NeuronFeatures(20, random_state=0).fit_transform(X, y).shape
    (150, 20)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NeuronFeatures:
        """Pick the neurons.

        Parameters
        ----------
        X : (N, D) array, DataFrame or scipy.sparse
        y : (N,) labels, or (N,) or (N, T) float targets
        sample_weight : (N,) numbers >= 0, optional
            A sample of weight 2 counts like two samples that are alike, one of weight 0 like none.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            For parameters and data that are not as they should be, before any work.
        """
        self._check_parameters()
        y = checked_labels(y)
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS, multi_output=True, ensure_min_samples=2)
        y = np.asarray(y)
        weight = weights_of(sample_weight, X)
        if y.dtype.kind == "f" or y.ndim == 2:
            T, _ = unit_targets(y.reshape(len(y), -1).astype(np.float64), weight)
            self._fit_layer(X, T, weight, None, classes=False)
        else:
            X, y, weight = self._labelled(X, y, weight)
            T, _ = one_hot(y)
            self._fit_layer(X, T, weight, None, classes=True)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the activations (N, n_neurons) of the neurons."""
        X = self._validated(X)
        found = np.empty((X.shape[0], self._n_features_out), self.weights_.dtype)
        for block, Z in self._activations(X):
            found[block] = Z
        return found

    @property
    def _n_features_out(self) -> int:
        return int(self.weights_.shape[1])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def weights_of(value: Any, X: Any) -> np.ndarray:
    """Return the samples' weights (N,) float64."""
    if value is None:
        return np.ones(X.shape[0])
    weight = check_array(value, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if not weight.any():
        raise ValueError("sample_weight: expected at least one that is not zero, got all zero")
    return checked_weights(weight, X.shape[0])


def checked_labels(y: Any) -> Any:
    """Return y after checking, where scikit-learn does not, that no label is missing and that all are of one kind."""
    if isinstance(y, (list, tuple)):
        return label_kind("y", y)
    if y is not None and not hasattr(y, "toarray") and np.asarray(y).dtype.kind in "OT":
        label_kind("y", y)
    return y


def one_hot(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return targets (N, C) that are 1 where a sample is of a class, and the classes."""
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y: expected at least two classes, got {len(classes)}: {classes.tolist()}")
    T = np.zeros((len(y), len(classes)))
    T[np.arange(len(y)), codes] = 1.0
    return T, classes


def unit_targets(T: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return targets in units of their standard deviations, so that all outputs count the same, and these."""
    mean = np.average(T, axis=0, weights=weight)
    deviation = np.sqrt(np.average((T - mean) ** 2, axis=0, weights=weight))
    unit = np.where(deviation > 0, deviation, 1.0)
    return T / unit, unit
