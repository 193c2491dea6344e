"""Streams: small batches, memory maps, arrays that only slice, interruption; moments in files."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest

import nc_fast
from nc_fast.files import moments as moments_file
from nc_fast.inputs import sources
from nc_fast.stages import checkpoint
from nc_fast.stages import moments as moments_stage
from nc_fast.testing import CASES

N, D, M = 40_000, 6, 31
ROWS = 16_384  # of a block at this D


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 4, size=N)
    y[: N // 2] %= 2  # two of the classes come late
    X = rng.normal(size=(N, D)).astype(np.float32) + np.eye(4, D, dtype=np.float32)[y]
    return rng.normal(size=(D, M)).astype(np.float32), X, y


def batches(X, y, *sizes):
    first, turn = 0, 0
    while first < len(X):
        stop = first + sizes[turn % len(sizes)]
        yield X[first:stop], y[first:stop]
        first, turn = stop, turn + 1


def same_bits(a, b):
    np.testing.assert_array_equal(a.classes, b.classes)
    for name in ("count", "mean", "m2"):
        np.testing.assert_array_equal(np.asarray(getattr(a, name)), np.asarray(getattr(b, name)))


class OnlySlices:
    """What h5py and Zarr offer; it counts the rows it hands out."""

    def __init__(self, X):
        self._X, self.shape, self.dtype, self.rows = X, X.shape, X.dtype, 0

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, key):
        assert isinstance(key, slice)
        block = self._X[key]
        self.rows += len(block)
        return block

    def __array__(self, *args, **kwargs):
        raise AssertionError("read whole")


class StoppedError(Exception):
    pass


def stop_after(source, n):
    for number, item in enumerate(source):
        if number == n:
            raise StoppedError
        yield item


@pytest.mark.parametrize("sizes", [(100,), (1, 700, 20_000), (ROWS,), (N,)])
def test_neither_batch_sizes_nor_streaming_change_a_bit(problem, sizes):
    W, X, y = problem
    same_bits(nc_fast.class_moments(W, batches(X, y, *sizes)), nc_fast.class_moments(W, X, y))


def test_a_batch_whose_memory_is_used_again(problem):
    W, X, y = problem
    X_buffer, y_buffer = np.empty_like(X[:500]), np.empty_like(y[:500])

    def reusing():
        for a, b in batches(X, y, 500):
            X_buffer[...], y_buffer[...] = a, b
            yield X_buffer, y_buffer

    same_bits(nc_fast.class_moments(W, reusing()), nc_fast.class_moments(W, X, y))


def test_a_torch_loader(problem):
    torch = pytest.importorskip("torch")
    W, X, y = problem
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    found = nc_fast.class_moments(torch.from_numpy(W), torch.utils.data.DataLoader(dataset, batch_size=999))
    same_bits(found, nc_fast.class_moments(W, X, y))


def test_kinds_of_batches_may_change_on_the_way(problem):
    W, X, y = problem
    parts = [(X[:700], y[:700]), (X[700:900].astype(np.float64), y[700:900]), (np.ones((5, D), np.uint8), ["0", "1", "0", "0", "9"])]
    parts = [(a, [str(label) for label in b]) for a, b in parts]
    found = nc_fast.class_moments(W, parts)
    alone = nc_fast.class_moments(W, *parts[0]) + nc_fast.class_moments(W, *parts[1]) + nc_fast.class_moments(W, *parts[2])
    same_bits(found, alone)


def memory_map(path, X):
    mapped = np.memmap(path, X.dtype, "w+", shape=X.shape)
    mapped[...] = X
    return mapped


@pytest.mark.parametrize("form", ["memmap", "view", "copy-on-write", "only slices"])
def test_sliced_arrays_give_the_bits_of_the_array(problem, form, tmp_path):
    W, X, y = problem
    source = OnlySlices(X) if form == "only slices" else memory_map(tmp_path / "X", X)
    if form == "view":
        source = np.asarray(source)[:, ::-1][:, ::-1]
    elif form == "copy-on-write":
        source = np.memmap(tmp_path / "X", X.dtype, "c", shape=X.shape)
        source[:] = 2 * X
        X = 2 * X
    expected = nc_fast.campaign(W, X, y, 8)
    found = nc_fast.campaign(W, source, y, 8)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.candidates.score, expected.candidates.score)
    np.testing.assert_array_equal(source[:] if form == "only slices" else source, X)
    if form == "only slices":
        assert source.rows == 2 * N  # one reading by the campaign, one by the line above


def test_pages_of_a_memory_map_are_given_back(tmp_path):
    shape = (300_000, 128)
    np.memmap(tmp_path / "X", np.float32, "w+", shape=shape)[::1000] = 1.0
    script = f"""
import numpy as np, nc_fast
from nc_fast.inputs.sources import read_rows
X = np.memmap({str(tmp_path / "X")!r}, np.float32, "r", shape={shape})
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
for first in range(0, len(X), 10_000):
    read_rows(X, first, first + 10_000)
print((resident() - before) / X.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda X: X[:, :-1], ValueError, r"X: expected shape \(N, D\) = \(N, 6\) to match W, got \(40000, 5\)"),
        (lambda X: X[0], ValueError, r"X: expected shape \(N, D\), got \(6,\)"),
        (lambda X: X[:0], ValueError, "X: expected at least one row"),
        (lambda X: X > 0, TypeError, "X: expected float32 or float64 or integer, got bool"),
        (
            lambda X: np.where(np.arange(N)[:, None] == 39_001, np.nan, X),
            ValueError,
            r"X: expected finite numbers, got nan at \(39001, 0\)",
        ),
    ],
)
def test_errors_of_sliced_arrays(problem, change, error, message):
    W, X, y = problem
    with pytest.raises(error, match=message):
        nc_fast.campaign(W, OnlySlices(change(X)), y, 3)


class MaskedSlices(OnlySlices):
    """What netCDF4 offers."""

    def __init__(self, X, mask):
        super().__init__(np.ma.masked_array(X, mask=mask))


def test_slices_with_a_mask_are_taken_while_nothing_is_masked(problem):
    W, X, y = problem
    mask = np.zeros(X.shape, bool)
    same_bits(nc_fast.class_moments(W, MaskedSlices(X, mask), y), nc_fast.class_moments(W, X, y))
    mask[39_001, 2] = True
    with pytest.raises(TypeError, match="X: expected an array without a mask, got masked values in rows 32768 to 39999; fill them first"):
        nc_fast.class_moments(W, MaskedSlices(X, mask), y)


def test_sliced_arrays_are_not_judged_by_what_memory_held_before(problem, monkeypatch):
    W, X, y = problem
    empty = np.empty

    def poisoned(*args, **kwargs):
        found = empty(*args, **kwargs)
        if found.dtype.kind == "f":
            found.fill(np.nan)
        return found

    monkeypatch.setattr(np, "empty", poisoned)
    nc_fast.class_moments(W, OnlySlices(X[:9]), y[:9], backend="reference")


@pytest.mark.parametrize("order", [1, -1])
def test_labels_of_int64_and_uint64_stay_whole(order, rng):
    large = 2**62 + 1  # not a float64
    W, parts = rng.normal(size=(2, 5)), [np.array([large, -1, 7]), np.array([large, 7, 7], np.uint64)][::order]
    batches = [(rng.normal(size=(3, 2)), y) for y in parts]
    added = nc_fast.class_moments(W, *batches[0]) + nc_fast.class_moments(W, *batches[1])
    for found in (added, nc_fast.class_moments(W, batches)):
        assert (found.classes.tolist(), found.classes.dtype, found.count.tolist()) == ([-1, 7, large], np.int64, [1, 3, 2])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1, 2], ["1", "2"], "y: expected labels of one kind, got integers and strings"),
        (["a", "b"], [b"\xff", b"a"], "y: expected labels of one kind, got bytes and strings"),
        ([-1, 2], np.array([2**64 - 1, 2], np.uint64), "y: expected labels that int64 or uint64 can hold, got -1 and 18446744073709551615"),
    ],
)
def test_labels_that_are_not_of_one_kind(first, second, message, rng):
    W, X = rng.normal(size=(2, 5)), rng.normal(size=(2, 2))
    with pytest.raises(ValueError, match=message):
        nc_fast.class_moments(W, X, first) + nc_fast.class_moments(W, X, second)
    with pytest.raises(ValueError, match=message):
        nc_fast.class_moments(W, [(X, first), (X, second)])


def test_a_bad_batch_is_named_by_its_number(problem):
    W, X, y = problem
    bad = X[:10].copy()
    bad[3, 2] = np.inf
    with pytest.raises(ValueError, match=r"batch 2: X: expected finite numbers, got inf at \(3, 2\)"):
        nc_fast.class_moments(W, [(X[:5], y[:5]), (X[5:9], y[5:9]), (bad, y[:10])])


def test_block_size_depends_on_features_alone():
    assert [sources.block_rows(d) for d in (1, 784, 2048, 4096, 10**7)] == [16_384, 16_384, 16_384, 8192, 256]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("interrupted_after", [1, 33, 50])
def test_an_interrupted_stream_goes_on_to_the_same_bits(problem, tmp_path, monkeypatch, suffix, interrupted_after):
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", float("inf"))
    W, X, y = problem
    path = tmp_path / f"moments{suffix}"
    with pytest.raises(StoppedError):
        nc_fast.class_moments(W, stop_after(batches(X, y, 700), interrupted_after), checkpoint=path)
    assert path.exists() == (interrupted_after > 1)
    resumed = nc_fast.class_moments(W, batches(X, y, 999), checkpoint=path)  # other batches, same samples
    whole = nc_fast.class_moments(W, X, y)
    same_bits(resumed, whole)
    same_bits(nc_fast.ClassMoments.load(path), whole)
    same_bits(nc_fast.class_moments(W, batches(X, y, 700), checkpoint=path), whole)  # nothing left to do


def test_an_interrupted_campaign_reads_only_what_is_left(problem, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "LARGEST_SHARE", float("inf"))
    W, X, y = problem
    path = tmp_path / "moments.npz"

    def interrupt(done, total):
        assert total == N
        raise StoppedError

    with pytest.raises(StoppedError):
        nc_fast.campaign(W, OnlySlices(X), y, 8, checkpoint=path, progress=interrupt)
    rest = OnlySlices(X)
    resumed = nc_fast.campaign(W, rest, y, 8, checkpoint=path)
    assert rest.rows == N - ROWS
    expected = nc_fast.campaign(W, X, y, 8)
    for name in ("indices", "scores", "gains", "weights"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda a: {**a, "W": a["W"] + 1}, "W"),
        (lambda a: {**a, "bias": 0.5}, "bias"),
        (lambda a: {**a, "activation": "tanh"}, "activation"),
        (lambda a: {**a, "X": a["X"][1:], "y": a["y"][1:]}, "samples"),
        (lambda a: {**a, "backend": "reference"}, "backend"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(problem, tmp_path, change, what):
    W, X, y = problem
    arguments = {"W": W, "X": X[:100], "y": y[:100]}
    path = tmp_path / "moments.npz"
    nc_fast.class_moments(**arguments, checkpoint=path)
    with pytest.raises(ValueError, match=rf"checkpoint: expected .* made with the same {what}, .*delete it to start again"):
        nc_fast.class_moments(**change(arguments), checkpoint=path)


def test_other_misuses_of_a_checkpoint(problem, tmp_path):
    W, X, y = problem
    path = tmp_path / "moments.npz"
    with pytest.raises(ValueError, match="checkpoint: expected a file in a folder that exists"):
        nc_fast.class_moments(W, X[:9], y[:9], checkpoint=tmp_path / "absent" / "moments.npz")
    nc_fast.class_moments(W, X[:9], y[:9]).save(path)
    with pytest.raises(ValueError, match="moments without their place in a stream"):
        nc_fast.class_moments(W, X[:9], y[:9], checkpoint=path)
    path.unlink()
    nc_fast.class_moments(W, batches(X[:900], y[:900], 100), checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint: expected a stream with at least the samples it has, got 200 too few"):
        nc_fast.class_moments(W, batches(X[:700], y[:700], 100), checkpoint=path)


KILLED = """
import sys, numpy as np, nc_fast
from nc_fast.stages import checkpoint
checkpoint.EVERY_SECONDS = 0.0
rng = np.random.default_rng(0)
W = rng.normal(size=(200, 2000)).astype("f4")
def stream():
    for number in range(12):
        yield rng.normal(size=(16_384, 200)).astype("f4"), np.arange(16_384) % 3
moments = nc_fast.class_moments(W, stream(), checkpoint=sys.argv[1])
nc_fast.ib_scores(moments)
print("done")
"""


def test_a_killed_process_leaves_a_whole_checkpoint(tmp_path):
    whole, killed = tmp_path / "whole.npz", tmp_path / "killed.npz"
    subprocess.run([sys.executable, "-c", KILLED, whole], check=True, capture_output=True)
    with subprocess.Popen([sys.executable, "-c", KILLED, killed]) as process:
        while not killed.exists():
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert nc_fast.ClassMoments.load(killed).n_samples < 12 * 16_384
    subprocess.run([sys.executable, "-c", KILLED, killed], check=True, capture_output=True)
    same_bits(nc_fast.ClassMoments.load(killed), nc_fast.ClassMoments.load(whole))


LABELS = [
    [3, 1, 3], [True, False, True], ["b", "ä", "b"], np.array([1, 2, 1], np.uint8), np.array([b"x", b"yy", b"x"]), np.array([3, 1, 3], ">i4"),
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("labels", LABELS, ids=["int", "bool", "str", "uint8", "bytes", "byte-swapped"])
def test_saved_moments_come_back(labels, suffix, tmp_path, rng):
    moments = nc_fast.class_moments(rng.normal(size=(2, 5)), rng.normal(size=(3, 2)), labels)
    moments.save(tmp_path / f"moments{suffix}")
    found = nc_fast.ClassMoments.load(tmp_path / f"moments{suffix}")
    same_bits(found, moments)
    assert found.classes.dtype == moments.classes.dtype
    assert os.listdir(tmp_path) == [f"moments{suffix}"]


def test_other_programs_read_the_safetensors(tmp_path, rng):
    import safetensors.numpy as numpy_files

    moments = nc_fast.class_moments(rng.normal(size=(2, 5)), rng.normal(size=(3, 2)), [0, 1, 0])
    moments.save(tmp_path / "moments.safetensors")
    np.testing.assert_array_equal(numpy_files.load_file(tmp_path / "moments.safetensors")["mean"], moments.mean)


@pytest.fixture
def saved(tmp_path, rng):
    W, X, y = CASES[2].draw(rng)
    moments = nc_fast.class_moments(W, X, y)
    paths = {suffix: tmp_path / f"moments{suffix}" for suffix in moments_file.SUFFIXES}
    for path in paths.values():
        moments.save(path)
    return paths


def loaded(path):
    """The moments in a file, or None and the error's message."""
    try:
        return nc_fast.ClassMoments.load(path), ""
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize("suffix", moments_file.SUFFIXES)
def test_every_kind_of_damage_is_one_error(saved, suffix, rng):
    good = saved[suffix].read_bytes()
    expected = nc_fast.ClassMoments.load(saved[suffix])
    cuts = [good[:n] for n in (*range(0, len(good), 97), len(good) - 1)]
    flips = []
    for position in rng.integers(0, len(good), size=200):
        changed = bytearray(good)
        changed[position] ^= 1 << int(rng.integers(8))
        flips.append(bytes(changed))
    for damaged in (*cuts, *flips, good + b"x", b"", b"\x00" * 500):
        saved[suffix].write_bytes(damaged)
        found, message = loaded(saved[suffix])
        assert message.startswith(f"{saved[suffix]}: expected") == (found is None), message
        assert "\n" not in message
        if found:  # a flipped bit in what nobody reads: padding, time stamps
            same_bits(found, expected)


def test_sabotage_one_changed_number_is_found(saved):
    arrays = dict(np.load(saved[".npz"]))
    arrays["mean"][0, 0] += 1e-15
    np.savez(saved[".npz"], **arrays)
    with pytest.raises(ValueError, match="expected the checksum in its header"):
        nc_fast.ClassMoments.load(saved[".npz"])


def rewrite(path, **changes):
    arrays = {**dict(np.load(path)), **changes}
    header = json.loads(str(arrays["header"]))
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return header


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "expected arrays classes, count, mean, m2, header"),
        ({"mean": np.zeros((3, 11))}, r"expected mean \(C, M\) = \(5, M\) float64"),
        ({"m2": np.full((5, 11), -1.0)}, "expected m2"),
        ({"m2": np.zeros((5, 11), np.float32)}, "expected m2"),
        ({"count": np.zeros(4, np.int64)}, "expected count"),
        ({"classes": np.array([0, 1, 1, 2, 3])}, "expected classes sorted and distinct"),
        ({"classes": np.zeros((5, 1))}, r"expected classes \(C,\)"),
        ({"classes": np.array([{}] * 5, object)}, "pickled objects are refused"),
        ({"header": np.array("[]")}, "expected a JSON object"),
        ({"header": np.array('{"format": "x", "notes": {}}')}, "expected the format nc_fast.ClassMoments, got 'x'"),
        ({"header": np.array('{"format": "nc_fast.ClassMoments", "notes": {}, "version": 2}')}, "expected version 1"),
    ],
)
def test_files_of_something_else(saved, changes, message):
    rewrite(saved[".npz"], **changes)
    with pytest.raises(ValueError, match=message):
        nc_fast.ClassMoments.load(saved[".npz"])


@pytest.mark.parametrize("suffix", moments_file.SUFFIXES)
def test_classes_that_are_no_text(tmp_path, suffix, rng):
    path = tmp_path / f"moments{suffix}"
    nc_fast.class_moments(rng.normal(size=(2, 5)), rng.normal(size=(3, 2)), ["a", "b", "a"]).save(path)
    data = path.read_bytes()
    at = data.index("ab".encode("utf-32-le"))
    changed = data[:at] + b"\xff" * 8 + data[at + 8 :]
    if suffix == ".npz":  # with the checksum that the changed member has to have
        old, new = (struct.pack("<I", zlib.crc32(whole[at - 128 : at + 8])) for whole in (data, changed))
        assert changed.count(old) == 2
        changed = changed.replace(old, new)
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="expected classes of Unicode strings, got numbers that are no character"):
        nc_fast.ClassMoments.load(path)


def test_a_tensor_entry_is_quoted_in_one_line(saved):
    path = saved[".safetensors"]
    table = json.dumps({"__metadata__": {}, **dict.fromkeys(moments_file.NAMES, "one\ntwo")}).encode()
    path.write_bytes(struct.pack("<Q", len(table)) + table)
    with pytest.raises(ValueError, match=r'expected a \.safetensors file, got damaged data: .* string "one\\ntwo"[^\n]*$'):
        nc_fast.ClassMoments.load(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [-5, 11]},
        {"shape": [10**9, 10**9]},
        {"shape": "5"},
        {"dtype": "F32"},
        {"data_offsets": [0, 440]},
        {"data_offsets": [80]},
    ],
)
def test_safetensors_whose_declarations_do_not_fit(saved, entry):
    path = saved[".safetensors"]
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    table = json.loads(data[8 : 8 + length])
    table["mean"].update(entry)
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(ValueError, match=r"expected a \.safetensors file, got damaged data: .*|expected mean \(C, M\) .* float64, got"):
        nc_fast.ClassMoments.load(path)


def test_a_decompression_bomb_is_refused(saved):
    with zipfile.ZipFile(saved[".npz"], "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (*moments_file.NAMES, moments_file.HEADER):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    with pytest.raises(ValueError, match="expected at most"):
        nc_fast.ClassMoments.load(saved[".npz"])


def test_names_of_files(tmp_path, rng):
    moments = nc_fast.class_moments(rng.normal(size=(2, 5)), rng.normal(size=(3, 2)), [0, 1, 0])
    with pytest.raises(ValueError, match=r"expected a name ending in \.npz or \.safetensors, got '.pkl'"):
        moments.save(tmp_path / "moments.pkl")
    with pytest.raises(FileNotFoundError):
        nc_fast.ClassMoments.load(tmp_path / "absent.npz")


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
    before = saved[".npz"].read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        nc_fast.ClassMoments.load(saved[".npz"]).save(saved[".npz"])
    assert saved[".npz"].read_bytes() == before
    assert sorted(os.listdir(saved[".npz"].parent)) == ["moments.npz", "moments.safetensors"]


def test_sabotage_blocks_cut_at_batches_change_bits(problem, monkeypatch):
    """The comparer above can fail: without blocks of a fixed size, batch sizes show in the last bits."""
    W, X, y = problem
    monkeypatch.setattr(moments_stage, "block_rows", lambda _: 700)
    with pytest.raises(AssertionError):
        same_bits(nc_fast.class_moments(W, batches(X, y, 700)), nc_fast.class_moments(W, X, y))
