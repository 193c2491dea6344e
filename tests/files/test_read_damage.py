"""Readers of the demo's data: every kind of damage is one ValueError naming the file, and costs no more than is there."""

import gzip
import io
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from read_cases import idx, npy

from nc_fast.files import read

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
