"""Files that are not trusted: what a header declares is held against what the file can hold, and memory stays bounded."""

from __future__ import annotations

import gzip
import math
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

MAX_BYTES = 8 << 30  # larger arrays are better mapped than loaded; far above EMNIST's 0.6 GB, far below a decompression bomb
DEFLATE_RATIO = 1032  # no deflate stream expands more (zlib's technical notes)
LARGE_BYTES = 1 << 30  # from here on, what expands more than LARGE_RATIO is a bomb sooner than data; MNIST expands 5 times
LARGE_RATIO = 100
CHUNK_BYTES = 1 << 20
MAX_QUOTED = 200  # characters of a file's own words in a message

PathLike = str | os.PathLike[str]


def checked_path(name: str, value: object) -> Path:
    """Check the name of a file, the argument ``name``."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{name}: expected a path, got {type(value).__name__}")
    return Path(value)


@contextmanager
def replacing(path: PathLike) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under its name only when the block ends well; nothing half-written is left.

    What is not a plain file (a device, a pipe) is written to directly.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        with Path(path).open("wb") as file:
            yield file
        return
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            yield file
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def readable(path: Path, what: str) -> Iterator[IO[bytes]]:
    """Open a file; turn what the decompressors say about damaged data into the one form of error."""
    with path.open("rb") as file:
        try:
            yield file
        except MemoryError:
            raise
        except Exception as error:  # gzip and zipfile raise a dozen kinds, OSError at a damaged offset among them
            if str(error).startswith(f"{path}: "):
                raise
            raise ValueError(f"{path}: expected {what}, got damaged data: {' '.join(str(error).split())[:MAX_QUOTED]}") from None


def text_is_unicode(path: Path, name: str, array: np.ndarray) -> None:
    """Check an array of strings from a file: NumPy takes any 32 bits for a character, Python fails on most of them later."""
    if array.dtype.kind == "U" and (array.view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder)) > sys.maxunicode).any():
        raise ValueError(f"{path}: expected {name} of Unicode strings, got numbers that are no character")


def listed(names: Iterable[str]) -> str:
    """Return names from a file that is not trusted as one line, not too long."""
    line = ", ".join(sorted(names)).encode("unicode_escape").decode()
    return f"{line[:MAX_QUOTED]}..." if len(line) > MAX_QUOTED else line or "none"


def read_declared(
    file: IO[bytes] | gzip.GzipFile, path: Path, shape: tuple[int, ...], itemsize: int, *, packed: bool, what: str
) -> bytearray:
    """Read the elements of the shape that the header of the file at ``path`` declares, if it can hold them and nothing follows."""
    n_bytes = math.prod(shape) * itemsize  # Python integers: no overflow
    if n_bytes <= 0 or min(shape, default=1) < 0:
        raise ValueError(f"{path}: expected at least one element, got the declared shape {shape}")
    if n_bytes > MAX_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_BYTES} bytes, got the declared shape {shape}, {n_bytes} bytes")
    size = path.stat().st_size
    capacity = max(min(size * DEFLATE_RATIO, LARGE_BYTES), size * LARGE_RATIO) if packed else size
    if n_bytes > capacity:
        raise ValueError(f"{path}: expected {n_bytes} bytes for the declared shape {shape}, got a file that holds at most {capacity}")
    body = read_bytes(file, n_bytes + 1)  # one more, so that a longer file shows; at its end gzip checks the checksum
    if len(body) != n_bytes:
        got = f"only {len(body)}" if len(body) < n_bytes else "more"
        raise ValueError(f"{path}: expected {n_bytes} bytes for {what}, got {got}")
    return body


def read_bytes(file: IO[bytes] | gzip.GzipFile, n_bytes: int) -> bytearray:
    """Read up to ``n_bytes``; memory grows with what arrives, never with what was asked for."""
    data = bytearray()
    while chunk := file.read(min(CHUNK_BYTES, n_bytes - len(data))):
        data += chunk
    return data
