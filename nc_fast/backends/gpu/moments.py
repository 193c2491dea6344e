"""Class moments on a GPU: samples sorted, centred and scaled once; the pool in blocks; one fused pass over both.

Accuracy: operands are scaled by exact powers of two per feature and per candidate, then held as one or two float16
numbers (22 bits), one float32 or one float64. Deviations from a pivot per candidate are summed in float32 (float64 for
float64) within a run of tiles and merged in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from nc_fast.backends.gpu import layout as plan
from nc_fast.backends.gpu import runtime, tiles
from nc_fast.backends.gpu.kernels import moments as kernels
from nc_fast.backends.gpu.kernels import prepare
from nc_fast.backends.gpu.runtime import on_device
from nc_fast.backends.gpu.tiles import Arithmetic, Schedule, Tile
from nc_fast.types import ClassMoments

CENTRED_ABOVE = 4.0  # |mean| / deviation from which a feature is centred; below, zeros stay exact zeros
SPREAD_BITS = 17.0  # largest over geometric mean of a feature, in bits, from which two float16 lose bits of most samples
MAX_EXPONENT = 110  # of a candidate's scale, whose inverse is a float32
FEATURE_EXPONENT = 900  # of a feature's scale, a float64
TILE_BYTES = 32 << 20  # samples on their way to the device, in float64
CALLABLE_BYTES = 64 << 20  # one float64 block of activations on the path for callables
EXACT_IN_HALF = (torch.uint8, torch.int8, torch.bool, torch.float16, torch.bfloat16)  # bfloat16: 8 bits, scaled into range

Report = Callable[[int, int], None]


def class_moments(
    W: torch.Tensor,
    X: torch.Tensor,
    codes: torch.Tensor,
    classes: np.ndarray,
    *,
    bias: torch.Tensor,
    activation: str | Callable[[Any], Any],
    precision: str = "auto",
    report: Report | None = None,
) -> ClassMoments:
    """Return the class moments of ``activation(X @ W + bias)`` without ever holding it.

    Parameters
    ----------
    W : (D, M) floating
        On the device that computes, in any memory layout.
    X : (N, D) floating or integer
        On the same device, or in host memory: then it is streamed in tiles.
    codes : (N,) int64
        Index into ``classes`` of each sample.
    classes : (C,) numpy array
        Labels, passed through.
    bias : (M,) float64
    activation : str or callable
        A name in the table, or an elementwise function of an (n, m) tensor: slower, for its block is stored.
    precision : "auto", "fp16", "tf32" or "ieee"
        "auto" holds operands in 22 bits (two float16), in float32 where the data spread too far, in float64 where they are.
    report : callable, optional
        Called with (work done, work in all) after every block of the pool; waits for the device each time.

    Returns
    -------
    ClassMoments
        float64 tensors on W's device. A candidate whose activation is the same on every sample has m2 = 0 and equal
        means, exactly.

    Raises
    ------
    ValueError
        When W lies neither on a GPU nor, under the interpreter, on the CPU.

    Notes
    -----
    Source: Mao et al., CIKM 2021, section 3; tiles merged by Chan, Golub and LeVeque (1979).
    """
    with on_device(W), torch.no_grad():
        return _Moments(W, X, codes, classes, bias, activation, precision, report).run()


@dataclass(frozen=True)
class _Features:
    shift: torch.Tensor  # (D,) float64, subtracted from each feature
    mean: torch.Tensor  # (D,) float64
    largest: torch.Tensor  # (D,) float64, largest magnitude after the shift
    centred: bool  # whether any shift is not 0
    spread: bool  # whether a feature's magnitudes span more than two float16 hold


class _Moments:
    """One call: the samples' side prepared once, then the pool block by block."""

    def __init__(
        self,
        W: torch.Tensor,
        X: torch.Tensor,
        codes: torch.Tensor,
        classes: np.ndarray,
        bias: torch.Tensor,
        activation: str | Callable[[Any], Any],
        precision: str,
        report: Report | None,
    ) -> None:
        self.W, self.X, self.classes, self.bias, self.activation = W, X, classes, bias, activation
        self.report = report
        self.order = torch.argsort(codes, stable=True).to(X.device)
        self.count = torch.bincount(codes, minlength=len(classes))
        self.counts = self.count.cpu().numpy()
        self.precision = precision
        shape = (len(classes), W.shape[1])
        self.mean = torch.zeros(shape, dtype=torch.float64, device=W.device)
        self.m2 = torch.zeros_like(self.mean)

    def run(self) -> ClassMoments:
        pivot = self._by_callable() if callable(self.activation) else self._by_kernels(self.activation)
        self.mean += pivot
        self.mean[torch.from_numpy(self.counts == 0).to(self.W.device)] = 0
        return ClassMoments(self.classes, self.count, self.mean, self.m2)

    def _by_kernels(self, activation: str) -> torch.Tensor:
        """Fill mean and m2 with the moments of activation - pivot; return the pivot (M,)."""
        D, M = self.W.shape
        features = _features(self.X, self.W.device)
        arithmetic = _arithmetic(self.precision, self.W.dtype, self.X.dtype, features)
        chosen = tiles.schedule(
            runtime.target(self.W.device), arithmetic, activation, specialize=tiles.specializes(runtime.triton_version())
        )
        K = _round_up(D, chosen.pure.depth)
        pitch_w, pitch_x = (K * (2 if low else 1) for low in (arithmetic.weights_low, arithmetic.samples_low))
        chunks = plan.sample_chunks(len(self.order), pitch_x * arithmetic.itemsize, plan.SAMPLES_BYTES)
        tiles_per_run = plan.run_tiles(len(self.order), M, chosen.pure)
        layouts = [self._layout(chunk, chosen, tiles_per_run) for chunk in chunks]
        per_candidate = pitch_w * arithmetic.itemsize + 16 * max(layout.n_slots for layout in layouts) + 64
        blocks = plan.pool_blocks(M, per_candidate, runtime.free_bytes(self.W.device), chosen.pure.candidates)
        fscale = _power_of_two(arithmetic.largest_exponent - _exponent(features.largest), FEATURE_EXPONENT)
        pivot = torch.empty(M, dtype=getattr(torch, arithmetic.sums), device=self.W.device)
        before = np.zeros(len(self.classes))
        for c, (chunk, layout) in enumerate(zip(chunks, layouts, strict=True)):
            packed = self._pack_samples(chunk, layout, features, fscale, arithmetic, K)
            samples = _ChunkTensors(layout, before[layout.present], packed, self.W.device)
            for b, block in enumerate(blocks):
                pool = _PoolBlock(self.W[:, block], self.bias[block], features, fscale, arithmetic, activation, chosen, K)
                pivot[block] = pool.pivot[: block.stop - block.start]
                self._fuse(pool, samples, block, arithmetic, activation, chosen, K)
                self._progress(c * len(blocks) + b + 1, len(chunks) * len(blocks))
            before += self._chunk_counts(chunk)
        return pivot

    def _layout(self, chunk: slice, chosen: Schedule, tiles_per_run: int) -> plan.SampleLayout:
        return plan.sample_layout(self._chunk_counts(chunk), chosen.pure.samples, chosen.mixed.samples, tiles_per_run)

    def _chunk_counts(self, chunk: slice) -> np.ndarray:
        ends = np.cumsum(self.counts)
        return np.asarray(np.clip(ends, chunk.start, chunk.stop) - np.clip(ends - self.counts, chunk.start, chunk.stop))

    def _pack_samples(
        self, chunk: slice, layout: plan.SampleLayout, features: _Features, fscale: torch.Tensor, arithmetic: Arithmetic, K: int
    ) -> torch.Tensor:
        rows = self.order[chunk][torch.from_numpy(layout.source).to(self.order.device)]
        packed = _empty_packed(layout.packed_rows, K, arithmetic.samples_low, arithmetic, self.W.device)
        first = 0
        for tile in _tiles(self.X, rows, self.W.device):
            last = first + len(tile) == len(rows)
            target = packed[first:] if last else packed[first : first + len(tile)]
            ones = torch.ones(len(tile), dtype=torch.float64, device=tile.device)
            _pack(tile, features.shift, fscale, ones, target, K, low=arithmetic.samples_low, arithmetic=arithmetic)
            first += len(tile)
        return packed

    def _fuse(
        self,
        pool: _PoolBlock,
        samples: _ChunkTensors,
        block: slice,
        arithmetic: Arithmetic,
        activation: str,
        chosen: Schedule,
        K: int,
    ) -> None:
        layout, m_padded = samples.layout, len(pool.pivot)
        slot_mean = torch.empty((layout.n_slots, m_padded), dtype=pool.pivot.dtype, device=self.W.device)
        slot_m2 = torch.empty_like(slot_mean)
        per_candidate = (pool.inverse, pool.offset, pool.pivot)
        pitches = (pool.packed.stride(0), samples.packed.stride(0))
        if layout.n_runs:
            tile = chosen.pure
            n_blocks = m_padded // tile.candidates
            operands = _operands(pool.packed, samples.packed, tile, tma=chosen.tma)
            results = (slot_mean, slot_m2, m_padded, layout.n_runs, n_blocks, K, *pitches)
            constants = tiles.pure_constants(chosen, arithmetic, activation)
            kernels.pure_runs[(layout.n_runs * n_blocks,)](*operands, *per_candidate, samples.run_row, *results, **constants)
        if layout.n_tiles:
            tile = chosen.mixed
            n_blocks = m_padded // tile.candidates
            operands = _operands(pool.packed, samples.packed, tile, tma=chosen.tma)
            results = (slot_mean, slot_m2, m_padded, layout.n_tiles, n_blocks, K, *pitches)
            first = (int(layout.run_row[-1]), layout.n_runs)
            constants = tiles.mixed_constants(chosen, arithmetic, activation)
            kernels.mixed_tiles[(layout.n_tiles * n_blocks,)](
                *operands, *per_candidate, samples.part_row, samples.tile_part, *results, *first, **constants
            )
        m = block.stop - block.start
        kernels.merge_slots[(len(layout.present), triton.cdiv(m, tiles.MERGE_CANDIDATES))](
            slot_mean,
            slot_m2,
            samples.class_slot,
            samples.slot,
            samples.slot_count,
            samples.present,
            samples.before,
            self.mean[:, block],
            self.m2[:, block],
            m,
            self.mean.stride(0),
            m_padded,
            BC=tiles.MERGE_CANDIDATES,
        )

    def _by_callable(self) -> torch.Tensor:
        """Fill mean and m2 through stored blocks of activations, the product in float64; return the pivot (M,)."""
        act = self.activation
        assert callable(act)
        given = torch.float64 if torch.float64 in (self.W.dtype, self.X.dtype) else torch.float32
        M = self.W.shape[1]
        sorted_codes = np.repeat(np.arange(len(self.classes)), self.counts)
        m = max(min(M, CALLABLE_BYTES // 8 // 256), 1)
        n = max(CALLABLE_BYTES // 8 // m, 1)
        chunks = plan.sample_chunks(len(self.order), 1, n)
        pivot = torch.empty(M, dtype=torch.float64, device=self.W.device)
        count = torch.zeros(len(self.classes), dtype=torch.float64, device=self.W.device)
        for c, chunk in enumerate(chunks):
            x = torch.cat([tile.double() for tile in _tiles(self.X, self.order[chunk], self.W.device)])
            present, local = np.unique(sorted_codes[chunk], return_inverse=True)
            members = torch.nn.functional.one_hot(torch.from_numpy(local).to(x.device)).double().T
            rows, more = torch.from_numpy(present).to(x.device), members.sum(1)
            for first in range(0, M, m):
                block = slice(first, min(first + m, M))
                z = (x @ self.W[:, block].double() + self.bias[block]).to(given)
                shape, z = z.shape, act(z)
                if not isinstance(z, torch.Tensor) or z.shape != shape:
                    raise ValueError(f"activation: expected a tensor of shape {tuple(shape)}, got {tuple(getattr(z, 'shape', ()))}")
                z = z.double()
                if c == 0:
                    pivot[block] = z[0]
                z = z - pivot[block]
                mean = members @ z / more[:, None]
                m2 = members @ (z - members.T @ mean) ** 2
                share = (more / (count[rows] + more))[:, None]
                delta = mean - self.mean[rows, block]
                self.mean[rows, block] += delta * share
                self.m2[rows, block] += m2 + delta**2 * (count[rows][:, None] * share)
                self._progress(c * M + block.stop, len(chunks) * M)
            count[rows] += more
        return pivot

    def _progress(self, done: int, total: int) -> None:
        if self.report:
            if self.W.device.type == "cuda":
                torch.cuda.current_stream().synchronize()
            self.report(done, total)


class _ChunkTensors:
    """A chunk of samples on the device."""

    def __init__(self, layout: plan.SampleLayout, before: np.ndarray, packed: torch.Tensor, device: torch.device) -> None:
        self.layout, self.packed = layout, packed

        def on_device(table: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(table).to(device)

        self.run_row, self.part_row, self.tile_part = map(on_device, (layout.run_row, layout.part_row, layout.tile_part))
        self.class_slot, self.slot, self.slot_count = map(on_device, (layout.class_slot, layout.slot, layout.slot_count))
        self.present, self.before = on_device(layout.present), on_device(before)


class _PoolBlock:
    """A block of the pool, packed; everything per candidate is padded with zero candidates to whole tiles."""

    def __init__(
        self,
        W: torch.Tensor,
        bias: torch.Tensor,
        features: _Features,
        fscale: torch.Tensor,
        arithmetic: Arithmetic,
        activation: str,
        chosen: Schedule,
        K: int,
    ) -> None:
        D, m = W.shape
        m_padded = _round_up(m, chosen.pure.candidates)
        largest = torch.empty(m_padded, dtype=torch.float64, device=W.device)
        self.offset = torch.empty(m_padded, dtype=getattr(torch, arithmetic.sums), device=W.device)
        self.pivot = torch.empty_like(self.offset)
        prepare.candidate_constants[(triton.cdiv(m_padded, tiles.CONSTANTS_CANDIDATES),)](
            W,
            bias,
            features.shift,
            features.mean,
            fscale,
            largest,
            self.offset,
            self.pivot,
            m,
            m_padded,
            D,
            *W.stride(),
            **tiles.candidate_constants(activation),
        )
        exponent = (arithmetic.largest_exponent - _exponent(largest)).clamp(-MAX_EXPONENT, MAX_EXPONENT)
        self.inverse = _power_of_two(-exponent, MAX_EXPONENT).to(self.offset.dtype)
        self.packed = _empty_packed(m_padded, K, arithmetic.weights_low, arithmetic, W.device)
        no_shift, scale = torch.zeros_like(fscale), _power_of_two(exponent, MAX_EXPONENT)
        _pack(W.T, no_shift, 1 / fscale, scale, self.packed, K, low=arithmetic.weights_low, arithmetic=arithmetic)


def _features(X: torch.Tensor, device: torch.device) -> _Features:
    """Take each feature's mean, deviation, range and spread in one pass over the samples."""
    D = X.shape[1]
    zeros = torch.zeros(D, dtype=torch.float64, device=device)
    low, high = zeros + torch.inf, zeros - torch.inf
    count, mean, m2, log_sum, log_count = 0, zeros.clone(), zeros.clone(), zeros.clone(), zeros.clone()
    for raw in _tiles(X, None, device):
        tile = raw.double()
        low, high = torch.minimum(low, tile.amin(0)), torch.maximum(high, tile.amax(0))
        tile_m2, tile_mean = torch.var_mean(tile, 0, correction=0)
        delta, share = tile_mean - mean, len(tile) / (count + len(tile))
        mean += delta * share
        m2 += tile_m2 * len(tile) + delta**2 * (count * share)
        count += len(tile)
        nonzero = tile != 0
        log_sum += tile.abs().log2().nan_to_num(neginf=0.0).sum(0)
        log_count += nonzero.sum(0)
    constant = low == high
    mean = torch.where(constant, low, mean)  # the rounded mean of equal numbers need not be that number
    deviation = (m2 / count).sqrt()
    shift = torch.where(constant | (mean.abs() > CENTRED_ABOVE * deviation), mean, zeros)
    largest = torch.maximum((high - shift).abs(), (low - shift).abs())
    uncentred = torch.maximum(high.abs(), low.abs())
    bits = torch.where(log_count > 0, uncentred.log2() - log_sum / log_count.clamp(min=1), zeros)
    flags = torch.stack([(shift != 0).any(), (bits > SPREAD_BITS).any()]).tolist()
    return _Features(shift, mean, largest, *flags)


def _arithmetic(precision: str, weights: torch.dtype, samples: torch.dtype, features: _Features) -> Arithmetic:
    if precision == "fp16":
        return Arithmetic("float16")
    if precision == "tf32":
        return Arithmetic("float32", dot="tf32")
    if torch.float64 in (weights, samples):
        return Arithmetic("float64")
    if precision == "ieee" or features.spread:
        return Arithmetic("float32")
    # A low part that would be 0 is left out: a third of the product's time each.
    return Arithmetic("float16", weights not in EXACT_IN_HALF, samples not in EXACT_IN_HALF or features.centred)


def _tiles(X: torch.Tensor, rows: torch.Tensor | None, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield tiles of X, or of its given rows, on the device."""
    n = len(X) if rows is None else len(rows)
    size = max(TILE_BYTES // 8 // X.shape[1], 1)
    spans = [slice(first, min(first + size, n)) for first in range(0, n, size)]
    if X.device != device:
        yield from _streamed(X, rows, spans, device)
        return
    for span in spans:
        yield _loadable(X[span] if rows is None else X[rows[span]])


def _streamed(X: torch.Tensor, rows: torch.Tensor | None, spans: list[slice], device: torch.device) -> Iterator[torch.Tensor]:
    """Yield tiles of X in host memory through two pinned buffers: while the device takes one, the other is filled."""
    gpu = device.type == "cuda"
    longest = max(span.stop - span.start for span in spans)
    buffers = [torch.empty((longest, X.shape[1]), dtype=X.dtype, pin_memory=gpu) for _ in range(2)]
    taken = [torch.cuda.Event() for _ in buffers] if gpu else []  # type: ignore[no-untyped-call]
    for turn, span in enumerate(spans):
        buffer = buffers[turn % 2][: span.stop - span.start]
        if gpu:
            taken[turn % 2].synchronize()  # returns at once before the event's first use
        if rows is None:
            buffer.copy_(X[span])
        else:
            torch.index_select(X, 0, rows[span], out=buffer)
        tile = buffer.to(device, non_blocking=True)
        if gpu:
            taken[turn % 2].record()
        yield _loadable(tile)


def _loadable(tile: torch.Tensor) -> torch.Tensor:
    """Return the tile in a type that kernels load: bool as bytes, rare integers as int64, or float64 where that is too small."""
    if tile.dtype == torch.bool:
        return tile.view(torch.uint8)
    if tile.dtype == torch.uint64:
        return tile.double()
    return tile.long() if tile.dtype in (torch.uint16, torch.uint32) else tile


def _pack(
    source: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    row_scale: torch.Tensor,
    packed: torch.Tensor,
    K: int,
    *,
    low: bool,
    arithmetic: Arithmetic,
) -> None:
    n, D = source.shape
    prepare.pack[(triton.cdiv(len(packed), tiles.PACK_ROWS), triton.cdiv(K, tiles.PACK_DEPTH))](
        source,
        shift,
        scale,
        row_scale,
        packed,
        n,
        len(packed),
        D,
        K,
        packed.stride(0),
        *source.stride(),
        **tiles.pack_constants(arithmetic, low=low),
    )


def _empty_packed(rows: int, K: int, low: bool, arithmetic: Arithmetic, device: torch.device) -> torch.Tensor:
    return torch.empty((rows, K * (2 if low else 1)), dtype=getattr(torch, arithmetic.number), device=device)


def _operands(weights: torch.Tensor, samples: torch.Tensor, tile: Tile, *, tma: bool) -> tuple[Any, Any]:
    if not tma:
        return weights, samples
    return (
        TensorDescriptor.from_tensor(weights, [tile.candidates, tile.depth]),
        TensorDescriptor.from_tensor(samples, [tile.samples, tile.depth]),
    )


def _exponent(values: torch.Tensor) -> torch.Tensor:
    """Return e with |value| < 2 ** e, as small as possible; 0 for 0."""
    return torch.frexp(values).exponent


def _power_of_two(exponent: torch.Tensor, limit: int) -> torch.Tensor:
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent.clamp(-limit, limit))


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
