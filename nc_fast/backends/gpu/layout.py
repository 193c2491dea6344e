"""How sorted samples fill tiles, and how the samples and the pool are cut where they do not fit in memory at once.

Pure Python and NumPy: no tensor, no device. Whatever can change a result's bits follows from shapes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nc_fast.backends.gpu.tiles import Tile, Tiles

MAX_RUN_TILES = 16  # a run's start-up (about 3 us) against 16 tiles of 8 to 24 us
WANTED_PROGRAMS = 1056  # 8 waves of 132 multiprocessors: the last one, partly filled, wastes below 6 %
SAMPLES_BYTES = 512 << 20  # packed samples held at once; MNIST's 60000 x 784 needs 200 MB
POOL_BYTES = 512 << 20  # packed weights and partial moments held at once; more makes nothing faster
POOL_SHARE = 0.5  # of free memory at most: the allocator rounds up, and others allocate too


@dataclass(frozen=True, eq=False)
class SampleLayout:
    """Where a chunk of the sorted samples lies once packed, and which slot holds whose partial moments.

    Whole one-class tiles come first, then the remainders of all classes, one after the other.
    """

    source: np.ndarray  # (n,) int64, sorted sample at each packed row; packed rows from n on are padding
    packed_rows: int  # padding included
    run_row: np.ndarray  # (n_runs + 1,) int32, packed row where each run of whole tiles starts
    part_row: np.ndarray  # (n_parts + 1,) int32, packed row where each class's remainder starts
    tile_part: np.ndarray  # (2, n_tiles) int32, first and last part with a sample in each mixed tile
    present: np.ndarray  # (n_present,) int32, the classes with samples here
    before: np.ndarray  # (n_present,) float64, samples each of them has in earlier chunks
    class_slot: np.ndarray  # (n_present + 1,) int32, where each present class's slots start in the next two
    slot: np.ndarray  # (n_used,) int32, slots in merging order: a class's runs, then its mixed tiles
    slot_count: np.ndarray  # (n_used,) float64, samples in each
    n_slots: int  # to allocate; a few stay unused

    @property
    def n_runs(self) -> int:
        """Runs of whole tiles."""
        return len(self.run_row) - 1

    @property
    def n_tiles(self) -> int:
        """Tiles of remainders."""
        return int(self.tile_part.shape[1])


def run_tiles(n_samples: int, n_candidates: int, tile: Tile) -> int:
    """Return how many tiles a run may have: few where the pool is small, so that every processor gets programs to run."""
    programs = -(-n_candidates // tile.candidates) * (n_samples // tile.samples)
    return min(max(programs // WANTED_PROGRAMS, 1), MAX_RUN_TILES)


def sample_layout(counts: np.ndarray, chunk: slice, tiles: Tiles, tiles_per_run: int) -> SampleLayout:
    """Lay out a chunk of the samples that are sorted by class.

    Parameters
    ----------
    counts : (C,) int64
        Samples of each class, in all chunks.
    chunk : slice
        Of the sorted samples.
    tiles : Tiles
        How many samples a whole one-class tile and a mixed tile hold.
    tiles_per_run : int
        Longest run of whole tiles.
    """
    pure, mixed = tiles.pure.samples, tiles.mixed.samples
    ends = np.cumsum(counts)
    first, end = (np.clip(at, chunk.start, chunk.stop) for at in (ends - counts, ends))
    rest_first = first + (end - first) // pure * pure
    whole, parts = np.flatnonzero(rest_first - first), np.flatnonzero(end - rest_first)
    pieces = [np.arange(first[c], rest_first[c]) for c in whole] + [np.arange(rest_first[c], end[c]) for c in parts]

    slots: list[list[tuple[int, int]]] = [[] for _ in counts]  # of each class, (slot, samples in it)
    run_row: list[int] = [0]
    for c in whole:
        n_own = int(rest_first[c] - first[c]) // pure
        n_own_runs = -(-n_own // tiles_per_run)
        for run in range(n_own_runs):  # as equal as can be: the longest decides when all are done
            rows = pure * (n_own // n_own_runs + (run < n_own % n_own_runs))
            slots[c].append((len(run_row) - 1, rows))
            run_row.append(run_row[-1] + rows)
    n_runs, mixed_row = len(run_row) - 1, run_row[-1]
    part_row = mixed_row + np.cumsum([0, *(end - rest_first)[parts]])
    n_tiles = -(-int(part_row[-1] - mixed_row) // mixed)
    tile_row = mixed_row + mixed * np.arange(n_tiles)
    tile_end = np.minimum(tile_row + mixed, part_row[-1])
    tile_part = np.stack([np.searchsorted(part_row, row, side="right") - 1 for row in (tile_row, tile_end - 1)])
    for tile in range(n_tiles):
        for part in range(tile_part[0, tile], tile_part[1, tile] + 1):
            rows = min(part_row[part + 1], tile_end[tile]) - max(part_row[part], tile_row[tile])
            slots[parts[part]].append((n_runs + tile + part, int(rows)))

    present = np.flatnonzero(end - first)
    used = [pair for c in present for pair in slots[c]]
    return SampleLayout(
        source=np.concatenate(pieces).astype(np.int64),
        packed_rows=int(mixed_row + n_tiles * mixed),
        run_row=np.array(run_row, np.int32),
        part_row=part_row.astype(np.int32),
        tile_part=tile_part.astype(np.int32),
        present=present.astype(np.int32),
        before=(first - ends + counts)[present].astype(np.float64),
        class_slot=np.cumsum([0, *(len(slots[c]) for c in present)]).astype(np.int32),
        slot=np.array([slot for slot, _ in used], np.int32),
        slot_count=np.array([rows for _, rows in used], np.float64),
        n_slots=n_runs + n_tiles + len(parts),
    )


def sample_chunks(n_samples: int, bytes_per_sample: int, largest: int) -> list[slice]:
    """Cut the sorted samples into equal chunks whose packed form takes ``largest`` bytes at most, but one sample at least."""
    n_chunks = -(-n_samples // max(largest // bytes_per_sample, 1))
    rows = -(-n_samples // n_chunks)
    return [slice(first, min(first + rows, n_samples)) for first in range(0, n_samples, rows)]


def pool_blocks(n_candidates: int, bytes_per_candidate: int, free: int, tile_candidates: int) -> list[slice]:
    """Cut the pool into blocks, in whole tiles, sized from free memory; no block's size changes a bit of the result."""
    budget = min(int(free * POOL_SHARE), POOL_BYTES)
    size = max(budget // bytes_per_candidate // tile_candidates, 1) * tile_candidates
    n_blocks = -(-n_candidates // size)
    size = -(-n_candidates // (n_blocks * tile_candidates)) * tile_candidates
    return [slice(first, min(first + size, n_candidates)) for first in range(0, n_candidates, size)]
