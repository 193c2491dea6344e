"""Saved moments: what comes back, every kind of damage, files of something else."""

import json
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from stream_cases import same_bits

import nc_fast
from nc_fast.files import moments as moments_file
from nc_fast.testing import CASES

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
