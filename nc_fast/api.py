"""The public functions: they check what they are given, and call the stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from nc_fast.criteria import Criterion, checked_criterion
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array
from nc_fast.inputs.labels import IGNORE_INDEX
from nc_fast.inputs.left_out import LeftOut
from nc_fast.inputs.sources import Source
from nc_fast.runtime.progress import Progress, reporting
from nc_fast.screening import screened
from nc_fast.stages.campaign import SelectionRules, Stages
from nc_fast.stages.campaign import campaign as compose
from nc_fast.stages.checkpoint import checkpoint_path
from nc_fast.stages.moments import CandidatePool
from nc_fast.stages.moments import class_moments as moments_stage
from nc_fast.types import Campaign, ClassMoments

METHODS = ("exact", "screened")
SHARDS = ("samples", "candidates")


def campaign(
    W_candidates: Array,
    X: Array,
    y: Array,
    k: int,
    *,
    bias: Array | float | str = 0.0,
    activation: str | Callable[[Any], Any] = "relu",
    alpha: float = 0.5,
    by_class: bool = True,
    criterion: Criterion | None = None,
    method: str = "exact",
    backend: str = "auto",
    precision: str = "auto",
    progress: Progress = False,
    checkpoint: str | os.PathLike[str] | None = None,
    process_group: Any = None,
    shard: str = "samples",
    ignore_index: int | str | Sequence[int | str] | None = IGNORE_INDEX,
) -> Campaign:
    """Pick the k best candidate neurons: moments -> score -> select.

    Parameters
    ----------
    W_candidates : (D, M) float32 or float64 (float16, bfloat16 too on a GPU); NumPy array or torch tensor
        The pool; **columns are neurons** (``torch.nn.Linear.weight`` transposed).
    X : (N, D) floating, integer or boolean
        Samples as the layer sees them. Integers (uint8 images) are converted tile by tile, not scaled. A np.memmap, or an
        array-like that only slices (h5py, Zarr), is read in slices of at most 128 MiB, each once. scipy.sparse of any format
        is converted to CSR once, and its zeros are left out of the products; on a GPU its slices are dense one at a time.
    y : (N,) or (N, 1) integer, boolean or string labels
        Any values; gaps are fine. Missing labels (None, NaN) and several kinds of labels are errors.
    k : int, 1 <= k <= M
        Neurons to pick.
    bias : number, (M,) or "center", default 0
        The bias that will be installed with each neuron; scores use it. "center" is the bias that centres each candidate's
        pre-activation: minus the mean of ``X @ w`` over all samples, which are then read once more.
    activation : str or callable, default "relu"
        identity, relu, leaky_relu, elu, gelu, gelu_tanh, silu, tanh, sigmoid or softplus; or an elementwise function of an
        (n, m) block (slower).
    alpha : float in [0, 1], default 0.5
        Weight of I(X;Z) in the score: near 1 for front layers, near 0 for rear ones.
    by_class : bool, default True
        Share k over the classes the candidates belong to; otherwise pick from the whole pool at once.
    criterion : callable, optional
        Replaces the score: class moments -> (score (M,), group (M,)); see :mod:`nc_fast.criteria`. ``alpha`` is then unused.
    method : "exact" or "screened"
        "screened" scores a large pool by a surrogate and only those that may be picked exactly; the result's ``certificate``
        says how sure it is that the picks are the exact method's (docs/screening.md).
    backend : "auto", "reference", "cpu" or "gpu"
        "auto" follows where W_candidates lives; a backend named never falls back.
    precision : "auto", "fp16", "tf32" or "ieee"
        Matrix-product precision on a GPU; "auto" keeps the picks of the float64 reference.
    progress : bool or callable, default False
        True shows a bar (needs rich); a callable gets (done, total) of each stage.
    checkpoint : path, optional
        As in :func:`class_moments`: a call that was interrupted goes on from it, to the same picks.
    process_group : torch.distributed.ProcessGroup, optional
        Share the work with the group's other ranks, all of which make the same call; every rank gets the same picks
        (docs/scale.md).
    shard : "samples" or "candidates"
        What is in parts, one a rank, in rank order, parts may differ in size or be empty: X and y, with the same
        W_candidates everywhere; or W_candidates (and bias), with the same X and y, indices then counting through all parts
        and ``candidates`` being this rank's.
    ignore_index : label, sequence of labels or None, default -100
        Samples of these labels are left out, as if they were not there. Where the default leaves some out, a warning says so.
        Labels that are named, but none of them of the kind that y holds, are an error.

    Returns
    -------
    Campaign
        ``weights`` (D, k), ``bias`` (k,), ``indices`` (k,), ``scores`` (k,), ``gains`` (k,), ``groups`` (k,), ``restarts``
        and ``candidates``, in the library and on the device of W_candidates.

    Raises
    ------
    TypeError
        For arguments of the wrong kind: dtypes, masked arrays, float labels.
    ValueError
        For wrong values: shapes, NaN or infinity, missing labels, k outside [1, M], fewer than two classes with alpha < 1,
        unknown names, a checkpoint of other samples, a GPU asked for where none is.

    Warns
    -----
    UserWarning
        When k exceeds the live candidates, so that dead ones (zero weights, or the same activation on every sample) fill up;
        when samples are left out unasked; when the indices of X and y (pandas) are the same in another order;
        when labels are strings such as "nan", which missing ones become.

    Notes
    -----
    Source: Mao et al., "Neuron Campaign for Initialization Guided by Information Bottleneck Theory", CIKM 2021
    (arXiv 2108.06530). docs/algorithm.md lists every difference from the authors' program.

    Examples
    --------
    >>> import numpy as np, nc_fast
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1, 2], 50)
    >>> X = rng.normal(size=(150, 8)) + 3 * np.eye(3, 8)[y]
    >>> result = nc_fast.campaign(rng.normal(size=(8, 100)), X, y, 6)
    >>> result.weights.shape, result.groups.tolist()
    ((8, 6), [0, 0, 1, 1, 2, 2])
    """

    def prepare(*, empty_pool: bool = False, empty_source: bool = False) -> tuple[CandidatePool, Source, SelectionRules]:
        checks.progress(progress)
        checkpoint_path(checkpoint)
        left_out = LeftOut(checks.ignore_index(ignore_index))
        pool = CandidatePool.checked("W_candidates", W_candidates, bias, activation, backend, precision, X=X, may_be_empty=empty_pool)
        checks.choice("method", method, METHODS if process_group is None else METHODS[:1])
        most = np.iinfo(np.int64).max if empty_pool else pool.size
        picks = checks.count("k", k, most, rows=pool.n_features)
        rules = SelectionRules(picks, checks.alpha(alpha), checks.flag("by_class", by_class), checked_criterion(criterion))
        source = pool.labelled(X, y, left_out, may_be_empty=empty_source)
        if criterion is None and not empty_source:
            checks.enough_classes(rules.alpha, source.classes)
        return pool, source, rules

    checks.choice("shard", shard, SHARDS)
    if process_group is None:
        pool, source, rules = prepare()
        pool = pool.centred(source)
        stages = Stages(screen=screened if method == "screened" else None)
    else:
        pool, source, rules, stages = import_module("nc_fast.distributed").campaign_on_ranks(process_group, shard, prepare)
    return compose(pool, source, rules, stages, progress, checkpoint_path(checkpoint))


def class_moments(
    W: Array,
    X: Array | Iterable[tuple[Array, Array]],
    y: Array | None = None,
    *,
    bias: Array | float | str = 0.0,
    activation: str | Callable[[Any], Any] = "relu",
    backend: str = "auto",
    precision: str = "auto",
    progress: Progress = False,
    checkpoint: str | os.PathLike[str] | None = None,
    process_group: Any = None,
    ignore_index: int | str | Sequence[int | str] | None = IGNORE_INDEX,
) -> ClassMoments:
    """Return per-class count, mean and m2 of every candidate's activation ``act(X @ W + bias)``.

    The (N, M) activations are never held (but by ``backend="reference"``). The same inputs give the same bits, whatever the
    number of threads.

    Parameters
    ----------
    W, bias, activation, backend, precision, progress, ignore_index
        As in :func:`campaign`.
    X : (N, D) floating, integer or boolean; or, with ``y=None``, an iterable of (X, y) batches
        Batches are read once, one at a time, and put together to blocks of up to 16384 samples: neither speed nor the bits
        of the result depend on their sizes. Classes may appear in any of them.
    y : (N,) or (N, 1) integer, boolean or string labels
    checkpoint : path ending in .npz or .safetensors, optional
        The moments so far are saved in this file about every 30 seconds, and at the end. Where the file exists, the call
        goes on after the samples it has, to the bits of a call that was never interrupted. The samples and their order must be
        the same: the pool, bias, activation, backend, length of X, all labels that are in it, its first 256 rows and every 4096th
        are checked, and are all that is read of X again. ``ClassMoments.load`` reads it.
    process_group : torch.distributed.ProcessGroup, optional
        X and y are this rank's part; every rank gets the moments of all (docs/scale.md). Checkpoints get the rank's number
        in their names.

    Returns
    -------
    ClassMoments
        In the library and on the device of W. Moments of other samples can be added with ``+``.

    Raises
    ------
    TypeError, ValueError
        As :func:`campaign`; a bad batch is named by its number.

    Notes
    -----
    Source: Mao et al., CIKM 2021, section 3; within a tile two-pass, tiles merged by Chan, Golub and LeVeque (1979).

    Examples
    --------
    >>> import numpy as np, nc_fast
    >>> moments = nc_fast.class_moments(np.eye(2), np.array([[1.0, -2.0], [3.0, 4.0]]), ["a", "a"])
    >>> moments.mean.tolist(), moments.m2.tolist()  # relu is the default
    ([[2.0, 2.0]], [[2.0, 8.0]])
    """

    def prepare(*, may_be_empty: bool = False) -> tuple[CandidatePool, Source]:
        checks.progress(progress)
        checkpoint_path(checkpoint)
        left_out = LeftOut(checks.ignore_index(ignore_index))
        pool = CandidatePool.checked("W", W, bias, activation, backend, precision, X=X)
        if y is None:
            if pool.centres:
                raise ValueError("bias: expected numbers with batches, which are read once, got 'center'; it needs a reading of its own")
            return pool, pool.batches(X, left_out, may_be_empty=may_be_empty)
        return pool, pool.labelled(X, y, left_out, may_be_empty=may_be_empty)

    if process_group is None:
        (pool, source), moments = prepare(), moments_stage
        pool = pool.centred(source)
    else:
        pool, source, moments = import_module("nc_fast.distributed").moments_on_ranks(process_group, prepare)
    with reporting(progress, "moments") as report:
        return moments(pool, source, report, checkpoint_path(checkpoint))
