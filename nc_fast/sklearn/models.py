"""The estimators that predict: a layer of picked neurons and a ridge regression on their activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data

from nc_fast.heads import RidgeHead, ridge_strength, solve
from nc_fast.inputs import checks
from nc_fast.sklearn.features import FLOATS, Fit, NeuronLayer, one_hot, unit_targets, weights_of
from nc_fast.sklearn.guard import LEAST_SAMPLES, folds
from nc_fast.sklearn.head import layer_gram, scores_by_width
from nc_fast.sklearn.selection import activations, gram_of_sample


class NeuronModel(NeuronLayer):
    """A layer of neurons and a head; the base of the estimators that predict."""

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
        ridge: float | str = "loo",
        width_curve: bool = False,
        random_state: int | np.random.RandomState | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            n_neurons,
            pool=pool,
            candidates=candidates,
            select=select,
            activation=activation,
            max_samples=max_samples,
            standardize=standardize,
            random_state=random_state,
            backend=backend,
        )
        self.ridge = ridge
        self.width_curve = width_curve

    def _check_parameters(self) -> None:
        super()._check_parameters()
        ridge_strength(self.ridge)
        checks.flag("width_curve", self.width_curve)

    def _fit_model(self, X: Any, T: np.ndarray, weight: np.ndarray, *, classes: bool) -> RidgeHead:
        """Fit the layer and return its head, for the targets as they are given here."""
        ridge = ridge_strength(self.ridge)
        fit = self._fit_layer(X, T, weight, ridge, classes=classes)
        head = solve(layer_gram(self._layer(), fit.rows, slice(0, fit.rows.size)), ridge)
        self.ridge_ = head.ridge
        if self.width_curve:
            self.width_curve_ = self._width_curve(fit)
        return head

    def _keep_head(self, head: RidgeHead, unit: np.ndarray | float = 1.0) -> None:
        """Keep the head for targets in units of ``unit``."""
        self.head_ = (head.weights * unit).astype(self.weights_.dtype)
        self.intercept_ = (head.intercept * unit).astype(self.weights_.dtype)

    def _outputs(self, X: Any) -> np.ndarray:
        """Return what the head makes of X, (N, C)."""
        return np.concatenate([Z @ self.head_ + self.intercept_ for _, Z in self._activations(self._validated(X))])

    def _width_curve(self, fit: Fit) -> np.ndarray:
        """Return the held-out scores of the first 0, 1, ..., n_neurons neurons."""
        rows, sample = fit.rows, fit.sample
        n, unseen = sample.size, rows.size - sample.size
        if unseen >= n // 2:  # no neuron was picked on them
            layer, held = self._layer(), slice(n, n + min(n, unseen // 2))
            gram = layer_gram(layer, rows, slice(0, n), slice(held.stop, rows.size))
            Z = activations(layer, rows.raw(held))
            return scores_by_width(gram, self.ridge_, Z, rows.T[held], rows.weight[held], self._score_outputs)
        if n < LEAST_SAMPLES:
            raise ValueError(f"width_curve: expected at least {LEAST_SAMPLES} different rows, got {n}")
        total, share = np.zeros(self.n_neurons + 1), 0.0
        for train, held in folds(n, fit.rng):
            fitted, judged = sample.take(train), sample.take(held)
            neurons = fit.pool.take(self._order(fit.pool, fitted, self.n_neurons))
            gram = gram_of_sample(activations(neurons, fitted.X), fitted)
            scores = scores_by_width(gram, self.ridge_, activations(neurons, judged.X), judged.T, judged.weight, self._score_outputs)
            total, share = total + judged.weight.sum() * scores, share + judged.weight.sum()
        return total / share

    def _score_outputs(self, outputs: np.ndarray, T: np.ndarray, weight: np.ndarray) -> float:
        raise NotImplementedError


class NeuronClassifier(ClassifierMixin, NeuronModel):
    """A classifier: a layer of fixed neurons, picked from many for what they tell about y, and a ridge regression on them.

    There is no back-propagation: neurons are picked, by forward orthogonal least squares (:func:`nc_fast.pursuit`), and the
    head on them is solved in closed form. As a ridge regression gives no probabilities there is no ``predict_proba``;
    ``CalibratedClassifierCV`` makes some. y may hold several labels, as a matrix of 0 and 1.

    Parameters
    ----------
    n_neurons, pool, candidates, select, activation, max_samples, standardize, random_state, backend
        As in :class:`NeuronFeatures`.
    ridge : "loo" (default) or float >= 0
        Strength of the ridge, in units of the mean squared deviation of an activation. "loo" takes the one with the least
        leave-one-out error, as in :func:`nc_fast.ridge_head`.
    width_curve : bool, default False
        Whether ``fit`` measures ``width_curve_``.
    class_weight : dict, "balanced" or None, default None
        Multiplies the samples' weights, as in all of scikit-learn.

    Attributes
    ----------
    weights_ : (D, n_neurons), bias_ : (n_neurons,)
        The layer, for X as it comes, in the dtype of X: float32 for float32, else float64.
    head_ : (n_neurons, C), intercept_ : (C,)
        The head: ``activations @ head_ + intercept_`` is near 1 for the class of a sample and near 0 for others.
    classes_ : (C,)
    n_pursued_ : int
        The first so many neurons were pursued.
    ridge_ : float
        The strength that was taken.
    width_curve_ : (n_neurons + 1,), with ``width_curve=True``
        ``width_curve_[j]`` is the accuracy, on samples held out, of a head on the first j neurons; 0 neurons stand for the
        most frequent class. Up to 1.5 ``max_samples`` distinct rows, the picks are made anew without each of four folds (a
        quarter held out once from 2000 rows on); beyond, rows on which no neuron was picked are held out. All widths take
        the ridge of the whole.
    n_features_in_, feature_names_in_
        As in all of scikit-learn.

    Notes
    -----
    Rows of X that are alike are merged: their weights are added and their targets averaged. So a sample of weight 2 is the
    same as two samples that are alike, and neither the order of the samples nor their weights by themselves decide which
    neurons are picked; the head is what weights count in.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from nc_fast.sklearn import NeuronClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> NeuronClassifier(30, random_state=0).fit(X, y).score(X, y) > 0.95
    True
    """

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
        ridge: float | str = "loo",
        width_curve: bool = False,
        class_weight: dict[Any, float] | str | None = None,
        random_state: int | np.random.RandomState | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            n_neurons,
            pool=pool,
            candidates=candidates,
            select=select,
            activation=activation,
            max_samples=max_samples,
            standardize=standardize,
            ridge=ridge,
            width_curve=width_curve,
            random_state=random_state,
            backend=backend,
        )
        self.class_weight = class_weight

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.class_weight is not None and not isinstance(self.class_weight, dict):
            checks.choice("class_weight", self.class_weight, ("balanced",))

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NeuronClassifier:
        """Pick the neurons and solve the head.

        Parameters
        ----------
        X : (N, D) array, DataFrame or scipy.sparse
        y : (N,) labels, or (N, C) of 0 and 1
        sample_weight : (N,) numbers >= 0, optional

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            For parameters and data that are not as they should be, before any work.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS, multi_output=True, ensure_min_samples=2)
        check_classification_targets(y)
        self._several_labels = type_of_target(y) == "multilabel-indicator"
        weight = weights_of(sample_weight, X)
        if self._several_labels:
            T = np.asarray(y.toarray() if hasattr(y, "toarray") else y, np.float64)
            self.classes_ = np.arange(T.shape[1])
        else:
            y = column_or_1d(y, warn=True)
            T, self.classes_ = one_hot(y)
            if (weight @ T > 0).sum() < 2:
                raise ValueError("sample_weight: expected samples of at least two classes of weights above 0, got them of one class")
        if self.class_weight is None:
            pass
        elif self.class_weight == "balanced" and not self._several_labels:  # scikit-learn's function would count samples of weight 0
            total = weight @ T
            weight = weight * (T @ (total.sum() / np.where(total > 0, total, np.inf)))
        else:
            weight = weight * compute_sample_weight(self.class_weight, y)
        self._keep_head(self._fit_model(X, T, weight, classes=not self._several_labels))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return (N, C) scores, the highest for the class predicted; with two classes (N,), above 0 for the second."""
        outputs = self._outputs(X)
        if self._several_labels:
            return 2 * outputs - 1
        return outputs[:, 1] - outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict(self, X: Any) -> np.ndarray:
        """Return (N,) classes; or (N, C) of 0 and 1."""
        scores = self.decision_function(X)
        if self._several_labels:
            return (scores > 0).astype(np.int64)
        found: np.ndarray = self.classes_[(scores > 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)]
        return found

    def _score_outputs(self, outputs: np.ndarray, T: np.ndarray, weight: np.ndarray) -> float:
        if self._several_labels:
            right = ((outputs > 0.5) == (T > 0.5)).all(axis=1)
        else:
            right = T[np.arange(len(T)), outputs.argmax(axis=1)]
        return float(np.average(right, weights=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self.select != "campaign"
        return tags


class NeuronRegressor(MultiOutputMixin, RegressorMixin, NeuronModel):
    """A regressor: a layer of fixed neurons, picked from many for what they tell about y, and a ridge regression on them.

    There is no back-propagation: neurons are picked, by forward orthogonal least squares (:func:`nc_fast.pursuit`), and the
    head on them is solved in closed form. Several outputs share the neurons; each is brought to variance 1 first, so that all
    count the same.

    Parameters
    ----------
    n_neurons, pool, candidates, select, activation, max_samples, standardize, random_state, backend
        As in :class:`NeuronFeatures`; select="campaign" is for classes only.
    ridge, width_curve
        As in :class:`NeuronClassifier`.

    Attributes
    ----------
    weights_, bias_, head_, intercept_, n_pursued_, ridge_, n_features_in_, feature_names_in_
        As in :class:`NeuronClassifier`; the head gives y in its own units.
    width_curve_ : (n_neurons + 1,), with ``width_curve=True``
        As in :class:`NeuronClassifier`, with R² in place of the accuracy: 0 is that of the mean of y.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from nc_fast.sklearn import NeuronRegressor
    >>> X, y = make_friedman1(1000, random_state=0)
    >>> NeuronRegressor(100, random_state=0).fit(X[:800], y[:800]).score(X[800:], y[800:]) > 0.9
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NeuronRegressor:
        """Pick the neurons and solve the head.

        Parameters
        ----------
        X : (N, D) array, DataFrame or scipy.sparse
        y : (N,) or (N, T) numbers
        sample_weight : (N,) numbers >= 0, optional

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            For parameters and data that are not as they should be, before any work.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS, multi_output=True, y_numeric=True, ensure_min_samples=2)
        self._one_output = y.ndim == 1
        weight = weights_of(sample_weight, X)
        T, unit = unit_targets(y.reshape(len(y), -1).astype(np.float64), weight)
        self._keep_head(self._fit_model(X, T, weight, classes=False), unit)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return (N,) or (N, T) numbers, as y was."""
        outputs = self._outputs(X)
        return outputs[:, 0] if self._one_output else outputs

    def _score_outputs(self, outputs: np.ndarray, T: np.ndarray, weight: np.ndarray) -> float:
        spread = np.average((T - np.average(T, axis=0, weights=weight)) ** 2, axis=0, weights=weight)
        missed = np.average((T - outputs) ** 2, axis=0, weights=weight)
        return float(np.mean(1 - missed / np.where(spread > 0, spread, 1.0)))
