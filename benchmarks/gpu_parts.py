"""A call of ``class_moments`` taken apart: preparation and product kernels, so that each can be timed, swept and watched alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gpu_machine import Machine

from nc_fast.backends.gpu import layout, runtime
from nc_fast.backends.gpu.features import Features, measure_features
from nc_fast.backends.gpu.moments import slot_moments
from nc_fast.backends.gpu.packing import PackedCandidates, PackedSamples, pack_candidates, pack_samples
from nc_fast.backends.gpu.plan import Plan
from nc_fast.backends.gpu.precision import choose_arithmetic
from nc_fast.backends.gpu.samples import SortedSamples
from nc_fast.backends.gpu.tiles import Tiles, choose_tiles, variants

ACTIVATION = "relu"


class Parts:
    """The steps of a call, all samples in one chunk, the pool in the blocks that the call would take.

    ``variant`` names tile shapes of :func:`nc_fast.backends.gpu.tiles.variants`; without it they are those the call would choose.
    """

    def __init__(self, machine: Machine, W: torch.Tensor, X: torch.Tensor, y: torch.Tensor, precision: str, variant: str = "") -> None:
        self._W, self._device = W, machine.device
        self._bias = torch.zeros(W.shape[1], dtype=torch.float64, device=machine.device)
        counts = torch.bincount(y).cpu().numpy()
        self._samples = SortedSamples(X, torch.argsort(y, stable=True), counts)
        self.features = self.measure()
        types = {"centred": self.features.centred, "spread": self.features.spread}
        self.arithmetic = choose_arithmetic(precision, W.dtype, X.dtype, **types)
        tiles = self.variants()[variant] if variant else choose_tiles(runtime.target(machine.device), self.arithmetic, ACTIVATION)
        self.plan = Plan(self.arithmetic, ACTIVATION, tiles, W.shape[0])
        per_run = layout.run_tiles(len(X), W.shape[1], tiles.pure)
        self._chunk = layout.sample_layout(counts, slice(0, len(X)), tiles, per_run)
        candidate_bytes, free = self.plan.candidate_bytes(self._chunk.n_slots), runtime.free_bytes(machine.device)
        self._blocks = layout.pool_blocks(W.shape[1], candidate_bytes, free, tiles.pure.candidates)

    def variants(self) -> dict[str, Tiles]:
        """Return the tile shapes that may be tried for this number form on this device, by name."""
        return variants(runtime.target(self._device), self.arithmetic, ACTIVATION)

    @property
    def passes(self) -> int:
        """Products for each pair of a weight and a sample."""
        return len(self.arithmetic.parts[0])

    @property
    def kind(self) -> Any:
        """Numbers of a plain product of the same rate, as ``gpu_machine.product_seconds`` takes them."""
        return "tf32" if self.arithmetic.dot == "tf32" else getattr(torch, self.arithmetic.number)

    def measure(self) -> Features:
        return measure_features(self._samples.X, self._device)

    def pack_samples(self) -> PackedSamples:
        return pack_samples(self._samples, self._chunk, self.features, self.plan)

    def pack_block(self, block: slice) -> PackedCandidates:
        return pack_candidates(self._W[:, block], self._bias[block], self.features, self.plan)

    def pack_pool(self) -> None:
        """Pack every block, keeping none."""
        for block in self._blocks:
            self.pack_block(block)

    def packed(self) -> tuple[PackedSamples, list[PackedCandidates]]:
        """Return the samples and all blocks of the pool as :meth:`products` takes them."""
        return self.pack_samples(), [self.pack_block(block) for block in self._blocks]

    def products(self, samples: PackedSamples, candidates: list[PackedCandidates]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Run the product kernels, and nothing else; return each block's (n_slots, m_padded) partial moments."""
        return [slot_moments(block, samples, self.plan) for block in candidates]


@contextmanager
def launched(kernel: Any) -> Iterator[list[Any]]:
    """Yield a list that takes what Triton compiled for every launch of a kernel inside the block; None under the interpreter."""
    run, found = kernel.run, []

    def watched(*arguments: Any, **options: Any) -> None:
        found.append(run(*arguments, **options))

    kernel.run = watched
    try:
        yield found
    finally:
        del kernel.run
