"""How the GPU backend cuts and launches its work, interpreted: blocks, chunks, streams, tiles, the device it is on; its report."""

import numpy as np
import pytest
from gpu_cases import check, picks_of, problem, run, torch

from nc_fast.backends.gpu import layout, moments, plan, runtime, samples
from nc_fast.backends.gpu.device import as_tensor
from nc_fast.backends.gpu.tiles import Tile, Tiles


def test_bits_do_not_depend_on_free_memory(rng, monkeypatch):
    given = problem(rng, counts=(20, 3), D=5, M=70)
    whole = run(*given)
    monkeypatch.setattr(layout, "POOL_BYTES", 1)
    calls = []
    blocks = run(*given, report=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in (1, 2, 3, 4, 5)]
    assert torch.equal(whole.mean, blocks.mean)
    assert torch.equal(whole.m2, blocks.m2)


def test_chunks_of_samples_are_merged(rng, monkeypatch):
    monkeypatch.setattr(layout, "SAMPLES_BYTES", 5000)
    monkeypatch.setattr(samples, "TILE_BYTES", 19 * 8 * 7)
    given = problem(rng)
    calls = []
    check(*given, report=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] > 2


def test_tensor_maps_give_the_bits_of_pointers(rng, monkeypatch):
    given = problem(rng)
    pointers = run(*given)
    mapped = Tiles(Tile(16, 16, 16, 4, 1), Tile(16, 16, 16, 4, 1), tma=True)
    monkeypatch.setattr(moments, "choose_tiles", lambda *_, **__: mapped)
    maps = check(*given)
    assert torch.equal(pointers.mean, maps.mean)
    assert torch.equal(pointers.m2, maps.m2)


def test_tiles_of_different_sizes(rng, monkeypatch):
    chosen = Tiles(Tile(32, 32, 16, 4, 1), Tile(32, 16, 16, 4, 1))
    monkeypatch.setattr(moments, "choose_tiles", lambda *_, **__: chosen)
    monkeypatch.setattr(layout, "run_tiles", lambda *_: 2)
    monkeypatch.setattr(plan, "GROUP", 2)
    check(*problem(rng, counts=(100, 5, 64, 31), M=150))


def test_streaming_gives_the_same_tiles(rng):
    X = torch.from_numpy(rng.normal(size=(23, 3)))
    rows = torch.from_numpy(rng.permutation(23))
    spans = [slice(0, 8), slice(8, 16), slice(16, 23)]
    for chosen in (None, rows):
        tiles = [tile.clone() for tile in samples.streamed(X, chosen, spans, torch.device("cpu"))]
        assert torch.equal(torch.cat(tiles), X if chosen is None else X[chosen])


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "hopper"), ((8, 0), "ampere"), ((8, 6), "nvidia"), ((12, 0), "nvidia")])
def test_tiles_are_chosen_by_the_device(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert runtime.target(torch.device("cuda", 0)) == expected
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert runtime.target(torch.device("cuda", 0)) == "amd"


def test_tensors_on_the_cpu_are_refused_without_the_interpreter(rng, monkeypatch):
    monkeypatch.setattr(runtime, "InterpretedFunction", type(None))
    with pytest.raises(ValueError, match="W: expected a tensor on a GPU, got one on cpu"):
        run(*problem(rng))
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        picks_of(np.eye(3), np.ones(3), np.zeros(3, np.int64), np.array([1]))


@pytest.mark.parametrize("memory", ["reversed", "packed"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 4)])
def test_layouts_that_torch_does_not_take(memory, shape, rng):
    array = rng.normal(size=shape).astype(np.float32)
    packed = np.zeros(shape, [("pad", "u1"), ("value", "f4")])
    packed["value"] = array
    view = packed["value"] if memory == "packed" else array[::-1, ::-1].copy()[::-1, ::-1]
    np.testing.assert_array_equal(as_tensor(view).numpy(), array)
