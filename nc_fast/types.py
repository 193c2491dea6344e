"""What passes between the three stages: frozen dataclasses, never bare tuples.

Arrays are NumPy arrays, or torch tensors where the caller's were; the arithmetic uses only what both libraries spell alike.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from nc_fast.files.moments import load_moments, save_moments
from nc_fast.inputs.arrays import Array, array_namespace, as_numpy, empty_rows, like
from nc_fast.inputs.labels import join_labels
from nc_fast.merging import chan_merge


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Per-class sample moments of every candidate's activation; merge two with ``+``, several with ``sum``.

    Attributes
    ----------
    classes : (C,) numpy array
        The sorted distinct labels.
    count : (C,) int64
        Samples per class.
    mean : (C, M) float64
        Mean of candidate j's activation over class c.
    m2 : (C, M) float64
        Sum over the class of ``(activation - mean[c, j]) ** 2``.

    Notes
    -----
    Merging follows Chan, Golub and LeVeque (1979); it is exact up to rounding, in any order and grouping.

    Examples
    --------
    >>> import numpy as np, nc_fast
    >>> W, X, y = np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([0, 0, 1])
    >>> whole = nc_fast.class_moments(W, X, y)
    >>> parts = nc_fast.class_moments(W, X[:1], y[:1]) + nc_fast.class_moments(W, X[1:], y[1:])
    >>> whole.mean.tolist() == parts.mean.tolist() == [[2.0, 3.0], [5.0, 6.0]]
    True
    """

    classes: np.ndarray
    count: Array
    mean: Array
    m2: Array

    @property
    def n_candidates(self) -> int:
        """Number of candidates M."""
        return int(self.mean.shape[1])

    @property
    def n_samples(self) -> int:
        """Number of samples N over all classes."""
        return int(self.count.sum())

    def __add__(self, other: ClassMoments | int) -> ClassMoments:
        """Return the moments of both sample sets together, over the union of their classes; 0, where ``sum`` starts, adds nothing.

        Raises
        ------
        ValueError
            When the two belong to pools of different sizes, or their labels are of different kinds.
        """
        if isinstance(other, int) and other == 0:
            return self
        if not isinstance(other, ClassMoments):
            return NotImplemented
        if self.n_candidates != other.n_candidates:
            raise ValueError(f"ClassMoments: expected {self.n_candidates} candidates in both, got {other.n_candidates}")
        classes = np.unique(join_labels((self.classes, other.classes)))
        a, b = self.over(classes), other.over(classes)
        return ClassMoments(classes, *chan_merge((a.count, a.mean, a.m2), (b.count, b.mean, b.m2)))

    __radd__ = __add__  # of 0 alone: two moments meet in __add__

    def over(self, classes: np.ndarray) -> ClassMoments:
        """Return these moments over a superset of the classes; added classes have count 0."""
        if np.array_equal(classes, self.classes):
            return self
        if not np.isin(self.classes, classes).all():
            raise ValueError(f"classes: expected all of {self.classes.tolist()} among them, got {np.asarray(classes).tolist()}")
        rows = like(self.mean, np.searchsorted(classes, self.classes.astype(classes.dtype)))
        whole = []
        for part in (self.count, self.mean, self.m2):
            whole.append(empty_rows(part, len(classes)))
            whole[-1][:] = 0
            whole[-1][rows] = part
        return ClassMoments(classes, *whole)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the moments to a .npz or .safetensors file, all at once: another reader sees the old file or the new one.

        Raises
        ------
        ValueError
            When the name ends in neither.

        Examples
        --------
        >>> import numpy as np, nc_fast, tempfile
        >>> moments = nc_fast.class_moments(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]), ["a", "b"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     moments.save(f"{folder}/moments.safetensors")
        ...     nc_fast.ClassMoments.load(f"{folder}/moments.safetensors").mean.tolist()
        [[1.0, 2.0], [3.0, 4.0]]
        """
        arrays = {"count": self.count, "mean": self.mean, "m2": self.m2}
        save_moments(path, {"classes": self.classes, **{name: as_numpy(array) for name, array in arrays.items()}})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClassMoments:
        """Return moments that :meth:`save` wrote, as NumPy arrays.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        ValueError
            When the file is cut short, damaged, or something else; pickles are refused.
        """
        arrays, _ = load_moments(path)
        return cls(**arrays)

    def within(self) -> Array:
        """Mean over classes of the standard deviation (ddof 1) inside a class, (M,)."""
        xp = array_namespace(self.mean)
        return xp.sqrt(self.m2 / (self.count - 1).clip(min=1)[:, None]).mean(0)

    def between(self) -> Array:
        """Standard deviation (ddof 1) over classes of the class means, (M,); needs two classes. Exactly 0 where they are equal."""
        deviations = self.mean - self.mean[:1]  # n equal numbers need not have that number as their mean
        deviations = deviations - deviations.mean(0)
        return array_namespace(self.mean).sqrt((deviations**2).sum(0) / (len(self.classes) - 1))

    def spread(self) -> Array:
        """Standard deviation (ddof 1) over all samples, by the law of total variance, (M,); exactly 0 where an activation never varies."""
        count, mean, m2 = self.count[:1], self.mean[:1], self.m2[:1]
        for c in range(1, len(self.classes)):
            row = slice(c, c + 1)
            count, mean, m2 = chan_merge((count, mean, m2), (self.count[row], self.mean[row], self.m2[row]))
        return array_namespace(self.mean).sqrt(m2[0] / max(self.n_samples - 1, 1))


@dataclass(frozen=True, eq=False)
class Scores:
    """What a criterion says of every candidate.

    Attributes
    ----------
    score : (M,) float64
        Higher is better; may be negative.
    group : (M,) int64
        Index into ``classes`` of the class each candidate belongs to.
    live : (M,) bool
        False where the activation is constant over all samples: such a candidate says nothing. Of a screened campaign,
        True only for those fit to be picked by its own k and by_class.
    classes : (C,) numpy array
        The sorted distinct labels.
    quota : (C,) or (1,) int64 numpy array, optional
        Of a screened campaign: the picks that it was screened for, of every class or of the pool at once.
    """

    score: Array
    group: Array
    live: Array
    classes: np.ndarray
    quota: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Picks:
    """What a backend's greedy loop returns.

    Attributes
    ----------
    indices : (n,) int64
        Candidates, pools in order, within a pool in order of picking.
    gains : (n,) float64
        Gain of each pick at the moment it was picked.
    restarts : int
        How often a pool's rank was exhausted and its span emptied.
    """

    indices: Array
    gains: Array
    restarts: int


@dataclass(frozen=True, eq=False)
class Selection:
    """The picked candidates.

    Attributes
    ----------
    indices : (k,) int64
        Columns of W, groups in class order, within a group in order of picking; dead candidates, if any, last.
    scores : (k,) float64
        Score of each pick.
    gains : (k,) float64
        Gain at the moment of picking; 0 for a dead candidate.
    groups : (k,) labels
        Class each pick belongs to.
    restarts : int
        How often a group's rank was exhausted and its span emptied.
    """

    indices: Array
    scores: Array
    gains: Array
    groups: Array
    restarts: int


@dataclass(frozen=True)
class Certificate:
    """How a screened campaign came to its picks, and how sure it is that they are the exact method's; ``print`` it.

    Attributes
    ----------
    pool : candidates in all.
    shortlist : candidates with exact moments because they might be picked.
    audit : candidates with exact moments because they were drawn at random.
    surrogate : what the others' moments were estimated by.
    error_quantiles : share -> the score error that this share of the candidates stays below, in units of the typical score.
    class_error : share of the candidates known exactly whose class the surrogate had wrong.
    exclusion_risk : probability that a candidate left out would have been picked.
    weights_risk : probability that the error of the score's pool-wide constants changes who is picked.
    quota_risk : probability that the error of the groups' sizes changes how k is shared.
    probability : of any of the three: that the exact method picks somebody else; near ties may change places beside that.
    rounds : how often the shortlist was looked over.
    reason : why all candidates got exact moments; empty where screening worked.
    """

    pool: int
    shortlist: int
    audit: int
    surrogate: str
    error_quantiles: dict[float, float]
    class_error: float
    exclusion_risk: float
    weights_risk: float
    quota_risk: float
    probability: float
    rounds: int
    reason: str = ""

    @staticmethod
    def all_exact(pool: int, reason: str) -> Certificate:
        """Return the certificate of a campaign in which every candidate got exact moments."""
        return Certificate(pool, pool, 0, "none", {}, 0.0, 0.0, 0.0, 0.0, 0.0, 0, reason)

    @property
    def exact(self) -> bool:
        """Whether every candidate got exact moments."""
        return bool(self.reason)

    def __str__(self) -> str:
        """Say it in plain words."""
        if self.exact:
            return f"All {self.pool} candidates were scored exactly: {self.reason}. The picks are the exact method's."
        share = (self.shortlist + self.audit) / self.pool
        return (
            f"Of {self.pool} candidates {self.shortlist} were shortlisted and {self.audit} audited at random: {share:.1%} were scored "
            f"exactly, the rest by a surrogate ({self.surrogate}). The exact method would pick other neurons with probability "
            f"{self.probability:.2%}: {self.exclusion_risk:.2%} that one left out belongs in, {self.weights_risk:.2%} for the estimated "
            f"constants of the score, {self.quota_risk:.2%} for the sizes of the groups. The order of near ties may differ."
        )


@dataclass(frozen=True, eq=False)
class Campaign(Selection):
    """Result of a neuron campaign: the selection, the picked weights, and how they were found.

    Attributes
    ----------
    indices, scores, gains, groups, restarts
        As in :class:`Selection`.
    weights : (D, k), library, dtype and device of W_candidates
        The picked columns.
    bias : (k,), dtype of W_candidates
        The bias each pick was scored with, and is to be installed with.
    candidates : Scores
        Score and group of the whole pool; of a screened campaign, estimates where a candidate was ruled out.
    certificate : Certificate or None
        What ``method="screened"`` did and how sure it is; None with ``method="exact"``.
    """

    weights: Array
    bias: Array
    candidates: Scores
    certificate: Certificate | None = None
