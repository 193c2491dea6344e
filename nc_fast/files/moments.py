"""Class moments in a file, .npz or .safetensors: a format version, a checksum, written atomically, read strictly.

A file that was cut short, damaged, or made by something else is one ValueError; nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from nc_fast.files.read import read_npz
from nc_fast.files.untrusted import MAX_BYTES, MAX_QUOTED, PathLike, checked_path, listed, readable, replacing, text_is_unicode
from nc_fast.inputs.labels import LABEL_KINDS

FORMAT = "nc_fast.ClassMoments"
VERSION = 1
SUFFIXES = (".npz", ".safetensors")
NAMES = ("classes", "count", "mean", "m2")
HEADER = "header"  # a JSON object: format, version, checksum, notes


def save_moments(path: PathLike, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any] | None = None) -> None:
    """Write ``classes``, ``count``, ``mean`` and ``m2`` under the path at once, or leave what was there.

    Raises
    ------
    ValueError
        When the name ends in neither .npz nor .safetensors, or the moments are larger than ``load_moments`` takes.
    """
    path = moments_path(path)
    arrays = {name: np.ascontiguousarray(arrays[name]) for name in NAMES}
    if max(array.nbytes for array in arrays.values()) > MAX_BYTES:
        raise ValueError(f"{path}: expected moments of at most {MAX_BYTES} bytes an array, got {arrays['mean'].nbytes}")
    header = {"format": FORMAT, "version": VERSION, "sha256": _checksum(arrays, notes or {}), "notes": dict(notes or {})}
    with replacing(path) as file:
        if path.suffix == ".npz":
            members: dict[str, Any] = {**arrays, HEADER: np.array(json.dumps(header))}
            np.savez(file, **members)
        else:
            _write_safetensors(file, arrays, header)
        file.flush()
        os.fsync(file.fileno())


def load_moments(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the notes that ``save_moments`` wrote.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is damaged, of another format or version, or its arrays are not class moments.
    """
    path = moments_path(path)
    if path.suffix == ".npz":
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


def moments_path(path: object, name: str = "path") -> Path:
    """Check the name of a file of moments, the argument ``name``."""
    path = checked_path(name, path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{name}: expected a name ending in {' or '.join(SUFFIXES)}, got {path.suffix or 'no ending'!r}")
    if path.suffix == ".safetensors" and find_spec("safetensors") is None:
        raise ValueError(f'{path}: expected a name ending in .npz where safetensors is not installed: pip install "nc_fast[safetensors]"')
    return path


def _checksum(arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name in NAMES:
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.dtype.kind not in "US" else array.tobytes())
    return digest.hexdigest()


def _header(path: Path, text: str) -> dict[str, Any]:
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
    """Write labels, which may be strings, as bytes."""
    from safetensors.numpy import save

    classes = arrays["classes"]
    as_bytes = np.frombuffer(classes.tobytes(), np.uint8).reshape(len(classes), classes.dtype.itemsize)
    file.write(save({**arrays, "classes": as_bytes}, {HEADER: json.dumps(header), "classes_dtype": classes.dtype.str}))


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import safe_open

    with readable(path, "a .safetensors file"), safe_open(path, framework="numpy") as file:
        metadata, names = file.metadata() or {}, sorted(file.keys())
        if names != sorted(NAMES):
            raise ValueError(f"{path}: expected tensors {', '.join(NAMES)}, got {listed(names)}")
        arrays = {name: file.get_tensor(name) for name in NAMES}
    arrays["classes"] = _labels(path, arrays["classes"], metadata.get("classes_dtype"))
    return arrays, _header(path, metadata.get(HEADER, ""))


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
