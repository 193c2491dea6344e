"""How likely a surrogate's error is to be large: the upper tail of errors seen on candidates known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TAIL_SHARE = 0.15  # of the errors are the tail that the generalized Pareto distribution is fitted to
LIGHTEST_SHAPE, HEAVIEST_SHAPE = 0.0, 0.5  # a normal tail measures -0.12 here; but no sample shows that there is no heavier one
SCALE_FLOOR = 0.2  # of the median scale: no error is believed to be known better
SMALLEST_SCALE = 1e-140  # stands for 0: what is divided by two such scales still does not overflow


@dataclass(frozen=True, eq=False)
class Tail:
    """Upper tail of a distribution: empirical, and beyond the upper 15 % generalized Pareto (peaks over threshold)."""

    ordered: np.ndarray  # (n,), the errors, ascending
    threshold: float  # where the generalized Pareto tail begins
    scale: float
    shape: float

    @staticmethod
    def of(errors: np.ndarray) -> Tail:
        """Fit by probability-weighted moments (Hosking and Wallis, 1987)."""
        ordered = np.sort(errors)
        first = min(int((1 - TAIL_SHARE) * len(ordered)), len(ordered) - 2)
        threshold = float(ordered[first])
        excess = ordered[first + 1 :] - threshold
        n = len(excess)
        mean = float(excess.mean())
        weighted = float(((n - np.arange(1, n + 1) + 0.65) / n * excess).mean())
        shape, scale = 0.0, mean
        if mean > 2 * weighted > 0:
            estimate = 2 - mean / (mean - 2 * weighted)
            shape = float(np.clip(estimate, LIGHTEST_SHAPE, HEAVIEST_SHAPE))
            scale = mean * (1 - shape)
        return Tail(ordered, threshold, max(scale, SMALLEST_SCALE), shape)

    def exceeds(self, x: np.ndarray) -> np.ndarray:
        """Return the probability that an error exceeds x, with the (n + 1) correction of a conformal bound."""
        n = len(self.ordered)
        beyond = np.maximum(x - self.threshold, 0) / self.scale
        decay = np.exp(-beyond) if self.shape == 0 else np.maximum(1 + self.shape * beyond, 0) ** (-1 / self.shape)
        decay = np.maximum(decay, np.exp(-2 * beyond))  # no error is impossible
        chance = (TAIL_SHARE + 1 / (n + 1)) * decay
        usual = np.flatnonzero(x <= self.threshold)
        chance[usual] = (n - np.searchsorted(self.ordered, x[usual], side="left") + 1) / (n + 1)
        return np.asarray(chance)

    def quantile(self, probability: float) -> float:
        """Return the error exceeded with this probability, for the certificate."""
        if probability >= TAIL_SHARE:
            return float(np.quantile(self.ordered, 1 - probability))
        odds = probability / TAIL_SHARE
        return self.threshold + self.scale * (-float(np.log(odds)) if self.shape == 0 else (odds**-self.shape - 1) / self.shape)


def regress(features: np.ndarray, target: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit ``target`` (n,) on ``features`` (p, M) at the n columns ``known``; return the prediction (M,) and its scale (M,).

    The scale is linear in the features as well, fitted to the absolute residuals, and bounded below.
    """
    size = np.sqrt(np.mean(np.square(features), axis=1, keepdims=True))
    features = features / np.where(size > 0, size, 1)
    own = features[:, known]
    penalty = 1e-8 * len(known) * np.eye(len(features))
    coefficients = np.linalg.solve(own @ own.T + penalty, own @ target)
    prediction = coefficients @ features
    residual = np.abs(target - prediction[known]) * np.sqrt(len(known) / max(len(known) - len(features), 1))
    spread = np.linalg.solve(own @ own.T + penalty, own @ residual) @ features
    return prediction, np.maximum(spread, SCALE_FLOOR * np.median(residual) + SMALLEST_SCALE)
