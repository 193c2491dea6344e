"""The regressor."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import validate_data

from nc_fast.sklearn.features import FLOATS, unit_targets, weights_of
from nc_fast.sklearn.model import NeuronModel


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
