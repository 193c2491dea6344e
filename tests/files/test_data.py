"""Readers of the demo's data: what they return, and that every kind of damage is one ValueError naming the file."""

import gzip
import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest

from nc_fast.files import read, untrusted

NAMES = {"train": 7, "t10k": 3}


def idx(array: np.ndarray, magic: bytes = b"\0\0\x08", shape: tuple[int, ...] | None = None) -> bytes:
    declared = array.shape if shape is None else shape
    return magic + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *declared) + array.tobytes()


@pytest.fixture
def images(rng):
    return {split: rng.integers(0, 256, (n, 4, 5), dtype=np.uint8) for split, n in NAMES.items()}


@pytest.fixture
def labels(rng):
    return {split: rng.integers(0, 10, n, dtype=np.uint8) for split, n in NAMES.items()}


@pytest.fixture
def folder(tmp_path, images, labels):
    for split in NAMES:
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(images[split]))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[split])))
    return tmp_path


def test_idx_folder_plain_and_packed(folder, images, labels):
    loaded = read.load(folder)
    assert (loaded.name, loaded.image_shape, loaded.full_scale) == (folder.name, (4, 5), 255)
    assert loaded.X_train.dtype == np.uint8
    np.testing.assert_array_equal(loaded.X_train, images["train"].reshape(7, 20))
    np.testing.assert_array_equal(loaded.y_train, labels["train"])
    np.testing.assert_array_equal(loaded.X_test, images["t10k"].reshape(3, 20))
    np.testing.assert_array_equal(loaded.y_test, labels["t10k"])


def test_scaled_is_a_float_copy(folder, images):
    loaded = read.load(folder)
    scaled = loaded.scaled()
    assert (scaled.X_train.dtype, scaled.X_test.dtype, scaled.full_scale) == (np.float32, np.float32, 1.0)
    np.testing.assert_allclose(scaled.X_train, images["train"].reshape(7, 20) / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(loaded.X_train, images["train"].reshape(7, 20))
    np.testing.assert_array_equal(scaled.scaled().X_train, scaled.X_train)


def test_mnist(mnist):
    assert (mnist.name, mnist.X_train.shape, mnist.X_test.shape) == ("mnist", (60000, 784), (10000, 784))
    assert np.bincount(mnist.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.y_test[:5].tolist() == [7, 2, 1, 0, 4]


def test_digits():
    pytest.importorskip("sklearn")
    digits = read.load()
    assert (digits.X_train.shape, digits.X_test.shape, digits.image_shape) == ((1437, 64), (360, 64), (8, 8))
    assert (digits.X_train.dtype, digits.X_train.max(), digits.scaled().X_train.max()) == (np.uint8, 16, 1.0)
    assert sorted(set(digits.y_train)) == sorted(set(digits.y_test)) == list(range(10))


ONES = np.ones((2, 3, 4), np.uint8)
WHOLE = idx(ONES)
DAMAGED_IDX = {
    "empty": (b"", "magic 0x00000803, got an empty file"),
    "short magic": (b"\0\0", "got 0x0000"),
    "not idx": (b"\x89PNG\r\n\x1a\n" + bytes(40), "got 0x89504e47"),
    "labels for images": (idx(np.ones(24, np.uint8)), "got 0x00000801"),
    "floats": (idx(ONES, magic=b"\0\0\x0d"), "got 0x00000d03"),
    "short header": (WHOLE[:10], "header of 16 bytes, got 10"),
    "no samples": (idx(ONES[:0]), r"at least one element, got the declared shape \(0, 3, 4\)"),
    "no pixels": (idx(ONES, shape=(2, 0, 4)), "at least one element"),
    "truncated": (WHOLE[:-1], r"24 bytes for the declared shape \(2, 3, 4\), got"),
    "too long": (WHOLE + b"\1", r"24 bytes for the declared shape \(2, 3, 4\), got more"),
    "more than any file": (idx(ONES, shape=(2**32 - 1,) * 3), "expected at most 8589934592 bytes, got the declared shape"),
    "more than this file": (idx(ONES, shape=(2**20, 64, 64)), "4294967296 bytes for the declared shape .*, got a file that holds at most"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("damage", DAMAGED_IDX)
def test_damaged_idx(tmp_path, damage, packed):
    content, message = DAMAGED_IDX[damage]
    path = tmp_path / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=message) as caught:
        read.read_idx(path, 3)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "\n" not in str(caught.value)


PACKED = gzip.compress(idx(np.arange(240, dtype=np.uint8).reshape(10, 4, 6)))
DAMAGED_GZ = {
    "not gzip": WHOLE,
    "empty": b"",
    "truncated": PACKED[:-20],
    "wrong checksum": PACKED[:-8] + bytes([PACKED[-8] ^ 1]) + PACKED[-7:],
    "wrong length": PACKED[:-4] + b"\xff\xff\xff\xff",
    "bad stream": PACKED[:12] + bytes(20) + PACKED[32:],
    "garbage behind": PACKED + b"garbage",
}


@pytest.mark.parametrize("damage", DAMAGED_GZ)
def test_damaged_gz(tmp_path, damage):
    path = tmp_path / "file.gz"
    path.write_bytes(DAMAGED_GZ[damage])
    with pytest.raises(ValueError, match="expected") as caught:
        read.read_idx(path, 3)
    assert str(path) in str(caught.value)


def peak_while_refused(read) -> int:
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="expected"):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_declared_sizes_are_not_allocated(tmp_path):
    # The second file is a bomb: 64 MiB of zeros behind a header that asks for 24 bytes.
    plain, bomb = tmp_path / "plain", tmp_path / "bomb.gz"
    plain.write_bytes(idx(ONES, shape=(2**10, 2**10, 2**10)))
    bomb.write_bytes(gzip.compress(WHOLE + bytes(1 << 26)))
    assert peak_while_refused(lambda: read.read_idx(plain, 3)) < 1 << 20
    assert peak_while_refused(lambda: read.read_idx(bomb, 3)) < 4 << 20


def test_plausible_but_false_size_costs_only_what_is_there(tmp_path):
    # Half a megabyte packed could hold the declared 512 MiB, and holds half a megabyte.
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(idx(ONES, shape=(2**9, 2**10, 2**10)) + np.random.default_rng(0).bytes(1 << 19)))
    assert peak_while_refused(lambda: read.read_idx(path, 3)) < 8 << 20


def test_folder_that_does_not_belong_together(folder, images):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(images["t10k"][:2]))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz: expected a label for each of 2 images, got 3"):
        read.load(folder)
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(images["t10k"][:, :3].copy()))
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte: expected images of shape \(4, 5\) .* got \(3, 5\)"):
        read.load(folder)
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected a file t10k-images-idx3-ubyte or .*, got none"):
        read.load(folder)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_round_trip(tmp_path, rng, save):
    X, y = rng.normal(size=(6, 3)), np.array(["a", "b", "a", "b", "a", "c"])
    path = tmp_path / "some.npz"
    save(path, X=np.asfortranarray(X), y=y, X_test=X[:2], y_test=y[:2], other=X)
    loaded = read.load(path)
    assert (loaded.name, loaded.image_shape, loaded.full_scale) == ("some", None, 1.0)
    np.testing.assert_array_equal(loaded.X_train, X)
    np.testing.assert_array_equal(loaded.y_train, y)
    np.testing.assert_array_equal(loaded.X_test, X[:2])
    assert loaded.scaled().X_train.dtype == np.float64


def test_npz_of_pictures(tmp_path, rng):
    X = rng.integers(0, 256, (6, 2, 3), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", X=X, y=np.arange(6))
    loaded = read.load(tmp_path / "p.npz")
    assert (loaded.image_shape, loaded.full_scale, loaded.X_test) == ((2, 3), 255.0, None)
    np.testing.assert_array_equal(loaded.X_train, X.reshape(6, 6))


X, Y = np.ones((4, 3)), np.arange(4)
WRONG_NPZ = {
    "no y": ({"X": X}, "expected arrays X, y, got X"),
    "nothing": ({}, "expected arrays X, y, got none"),
    "one-dimensional": ({"X": Y, "y": Y}, r"X of shape \(N, D\) or \(N, height, width\), numbers, got \(4,\)"),
    "string samples": ({"X": X.astype(str), "y": Y}, "numbers, got"),
    "complex": ({"X": X.astype(complex), "y": Y}, "X of numbers or strings, got dtype complex128"),
    "pickled": ({"X": X.astype(object), "y": Y}, "got dtype object; pickled objects are refused"),
    "short y": ({"X": X, "y": Y[:3]}, r"y of shape \(N,\) = \(4,\), got \(3,\)"),
    "float y": ({"X": X, "y": Y / 2}, "y as integer, boolean or string labels, got float64"),
    "empty": ({"X": X[:0], "y": Y[:0]}, r"at least one element, got the declared shape \(0, 3\)"),
    "test without labels": ({"X": X, "y": Y, "X_test": X}, "X_test and y_test or neither, got no y_test"),
    "labels without test": ({"X": X, "y": Y, "y_test": Y}, "X_test and y_test or neither, got no X_test"),
    "other features": ({"X": X, "y": Y, "X_test": X[:, :2], "y_test": Y}, r"samples of shape \(3,\) as in X, got \(2,\)"),
}


@pytest.mark.parametrize("case", WRONG_NPZ)
def test_wrong_npz(tmp_path, case):
    arrays, message = WRONG_NPZ[case]
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        read.load_npz(path)
    assert str(caught.value).startswith(f"{path}: expected ")


def npy(shape: str, body: bytes, descr: str = "'<f8'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


DAMAGED_MEMBERS = {
    "no npy": (b"hello", "damaged header"),
    "empty member": (b"", "damaged header"),
    "version 9": (b"\x93NUMPY\x09\x00" + bytes(20), "damaged header"),
    "header is no literal": (npy("__import__('os')", bytes(8)), "damaged header"),
    "header of brackets": (npy("(" * 3000, bytes(8)), "damaged header"),
    "negative shape": (npy("(-1, -8)", bytes(64)), "at least one element"),
    "no itemsize": (npy("(4,)", b"", "'<U0'"), "at least one element"),
    "huge": (npy("(99999999999, 99999999999)", bytes(8)), "expected at most"),
    "larger than the file": (npy("(1000, 1000)", bytes(8)), "holds at most"),
    "truncated": (npy("(10, 3)", bytes(239)), "240 bytes for X of declared shape"),
    "too long": (npy("(10, 3)", bytes(241)), "240 bytes for X of declared shape .* got more"),
    "record": (npy("(2,)", bytes(16), "[('a', '<f8')]"), "numbers or strings"),
}


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("damage", DAMAGED_MEMBERS)
def test_damaged_npz_member(tmp_path, damage, packed):
    content, message = DAMAGED_MEMBERS[damage]
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr("X.npy", content)
        archive.writestr("y.npy", npy("(10,)", np.arange(10).tobytes(), "'<i8'"))
    with pytest.raises(ValueError, match=message) as caught:
        read.load_npz(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "\n" not in str(caught.value)


def test_names_of_members_are_quoted_in_one_short_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name in ("a\nb", "c" * 5000):
            archive.writestr(name, b"")
    with pytest.raises(ValueError, match=r"expected arrays X, y, got a\\nb, c+\.\.\.$") as caught:
        read.load_npz(tmp_path / "x.npz")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("order", "<>")
def test_text_that_is_no_unicode_is_refused(tmp_path, order):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("X.npy", npy("(2, 1)", bytes(16)))
        archive.writestr("y.npy", npy("(2,)", struct.pack(f"{order}2I", 97, 0x110000), f"'{order}U1'"))
    with pytest.raises(ValueError, match="expected y of Unicode strings, got numbers that are no character"):
        read.load_npz(tmp_path / "x.npz")


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("member", ["X", "y", "X_test", "y_test", "other"])
def test_a_pickle_in_an_npz_is_never_loaded(tmp_path, member):
    trap, path = tmp_path / "sprung", tmp_path / "x.npz"
    arrays = {"X": X, "y": Y, "X_test": X, "y_test": Y}
    np.savez(path, **{**arrays, member: np.array([Trap(str(trap))] * 4, object)})
    if member == "other":
        read.load_npz(path)  # members that nobody asked for are not read
    else:
        with pytest.raises(ValueError, match=f"expected {member} .* got dtype object; pickled objects are refused"):
            read.load_npz(path)
    assert not trap.exists()
    np.load(path, allow_pickle=True)[member]  # the trap is one
    assert trap.exists()


BOMB_BYTES = 3 << 30


def bomb(declared: int) -> bytes:
    """A zip of 3 MiB whose X inflates to 3 GiB, and declares ``declared`` bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(npy(f"({declared}, 1)", b"", "'|u1'")) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(1 << 26)) + packer.flush(zlib.Z_FULL_FLUSH)  # stands by itself, so it can be repeated
    body = start + zeros * (BOMB_BYTES >> 26) + packer.flush()
    common = struct.pack("<HHHHHIIIHH", 20, 0, zipfile.ZIP_DEFLATED, 0, 0, 0, len(body), BOMB_BYTES, 5, 0)
    local = b"PK\3\4" + common + b"X.npy" + body
    entry = b"PK\1\2" + struct.pack("<H", 20) + common + bytes(14) + b"X.npy"
    return local + entry + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)


BOUNDED = """
import resource, sys
from nc_fast.files import read
grown = 1 << 29
resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + grown,) * 2)
try:
    read.read_npz(sys.argv[1], required=("X",))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("declared", "message"),
    [(1000, "got more"), (BOMB_BYTES, "a file that holds at most 1073741824"), (1 << 40, "expected at most 8589934592 bytes")],
)
def test_a_zip_bomb_of_gibibytes_is_not_inflated(tmp_path, declared, message):
    path = tmp_path / "x.npz"
    path.write_bytes(bomb(declared))
    with zipfile.ZipFile(path) as archive, archive.open("X.npy") as member:
        assert member.read(10)[:6] == b"\x93NUMPY"  # a real one
    done = subprocess.run([sys.executable, "-c", BOUNDED, path], capture_output=True, text=True, check=True, timeout=60)
    assert message in done.stdout


def test_npz_in_another_compression(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("X.npy", npy("(1, 1)", bytes(8)))
        archive.writestr("y.npy", npy("(1,)", bytes(8), "'<i8'"))
    with pytest.raises(ValueError, match="expected X stored or deflated"):
        read.load_npz(tmp_path / "x.npz")


def test_npz_bomb_costs_only_what_it_declares(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", npy("(2, 3)", bytes(1 << 26)))
        archive.writestr("y.npy", npy("(2,)", bytes(16), "'<i8'"))
    assert peak_while_refused(lambda: read.load_npz(tmp_path / "x.npz")) < 4 << 20


def test_every_flipped_or_lost_byte_is_a_value_error_or_harmless(tmp_path, rng):
    whole = io.BytesIO()
    np.savez_compressed(whole, X=rng.normal(size=(5, 2)), y=np.arange(5))
    original, path = whole.getvalue(), tmp_path / "x.npz"
    messages = []
    for position in range(len(original)):
        for damaged in (original[:position], original[:position] + bytes([original[position] ^ 0x55]) + original[position + 1 :]):
            path.write_bytes(damaged)
            try:
                read.load_npz(path)
            except ValueError as error:
                messages.append(str(error))
    assert all(message.startswith(f"{path}: expected ") for message in messages)
    assert len(messages) > len(original)  # every truncation but the last bytes', and most flips


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read.load(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"an \.npz file, got damaged data: File is not a zip file"):
        read.load(tmp_path / "text.npz")


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_and_fail():
        with untrusted.replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert path.read_bytes() == b"old"
    with untrusted.replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_follows_links_and_spares_devices(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with untrusted.replacing(tmp_path / "link") as file:
        file.write(b"through")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"through"
    with untrusted.replacing("/dev/null") as file:
        file.write(b"gone")
    assert not read.Path("/dev/null").is_file()
