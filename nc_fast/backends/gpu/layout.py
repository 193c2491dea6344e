"""What is decided before a kernel starts: how sorted samples fill tiles, and how much of the pool goes at once.

Pure Python and NumPy: no tensor, no device. Whatever can change a result's bits follows from shapes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nc_fast.backends.gpu.tiles import Tile

MAX_RUN_TILES = 16  # a run's start-up (about 3 us) against 16 tiles of 8 to 24 us
WANTED_PROGRAMS = 1056  # 8 waves of 132 multiprocessors: a tail below 6 %
SAMPLES_BYTES = 512 << 20  # packed samples held at once; MNIST's 60000 x 784 needs 200 MB
POOL_BYTES = 512 << 20  # packed weights and partial moments held at once; more gains nothing
POOL_SHARE = 0.5  # of free memory at most: the allocator rounds up, and others allocate too


@dataclass(frozen=True, eq=False)
class SampleLayout:
    """Where sorted samples lie once packed, and which slot holds whose partial moments.

    Whole one-class tiles come first, then the remainders of all classes, one after the other.

    Attributes
    ----------
    source : (n,) int64
        Sorted sample at each packed row; packed rows from n on are padding.
    packed_rows : int
        Packed rows, padding included.
    run_row : (n_runs + 1,) int32
        Packed row where each run of whole tiles starts.
    part_row : (n_parts + 1,) int32
        Packed row where each class's remainder starts.
    tile_part : (2, n_tiles) int32
        First and last part with a sample in each mixed tile.
    present : (n_present,) int32
        The classes with samples here.
    class_slot : (n_present + 1,) int32
        Where each present class's slots start in ``slot`` and ``slot_count``.
    slot : (n_used,) int32
        Slots in merging order: a class's runs, then its mixed tiles.
    slot_count : (n_used,) float64
        Samples in each.
    n_slots : int
        Slots to allocate; a few stay unused.
    """

    source: np.ndarray
    packed_rows: int
    run_row: np.ndarray
    part_row: np.ndarray
    tile_part: np.ndarray
    present: np.ndarray
    class_slot: np.ndarray
    slot: np.ndarray
    slot_count: np.ndarray
    n_slots: int

    @property
    def n_runs(self) -> int:
        """Runs of whole tiles."""
        return len(self.run_row) - 1

    @property
    def n_tiles(self) -> int:
        """Tiles of remainders."""
        return int(self.tile_part.shape[1])


def run_tiles(n_samples: int, n_candidates: int, tile: Tile) -> int:
    """Return how many tiles a run may have: few where the pool is small, so that there are programs for every processor."""
    programs = -(-n_candidates // tile.candidates) * (n_samples // tile.samples)
    return min(max(programs // WANTED_PROGRAMS, 1), MAX_RUN_TILES)


def sample_layout(counts: np.ndarray, pure_samples: int, mixed_samples: int, tiles_per_run: int) -> SampleLayout:
    """Lay out samples that are sorted by class.

    Parameters
    ----------
    counts : (C,) int64
        Samples of each class.
    pure_samples, mixed_samples : int
        Samples in a whole one-class tile and in a mixed tile.
    tiles_per_run : int
        Longest run of whole tiles.
    """
    first = np.cumsum(counts) - counts
    whole = counts // pure_samples * pure_samples
    rest = counts - whole
    parts = np.flatnonzero(rest)
    pieces = [np.arange(first[c], first[c] + whole[c]) for c in np.flatnonzero(whole)]
    pieces += [np.arange(first[c] + whole[c], first[c] + counts[c]) for c in parts]
    source = np.concatenate([np.zeros(0, np.int64), *pieces])

    slots: list[list[tuple[int, int]]] = [[] for _ in counts]
    run_row = [0]
    for c in np.flatnonzero(whole):
        end = run_row[-1] + whole[c]
        while run_row[-1] < end:
            rows = min(tiles_per_run * pure_samples, end - run_row[-1])
            slots[c].append((len(run_row) - 1, rows))
            run_row.append(run_row[-1] + rows)
    mixed_row = run_row[-1]
    part_row = mixed_row + np.concatenate([[0], np.cumsum(rest[parts])])
    n_tiles = -(-int(part_row[-1] - mixed_row) // mixed_samples)
    tile_row = mixed_row + mixed_samples * np.arange(n_tiles)
    tile_end = np.minimum(tile_row + mixed_samples, part_row[-1])
    tile_part = np.stack([np.searchsorted(part_row, row, side="right") - 1 for row in (tile_row, tile_end - 1)])
    for tile in range(n_tiles):
        for part in range(tile_part[0, tile], tile_part[1, tile] + 1):
            rows = min(part_row[part + 1], tile_end[tile]) - max(part_row[part], tile_row[tile])
            slots[parts[part]].append((len(run_row) - 1 + tile + part, int(rows)))

    present = np.flatnonzero(counts)
    used = [pair for c in present for pair in slots[c]]
    return SampleLayout(
        source=source.astype(np.int64),
        packed_rows=int(mixed_row + n_tiles * mixed_samples),
        run_row=np.array(run_row, np.int32),
        part_row=part_row.astype(np.int32),
        tile_part=tile_part.astype(np.int32).reshape(2, n_tiles),
        present=present.astype(np.int32),
        class_slot=np.cumsum([0, *(len(slots[c]) for c in present)]).astype(np.int32),
        slot=np.array([slot for slot, _ in used], np.int32),
        slot_count=np.array([rows for _, rows in used], np.float64),
        n_slots=len(run_row) - 1 + n_tiles + len(parts),
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
