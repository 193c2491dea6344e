"""Atheris on everything that reads a file: IDX, .npz data, and saved moments (.npz, .safetensors).

    make fuzz-readers                                       # FUZZ_SECONDS each, 60 by default
    python tests/hardening/fuzz_readers.py npz -max_total_time=60     # one reader; further options are libFuzzer's

A run ends with an error when a reader does anything but return what it promises or raise its one ValueError, when it
takes more than MEMORY_MIB, or more than five seconds for one file. Inputs start from small valid files.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

MEMORY_MIB = 1024
SECONDS_A_FILE = 5
LARGEST_FILE = 1 << 14


def seeds(folder: Path, suffix: str) -> dict[str, bytes]:
    """Return small valid files of the format a suffix stands for."""
    import nc_fast

    X, y = np.arange(12.0).reshape(4, 3), np.array([0, 1, 0, 1])
    idx = b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + bytes(range(24))
    if suffix in (".idx", ".gz"):
        return {"images": idx if suffix == ".idx" else gzip.compress(idx, mtime=0)}
    if suffix == ".data.npz":
        found = {}
        for name, save in (("stored", np.savez), ("deflated", np.savez_compressed)):
            file = io.BytesIO()
            save(file, X=X.reshape(4, 3, 1), y=y.astype(str), X_test=X.reshape(4, 3, 1), y_test=y)
            found[name] = file.getvalue()
        return found
    found = {}
    for name, labels in (("numbers", y), ("strings", np.array(["a", "ä", "a", "ä"]))):
        path = folder / f"seed{suffix}"
        nc_fast.class_moments(X.T[:, :2], X[:, [0, 1, 2]], labels, backend="reference").save(path)
        found[name] = path.read_bytes()
        path.unlink()
    return found


def check_images(path: Path) -> None:
    from nc_fast.files import read

    images = read.read_idx(path, 3)
    assert images.dtype == np.uint8
    assert images.ndim == 3
    assert images.size


def check_data(path: Path) -> None:
    from nc_fast.files import read

    found = read.load_npz(path)
    assert found.X_train.ndim == 2
    assert found.X_train.dtype.kind in read.SAMPLE_KINDS
    assert found.y_train.shape == (len(found.X_train),)
    assert found.y_train.dtype.kind in read.LABEL_KINDS
    assert (found.X_test is None) == (found.y_test is None)
    found.scaled()


def check_moments(path: Path) -> None:
    import nc_fast

    found = nc_fast.ClassMoments.load(path)
    assert found.mean.shape == found.m2.shape == (len(found.classes), found.n_candidates)
    assert found.count.shape == found.classes.shape
    found.save(path)
    assert nc_fast.ClassMoments.load(path).n_samples == found.n_samples


READERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "idx": (".idx", check_images),
    "idx-gz": (".gz", check_images),
    "npz": (".data.npz", check_data),
    "moments-npz": (".npz", check_moments),
    "moments-safetensors": (".safetensors", check_moments),
}


def read(name: str, path: Path, content: bytes) -> bool:
    """Give a reader a file; return whether it took it. Anything but success or the one form of error is raised."""
    path.write_bytes(content)
    try:
        READERS[name][1](path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: expected "), f"not of the form of errors: {error!s}"  # noqa: PT017 - no test
        assert "\n" not in str(error), "more than one line"  # noqa: PT017
        return False
    return True


def mended(content: bytes) -> bytes:
    """Return a zip with the checksums its changed members should have, so that changes get past zipfile to the reader."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except Exception:
        return content
    found = bytearray(content)
    for member in members[:20]:
        first = member.header_offset
        if found[first : first + 4] != b"PK\3\4" or first + 30 > len(found):
            continue
        name_length, extra_length = struct.unpack("<HH", found[first + 26 : first + 30])
        start = first + 30 + name_length + extra_length
        body = bytes(found[start : start + member.compress_size])
        try:
            plain = body if member.compress_type == zipfile.ZIP_STORED else zlib.decompressobj(-15).decompress(body, LARGEST_FILE * 64)
        except zlib.error:
            continue
        found[first + 14 : first + 18] = struct.pack("<I", zlib.crc32(plain))
        entry = found.find(b"PK\1\2")
        while 0 <= entry <= len(found) - 46:
            if struct.unpack("<I", found[entry + 42 : entry + 46])[0] == first:
                found[entry + 16 : entry + 20] = struct.pack("<I", zlib.crc32(plain))
            entry = found.find(b"PK\1\2", entry + 4)
    return bytes(found)


def main() -> None:
    import atheris

    name, options = sys.argv[1], sys.argv[2:]
    suffix, _ = READERS[name]
    with atheris.instrument_imports(include=["nc_fast", "zipfile", "gzip", "json", "numpy.lib"]):
        import nc_fast.files.moments
        import nc_fast.files.read  # noqa: F401 - instrumented now, imported again by the checks
    with tempfile.TemporaryDirectory() as folder:
        path, corpus = Path(folder) / f"file{suffix}", Path(folder) / "corpus"
        corpus.mkdir()
        for seed, content in seeds(Path(folder), suffix).items():
            assert read(name, path, content), f"the seed {seed} is refused"
            (corpus / seed).write_bytes(content)

        def one_input(content: bytes) -> None:
            read(name, path, content)
            if suffix == ".gz":
                read(name, path, gzip.compress(content, 1))
            elif suffix.endswith(".npz"):
                read(name, path, mended(content))

        limits = [f"-max_len={LARGEST_FILE}", f"-rss_limit_mb={MEMORY_MIB}", f"-timeout={SECONDS_A_FILE}", "-print_final_stats=1"]
        atheris.Setup(
            [sys.argv[0], *limits, f"-artifact_prefix={os.environ.get('FUZZ_ARTIFACTS', './')}", *options, str(corpus)], one_input
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
