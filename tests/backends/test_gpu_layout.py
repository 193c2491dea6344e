"""How samples fill tiles, how samples and pool are cut, which tiles a device gets: pure Python, no device."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_fast.backends.gpu import layout
from nc_fast.backends.gpu.precision import Arithmetic
from nc_fast.backends.gpu.tiles import Tile, Tiles, choose_tiles


def laid_out(counts, pure=256, mixed=128, tiles_per_run=8, chunk=None):
    tiles = Tiles(*(Tile(128, samples, 64, 8, 4) for samples in (pure, mixed)))
    return layout.sample_layout(counts, chunk or slice(0, counts.sum()), tiles, tiles_per_run)


@given(
    counts=st.lists(st.integers(0, 200), min_size=1, max_size=12).filter(any),
    pure=st.sampled_from([16, 64, 256]),
    mixed=st.sampled_from([16, 32, 128]),
    tiles_per_run=st.integers(1, 4),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_layout_covers_every_sample_once_in_the_slots_of_its_class(counts, pure, mixed, tiles_per_run, cuts):
    counts = np.array(counts)
    N = int(counts.sum())
    first = int(min(cuts) * (N - 1))
    span = slice(first, max(int(max(cuts) * N), first + 1))
    chunk = laid_out(counts, pure, mixed, tiles_per_run, span)
    assert sorted(chunk.source) == list(range(span.start, span.stop))
    assert chunk.packed_rows >= len(chunk.source)
    sorted_classes = np.repeat(np.arange(len(counts)), counts)
    class_of = sorted_classes[chunk.source]

    found = {}  # slot -> classes of its rows, as the kernels assign them
    for run in range(chunk.n_runs):
        first, end = chunk.run_row[run : run + 2]
        assert (end - first) % pure == 0
        assert 0 < end - first <= tiles_per_run * pure
        found[run] = class_of[first:end]
    for tile in range(chunk.n_tiles):
        row = chunk.run_row[-1] + tile * mixed
        assert row + mixed <= chunk.packed_rows
        for part in range(chunk.tile_part[0, tile], chunk.tile_part[1, tile] + 1):
            low, high = max(row, chunk.part_row[part]), min(row + mixed, chunk.part_row[part + 1])
            slot = chunk.n_runs + tile + part
            assert slot not in found
            assert slot < chunk.n_slots
            found[slot] = class_of[low:high]

    assert sorted(chunk.slot) == sorted(found)
    for position, c in enumerate(chunk.present):
        own = range(chunk.class_slot[position], chunk.class_slot[position + 1])
        assert all((found[chunk.slot[at]] == c).all() and len(found[chunk.slot[at]]) == chunk.slot_count[at] for at in own)
        assert sum(chunk.slot_count[at] for at in own) == (class_of == c).sum()
        assert chunk.before[position] == (sorted_classes[: span.start] == c).sum()


def test_whole_classes_take_whole_tiles_and_small_classes_share_one():
    whole = laid_out(np.array([512, 3, 4]))
    assert whole.run_row.tolist() == [0, 512]
    assert whole.part_row.tolist() == [512, 515, 519]
    assert whole.packed_rows == 512 + 128


def test_a_thousand_small_classes_are_padded_by_less_than_a_tile():
    counts = np.full(1000, 60)
    assert laid_out(counts).packed_rows - counts.sum() < 128


@given(n=st.integers(1, 1000), each=st.integers(1, 50), largest=st.integers(1, 2000))
def test_chunks_cover_the_samples_within_the_bound(n, each, largest):
    chunks = layout.sample_chunks(n, each, largest)
    assert [row for chunk in chunks for row in range(chunk.start, chunk.stop)] == list(range(n))
    assert all(chunk.stop - chunk.start == 1 or (chunk.stop - chunk.start) * each <= largest for chunk in chunks)


@given(n=st.integers(1, 5000), each=st.integers(1, 1 << 20), free=st.integers(0, 1 << 32))
def test_blocks_cover_the_pool_in_whole_tiles_within_the_bound(n, each, free):
    blocks = layout.pool_blocks(n, each, free, 128)
    assert [j for block in blocks for j in range(block.start, block.stop)] == list(range(n))
    assert all(block.start % 128 == 0 for block in blocks)
    budget = max(min(free * layout.POOL_SHARE, layout.POOL_BYTES), 128 * each)
    assert all((block.stop - block.start) * each <= budget for block in blocks)


def test_a_million_candidates_need_less_than_two_gibibytes_beside_their_weights():
    n, K, classes = 60_000, 832, 10  # 784 features, padded
    whole = laid_out(np.full(classes, n // classes), 256, 128, layout.run_tiles(n, 10**6, Tile(128, 256, 64, 8, 4)))
    per_candidate = 2 * K * 2 + 16 * whole.n_slots + 64
    block = max(b.stop - b.start for b in layout.pool_blocks(10**6, per_candidate, 70 << 30, 128))
    result = 2 * classes * 10**6 * 8
    on_their_way = 8 * 32 << 20  # eight temporaries of a tile of samples in float64
    assert block * per_candidate + result + layout.SAMPLES_BYTES + on_their_way < 1.5 * (1 << 30)


def test_runs_are_short_where_the_pool_is_small():
    tile = Tile(128, 256, 64, 8, 4)
    assert layout.run_tiles(60_000, 1000, tile) == 1
    assert layout.run_tiles(60_000, 10**6, tile) == layout.MAX_RUN_TILES


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(
    "arithmetic", [Arithmetic("float16", True, True), Arithmetic("float32", dot="tf32"), Arithmetic("float64")], ids=str
)
@pytest.mark.parametrize("target", ["interpreter", "hopper", "ampere", "nvidia", "amd"])
def test_both_kernels_share_candidates_and_depth(target, arithmetic, activation):
    tiles = choose_tiles(target, arithmetic, activation)
    assert tiles.pure.candidates == tiles.mixed.candidates  # one padding of the pool
    assert tiles.pure.depth == tiles.mixed.depth  # one padding of the features
