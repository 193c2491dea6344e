"""The moments stage: a pool of candidates, checked once, on samples from any source, with or without a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nc_fast.backends.registry import Backend, resolve
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, is_tensor, like, take_columns
from nc_fast.inputs.callables import elementwise
from nc_fast.inputs.left_out import LeftOut
from nc_fast.inputs.means import centring, feature_sums
from nc_fast.inputs.orientation import last_length, refuse_rows_as_neurons
from nc_fast.inputs.sources import Batches, Block, Slices, Source, batch, block_rows, labelled
from nc_fast.picks import PursuitPicks
from nc_fast.runtime.progress import Report
from nc_fast.stages.checkpoint import Checkpoint, fingerprint
from nc_fast.types import ClassMoments

PRECISIONS = ("auto", "fp16", "tf32", "ieee")
DAMPING = 1e-3  # of a pursuit
PROBED = ((-7.0, -2.0, -1.0, -0.5), (0.0, 0.6, 1.1, 3.0))  # where a user's activation is looked at, for a checkpoint


@dataclass(frozen=True, eq=False)
class CandidatePool:
    """Checked candidate neurons and the backend that computes with them.

    Attributes
    ----------
    W : (D, M), columns are neurons, as the user gave them.
    bias : (M,) float64, NumPy.
    centres : whether the bias is still to be found, by :meth:`centred`.
    activation : name in the table, or a callable on an (n, m) block.
    named : the activation, in words.
    precision : of the matrix product on a GPU.
    backend : where to compute.
    """

    W: Array
    bias: np.ndarray
    activation: str | Callable[[Any], Any]
    named: str
    precision: str
    backend: Backend
    centres: bool = False

    @staticmethod
    def checked(
        name: str,
        W: Array,
        bias: object,
        activation: object,
        backend: object,
        precision: object,
        *,
        X: object = None,
        may_be_empty: bool = False,
    ) -> CandidatePool:
        """Check what a user passes as candidates, for samples X where they are one array; ``name`` is that of the argument W."""
        refuse_rows_as_neurons(name, W, n_features=last_length(X, 2))
        W, chosen = weights(name, W, backend, may_be_empty=may_be_empty)
        centres = isinstance(bias, str) and bias == "center"
        b = checks.biases(0.0 if centres else bias, W)
        act = checks.activation(activation)
        precision = checks.choice("precision", precision, PRECISIONS if chosen.on_gpu else ("auto",))
        named = act if isinstance(act, str) else getattr(act, "__qualname__", type(act).__name__)
        if not (isinstance(act, str) or chosen.on_gpu):
            act = elementwise(act, tensors=is_tensor(W))
        return CandidatePool(W, b, act, named, precision, chosen, centres)

    @property
    def size(self) -> int:
        """M."""
        return int(self.W.shape[1])

    @property
    def n_features(self) -> int:
        """D."""
        return int(self.W.shape[0])

    @property
    def described(self) -> dict[str, str]:
        """What has to be the same where moments are to be merged, besides W and bias."""
        return {"activation": self.named, "backend": self.backend.name, "precision": self.precision}

    def take(self, columns: np.ndarray) -> CandidatePool:
        """Return some of the candidates."""
        return replace(self, W=take_columns(self.W, columns), bias=self.bias[columns])

    def activations(self, X: Array) -> Array:
        """Return the candidates' activations (n, M) on samples, where the backend computes."""
        put, samples = self.backend.put, self.backend.samples(X)
        return self.backend.activations(put(self.W), samples, bias=put(self.bias), activation=self.activation, precision=self.precision)

    def pursue(
        self, X: Array, T: np.ndarray, k: int, *, damping: float = DAMPING, block: int | str = "auto", report: Report | None = None
    ) -> PursuitPicks:
        """Pick k candidates whose activations on samples (n, D) explain the centred targets (n, C) float64."""
        put = self.backend.put
        picks: PursuitPicks = self.backend.pursue(
            put(self.W),
            put(X),
            put(T),
            k,
            bias=put(self.bias),
            activation=self.activation,
            precision=self.precision,
            damping=damping,
            block=block,
            report=report,
        )
        return picks

    def labelled(self, X: Array, y: Array, left_out: LeftOut, *, may_be_empty: bool = False, targets: bool = False) -> Block | Slices:
        """Check samples and labels, or with ``targets`` labels or float targets."""
        shape = getattr(X, "shape", None)
        if may_be_empty and shape is not None and len(shape) == 2 and shape[0] == 0:
            if len(y) or shape[1] != self.n_features:
                expected = f"expected shapes (0, {self.n_features}) and (0,) of an empty shard"
                raise ValueError(f"X, y: {expected}, got {tuple(shape)} and {len(y)} labels")
            return Block(X, np.zeros(0, np.int64), np.zeros(0))
        return labelled(X, y, self.W, left_out, half=self.backend.on_gpu, targets=targets, may_be_empty=may_be_empty)

    def batches(self, batches: Any, left_out: LeftOut, *, may_be_empty: bool = False, targets: bool = False) -> Batches:
        """Return a stream of batches as a source; they are checked one by one."""
        if hasattr(batches, "shape") or not hasattr(batches, "__iter__"):
            got = f"got None with X as {type(batches).__name__}"
            raise TypeError(f"y: expected (N,) labels, or X as an iterable of (X, y) batches, {got}")

        def checked(X: Any) -> Array:
            return batch(X, self.W, half=self.backend.on_gpu)

        return Batches(batches, checked, self.backend.samples, may_be_empty, targets, left_out=left_out)

    def centred(self, source: Source, sums: Callable[[Source, int], np.ndarray] = feature_sums) -> CandidatePool:
        """Return the pool with the numbers that ``bias="center"`` stands for; it needs a reading of the source of its own.

        ``sums`` may add up the feature sums of several processes.
        """
        return replace(self, bias=centring(self.W, sums(source, self.n_features)), centres=False) if self.centres else self

    def no_moments(self) -> ClassMoments:
        """Return the moments of no samples."""
        empty = (np.zeros(0, np.int64), *np.zeros((2, 0, self.size)))
        return ClassMoments(np.zeros(0), *(like(self.W, array) for array in empty))


def weights(name: str, W: Array, backend: object, *, may_be_empty: bool = False) -> tuple[Array, Backend]:
    """Check candidates; return them and the backend for them."""
    chosen = resolve(backend, W)
    if may_be_empty and getattr(W, "ndim", 0) == 2 and W.shape[1] == 0 and W.shape[0] > 0:
        return W, chosen
    return checks.weights(name, W, half=chosen.on_gpu), chosen


def class_moments(pool: CandidatePool, source: Source, report: Report | None, checkpoint: Path | None = None) -> ClassMoments:
    """Return the moments of the pool on all samples of the source, in the library and on the device of W.

    With a checkpoint, samples that it has are not computed again.
    """
    whole = isinstance(source, Block) and checkpoint is None
    rows = max(source.size, 1) if whole else block_rows(pool.n_features)
    saved = None if checkpoint is None else _checkpoint(checkpoint, pool, source)
    total, done = saved.found() if saved else (None, 0)
    if total is not None:
        total = _like(pool.W, total)
    compute, put = pool.backend.class_moments, pool.backend.put
    W = put(pool.W)
    arguments = {"bias": put(pool.bias), "activation": pool.activation, "precision": pool.precision}
    blocks = source.csr_blocks if isinstance(source, Slices) and pool.backend.reads_csr else source.blocks
    for block in blocks(done, rows, saved.skip if saved else None):
        X = pool.backend.samples(block.X)
        found = compute(W, X, put(block.y), block.classes, report=report if whole else None, **arguments)
        found = _like(pool.W, found)
        total = found if total is None else total + found
        if saved:
            saved.offer(total, block)
        if report and not whole:
            report(total.n_samples, source.size)
    if saved and total is not None:
        saved.save(total)
    return pool.no_moments() if total is None else total


def _checkpoint(path: Path, pool: CandidatePool, source: Source) -> Checkpoint:
    made_with = {"W": fingerprint(pool.W), "bias": fingerprint(pool.bias), "block": block_rows(pool.n_features), **pool.described}
    if not (isinstance(pool.activation, str) or pool.backend.on_gpu):  # two functions of one name, such as lambdas
        values = pool.activation(np.array(PROBED, checks.dtype_name(pool.W)))
        made_with["values of the activation"] = fingerprint(values.round(3))
    return Checkpoint(path, {**made_with, **({"samples": source.size} if source.size else {})})


def _like(W: Array, moments: ClassMoments) -> ClassMoments:
    return ClassMoments(moments.classes, *(like(W, array) for array in (moments.count, moments.mean, moments.m2)))
