"""The classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data

from nc_fast.inputs import checks
from nc_fast.sklearn.features import FLOATS, checked_labels, one_hot, weights_of
from nc_fast.sklearn.model import NeuronModel


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
    ignore_index : label, sequence of labels or None, default -100
        Samples of these labels are left out of ``fit``; where -100 leaves some out, a warning says so, and [-100] does not warn.
        No sample is left out of ``score``.

    Attributes
    ----------
    weights_ : (D, n_neurons)
        The layer, for X as it comes, in the dtype of X: float32 for float32, else float64.
    bias_ : (n_neurons,)
    intercept_ : (C,)
    head_ : (n_neurons, C)
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
        ignore_index: int | str | Sequence[int | str] | None = -100,
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
        self.ignore_index = ignore_index

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
        y = checked_labels(y)
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=FLOATS, multi_output=True, ensure_min_samples=2)
        check_classification_targets(y)
        self._several_labels = type_of_target(y) == "multilabel-indicator"
        weight = weights_of(sample_weight, X)
        if self._several_labels:
            T = np.asarray(y.toarray() if hasattr(y, "toarray") else y, np.float64)
            self.classes_ = np.arange(T.shape[1])
        else:
            X, y, weight = self._labelled(X, column_or_1d(y, warn=True), weight)
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
        as_predicted = T[np.arange(len(T)), outputs.argmax(axis=1)]
        right = ((outputs > 0.5) == (T > 0.5)).all(axis=1) if self._several_labels else as_predicted
        return float(np.average(right, weights=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = self.select != "campaign"
        return tags
