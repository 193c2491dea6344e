"""The public function :func:`select`: it checks what it is given, and calls the stage."""

from __future__ import annotations

from nc_fast.criteria import checked_given, checked_scores
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array
from nc_fast.inputs.orientation import last_length, refuse_rows_as_neurons
from nc_fast.runtime.progress import Progress, reporting
from nc_fast.stages import selection
from nc_fast.stages.moments import weights
from nc_fast.types import Scores, Selection

__all__ = ["select"]


def select(
    W: Array,
    scores: Scores | Array,
    k: int,
    *,
    groups: Array | None = None,
    by_class: bool = True,
    given: Array | None = None,
    backend: str = "auto",
    progress: Progress = False,
) -> Selection:
    """Pick k candidates greedily by score and by how far each points away from those already picked in its group.

    ``gain = score * ratio`` for scores >= 0 and ``score / ratio`` below, ``ratio`` being the part of the candidate's weight
    vector outside the span of its group's picks. Ties within a relative 1e-9 go to the lowest index; a group whose rank is
    exhausted starts again with an empty span.

    Parameters
    ----------
    W : (D, M) floating
        Columns are candidates, in any memory layout.
    scores : Scores, or (M,) numbers
        From :func:`ib_scores` or any other source; higher is better.
    k : int, 1 <= k <= M
    groups : (M,) labels
        With plain numbers and ``by_class=True``, the group of each candidate.
    by_class : bool, default True
        Share k over the groups; otherwise one pick order over the whole pool.
    given : (n,) integers, n + k <= M, optional
        Distinct candidates that are there already, in the order of their picking: the k picks are the rest of a call for n + k
        that began with them. A group gets its share of n + k less what it has, or none. Dead ones among the given span nothing.
    backend, progress
        As in :func:`campaign`.

    Returns
    -------
    Selection
        ``indices`` (k,) int64, ``scores``, ``gains``, ``groups`` (k,), ``restarts``, in the library and on the device of W.

    Raises
    ------
    TypeError, ValueError
        As :func:`campaign`; scores of a screened campaign with another k or by_class than its own.

    Warns
    -----
    UserWarning
        When k exceeds the live candidates.

    Notes
    -----
    Source: Mao et al., CIKM 2021, section 3.3, with the defects of the authors' program mended (docs/algorithm.md).

    Examples
    --------
    >>> import numpy as np, nc_fast
    >>> W = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])  # the second neuron is parallel to the first
    >>> nc_fast.select(W, [0.9, 0.8, 0.1], k=2, by_class=False).indices.tolist()
    [0, 2]
    >>> nc_fast.select(W, [0.9, 0.8, 0.1], k=1, by_class=False, given=[0]).indices.tolist()  # one more, later
    [2]
    """
    checks.progress(progress)
    by_class = checks.flag("by_class", by_class)
    refuse_rows_as_neurons("W", W, n_neurons=last_length(getattr(scores, "score", scores), 1))
    W, chosen = weights("W", W, backend)
    k = checks.count("k", k, W.shape[1], rows=W.shape[0])
    checked = checked_scores(scores, groups, W.shape[1], by_class=by_class)
    there = checked_given(given, W.shape[1], k)
    with reporting(progress, "selection") as report:
        return selection.select(chosen, W, checked, k, by_class, report, given=there)
