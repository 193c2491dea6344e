"""Class moments in a file, .npz or .safetensors: a format version, a checksum, written atomically, read strictly.

A file that was cut short, damaged, or made by something else is one ValueError; nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from nc_fast.files.read import MAX_BYTES, MAX_QUOTED, PathLike, listed, read_npz, replacing, text_is_unicode
from nc_fast.inputs.labels import LABEL_KINDS

FORMAT = "nc_fast.ClassMoments"
VERSION = 1
SUFFIXES = (".npz", ".safetensors")
NAMES = ("classes", "count", "mean", "m2")
HEADER = "header"  # a JSON object: format, version, checksum, notes
MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
SAFETENSORS_DTYPES: dict[str, np.dtype[Any]] = {"I64": np.dtype("<i8"), "F64": np.dtype("<f8"), "U8": np.dtype("u1")}


def save(path: PathLike, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any] | None = None) -> None:
    """Write ``classes``, ``count``, ``mean`` and ``m2`` under the path at once, or leave what was there.

    Raises
    ------
    ValueError
        When the name ends in neither .npz nor .safetensors, or the moments are larger than ``load`` takes.
    """
    path = Path(path)
    suffix = _suffix(path)
    arrays = {name: np.ascontiguousarray(arrays[name]) for name in NAMES}
    if max(array.nbytes for array in arrays.values()) > MAX_BYTES:
        raise ValueError(f"{path}: expected moments of at most {MAX_BYTES} bytes an array, got {arrays['mean'].nbytes}")
    header = {"format": FORMAT, "version": VERSION, "sha256": _checksum(arrays, notes or {}), "notes": dict(notes or {})}
    with replacing(path) as file:
        if suffix == ".npz":
            members: dict[str, Any] = {**arrays, HEADER: np.array(json.dumps(header))}
            np.savez(file, **members)
        else:
            _write_safetensors(file, arrays, header)
        file.flush()
        os.fsync(file.fileno())


def load(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the notes that ``save`` wrote.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is damaged, of another format or version, or its arrays are not class moments.
    """
    path = Path(path)
    if _suffix(path) == ".npz":
        arrays = read_npz(path, required=(*NAMES, HEADER))
        header = _header(path, str(arrays.pop(HEADER)))
    else:
        arrays, header = _read_safetensors(path)
    if header.get("format") != FORMAT or not isinstance(header.get("notes"), dict):
        raise ValueError(f"{path}: expected the format {FORMAT}, got {str(header.get('format'))[:40]!r}")
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path}: expected version {VERSION} of {FORMAT}, got {repr(header.get('version'))[:40]}; a newer nc_fast may read it"
        )
    _check_moments(path, arrays)
    if header.get("sha256") != _checksum(arrays, header["notes"]):
        raise ValueError(f"{path}: expected the checksum in its header, got another; the file is damaged")
    return arrays, header["notes"]


def _suffix(path: Path) -> str:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name ending in {' or '.join(SUFFIXES)}, got {path.suffix or 'no ending'!r}")
    return path.suffix


def _checksum(arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name in NAMES:
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.dtype.kind not in "US" else array.tobytes())
    return digest.hexdigest()


def _header(path: Path, text: str | bytes | bytearray) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: expected a JSON object as header, got damaged data")
    return header


def _check_moments(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    classes, count, mean, m2 = (arrays[name] for name in NAMES)
    if classes.ndim != 1 or classes.dtype.kind not in LABEL_KINDS or not classes.dtype.isnative:
        raise ValueError(f"{path}: expected classes (C,) of integers, booleans or strings, got {classes.shape}, {classes.dtype}")
    if len(classes) > 1 and not (classes[1:] > classes[:-1]).all():
        raise ValueError(f"{path}: expected classes sorted and distinct, got {repr(classes[:10].tolist())[:MAX_QUOTED]}")
    if count.shape != classes.shape or count.dtype != np.int64 or (count < 0).any():
        raise ValueError(f"{path}: expected count (C,) = {classes.shape} int64 >= 0, got {count.shape}, {count.dtype}")
    if mean.ndim != 2 or len(mean) != len(classes) or mean.dtype != np.float64:
        raise ValueError(f"{path}: expected mean (C, M) = ({len(classes)}, M) float64, got {mean.shape}, {mean.dtype}")
    if m2.shape != mean.shape or m2.dtype != np.float64 or (m2 < 0).any():
        raise ValueError(f"{path}: expected m2 (C, M) = {mean.shape} float64 >= 0, got {m2.shape}, {m2.dtype}")


def _write_safetensors(file: IO[bytes], arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> None:
    """Write the format of https://github.com/huggingface/safetensors; labels, which may be strings, as bytes."""
    names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
    classes = arrays["classes"]
    as_bytes = np.frombuffer(classes.tobytes(), np.uint8).reshape(len(classes), classes.dtype.itemsize)
    table: dict[str, Any] = {"__metadata__": {HEADER: json.dumps(header), "classes_dtype": classes.dtype.str}}
    tensors, end = {**arrays, "classes": as_bytes}, 0
    for name in NAMES:
        array = tensors[name]
        begin, end = end, end + array.nbytes
        table[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    for name in NAMES:
        file.write(np.ascontiguousarray(tensors[name]).data.cast("B"))


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        (length,) = struct.unpack("<Q", file.read(8)) if size >= 8 else (0,)
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"{path}: expected a .safetensors file, got a header of {length} bytes in {size}")
        table = _header(path, file.read(length))
        metadata = table.pop("__metadata__", None)
        if not isinstance(metadata, dict) or sorted(table) != sorted(NAMES):
            raise ValueError(f"{path}: expected tensors {', '.join(NAMES)} and metadata, got {listed(table)}")
        arrays, end = {}, 0
        for name in NAMES:
            dtype, shape = _declared(path, name, table[name], begin=end)
            n_bytes = math.prod(shape) * dtype.itemsize
            end += n_bytes
            if end > size - 8 - length:
                raise ValueError(f"{path}: expected {end} bytes of tensors, got {size - 8 - length}")
            arrays[name] = np.frombuffer(file.read(n_bytes), dtype).reshape(shape)
        if end != size - 8 - length:
            raise ValueError(f"{path}: expected {end} bytes of tensors, got {size - 8 - length}")
    arrays["classes"] = _labels(path, arrays["classes"], metadata.get("classes_dtype"))
    return arrays, _header(path, metadata[HEADER] if isinstance(metadata.get(HEADER), str) else "")


def _declared(path: Path, name: str, entry: Any, begin: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Check one tensor's entry in the table, which has to start where the last one ended."""
    dtype: np.dtype[Any] = np.dtype("u1")
    shape: tuple[int, ...] = ()
    try:
        dtype, shape = SAFETENSORS_DTYPES[entry["dtype"]], tuple(entry["shape"])
        first, last = entry["data_offsets"]
        whole = all(isinstance(number, int) and number > 0 for number in shape) and len(shape) <= 2
        fits = whole and (first, last) == (begin, begin + math.prod(shape) * dtype.itemsize)
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{path}: expected {name} declared with dtype, shape and offsets that fit, got {repr(entry)[:100]}")
    return dtype, shape


def _labels(path: Path, as_bytes: np.ndarray, dtype: object) -> np.ndarray:
    try:
        labels = np.dtype(dtype) if isinstance(dtype, str) and len(dtype) < 16 else None
    except TypeError:
        labels = None
    fits = labels is not None and labels.kind in LABEL_KINDS and as_bytes.dtype == np.uint8 and as_bytes.shape[1:] == (labels.itemsize,)
    if not fits:
        raise ValueError(f"{path}: expected classes as bytes of a label dtype, got {str(dtype)[:40]!r} and {as_bytes.shape}")
    found = np.frombuffer(as_bytes.tobytes(), labels)
    text_is_unicode(path, "classes", found)
    return found
