"""The public function :func:`pursuit`: it checks what it is given, and calls the stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array
from nc_fast.inputs.labels import IGNORE_INDEX
from nc_fast.inputs.left_out import LeftOut
from nc_fast.inputs.sources import Source
from nc_fast.inputs.targets import batches_read_twice
from nc_fast.runtime.progress import Progress
from nc_fast.stages.moments import DAMPING, CandidatePool
from nc_fast.stages.pursuit import Pursuit, PursuitRules, Steps
from nc_fast.stages.pursuit import pursuit as compose

__all__ = ["Pursuit", "pursuit"]


def pursuit(
    W_candidates: Array,
    X: Array | Iterable[tuple[Array, Array]],
    y: Array | None,
    k: int,
    *,
    bias: Array | float | str = 0.0,
    activation: str | Callable[[Any], Any] = "relu",
    max_samples: int = 5000,
    damping: float = DAMPING,
    block: int | str = "auto",
    rng: int | np.random.Generator = 0,
    backend: str = "auto",
    precision: str = "auto",
    progress: Progress = False,
    process_group: Any = None,
    ignore_index: int | str | Sequence[int | str] | None = IGNORE_INDEX,
) -> Pursuit:
    """Pick the k candidate neurons whose activations together explain the targets best, and fit a linear head on them.

    Forward orthogonal least squares: every pick is the candidate that, beside those already picked, takes most of what a
    linear layer leaves unexplained. The gain lasts as long as the neurons are kept as they are (docs/pursuit.md, which also
    says when it fails: with few samples and many candidates it overfits).

    Parameters
    ----------
    W_candidates, activation, backend, precision, progress
        As in :func:`campaign`. :mod:`nc_fast.candidates` draws pools from the data.
    X : (N, D) floating, integer or boolean; or, with ``y=None``, an iterable of (X, y) batches
        In memory, a memory map, an array-like that only slices, or scipy.sparse. It is read twice, for the picks and for the
        head: a DataLoader or a list of batches will do, a generator will not.
    y : (N,) or (N, 1) integer, boolean or string labels, or (N,) or (N, T) float targets
        Floats are regressed on as they are: several outputs, soft or several labels, the outputs of a teacher. Outputs of
        larger variance weigh more.
    k : int, 1 <= k <= M
    bias : number, (M,) or "center", default 0
        "center" is minus the mean of ``X @ w`` over all samples.
    max_samples : int >= 2, default 5000
        Samples, drawn at random, that the picks are made on. Their activations are held: 4 * max_samples * M bytes.
    damping : float >= 0, default 1e-3
        Added to a candidate's squared length outside the span of the picks, in units of its whole squared length: more
        damping takes fewer risks with candidates that are nearly spanned.
    block : "auto" or int >= 1
        Picks made inside a window of the best candidates for every look at all of them. 1 is the exact greedy method.
        "auto" takes more as the picks get more, up to 64: a few times faster on large pools and as good (docs/pursuit.md).
    rng : int or numpy.random.Generator, default 0
        Draws the samples.
    process_group : torch.distributed.ProcessGroup, optional
        X and y are this rank's part; every rank gets the same result.
    ignore_index : label, sequence of labels or None, default -100
        Samples of these labels are left out; float targets never are. Where the default leaves some out, a warning says so.

    Returns
    -------
    Pursuit
        ``weights`` (D, k), ``bias`` (k,), ``indices`` (k,) in order of picking, ``gains`` (k,), ``explained`` (k,), ``head``
        (k, C), ``intercept`` (C,), ``classes`` (C,); ``take(j)`` is the result for j < k.

    Raises
    ------
    TypeError, ValueError
        As :func:`campaign`; for targets that do not vary.

    Warns
    -----
    UserWarning
        When k exceeds the rank of the activations, so that candidates that add nothing fill up; when the activations of all
        candidates do not fit in memory, so that only those of the largest first gains compete; when samples are left out unasked.

    Notes
    -----
    Source: Chen, Cowan and Grant, "Orthogonal least squares learning algorithm for radial basis function networks", IEEE
    Transactions on Neural Networks 2 (1991). The head is ridge regression, see :func:`ridge_head`.

    Examples
    --------
    >>> import numpy as np, nc_fast
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, size=(500, 2))
    >>> W, bias = nc_fast.candidates.data_pairs(X, np.abs(X[:, 0]), 200, rng)
    >>> result = nc_fast.pursuit(W, X, np.abs(X[:, 0]), 20, bias=bias)
    >>> bool(result.explained[1] > 0.9 and result.explained[19] > 0.999)
    True
    """

    def prepare(*, may_be_empty: bool = False) -> tuple[CandidatePool, Source, PursuitRules]:
        checks.progress(progress)
        left_out = LeftOut(checks.ignore_index(ignore_index))
        pool = CandidatePool.checked("W_candidates", W_candidates, bias, activation, backend, precision, X=X)
        rules = PursuitRules(
            checks.count("k", k, pool.size, rows=pool.n_features),
            checks.whole("max_samples", max_samples, 2),
            checks.non_negative("damping", damping),
            checks.choice("block", block, ("auto",)) if isinstance(block, str) else checks.whole("block", block, 1),
            int(checks.generator("rng", rng).integers(2**63)),
        )
        if y is None:
            source: Source = pool.batches(batches_read_twice("X", "y", X), left_out, may_be_empty=may_be_empty, targets=True)
        else:
            source = pool.labelled(X, y, left_out, may_be_empty=may_be_empty, targets=True)
        return pool, source, rules

    if process_group is None:
        (pool, source, rules), steps = prepare(), Steps()
        pool = pool.centred(source)
    else:
        pool, source, rules, steps = import_module("nc_fast.distributed").pursuit_on_ranks(process_group, prepare)
    return compose(pool, source, rules, progress, steps)
