"""What the estimators that predict have in common: a layer, a head on it, and how well narrower layers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nc_fast.heads import RidgeHead, ridge_strength, solve
from nc_fast.inputs import checks
from nc_fast.sklearn.features import Fit, NeuronLayer
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
        for train, others in folds(n, fit.rng):
            fitted, judged = sample.take(train), sample.take(others)
            neurons = fit.pool.take(self._order(fit.pool, fitted, self.n_neurons))
            gram = gram_of_sample(activations(neurons, fitted.X), fitted)
            scores = scores_by_width(gram, self.ridge_, activations(neurons, judged.X), judged.T, judged.weight, self._score_outputs)
            total, share = total + judged.weight.sum() * scores, share + judged.weight.sum()
        return total / share

    def _score_outputs(self, outputs: np.ndarray, T: np.ndarray, weight: np.ndarray) -> float:
        raise NotImplementedError
