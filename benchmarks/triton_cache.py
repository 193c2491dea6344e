"""Triton's cache of compiled kernels in one file, for another machine: ``python benchmarks/triton_cache.py FILE FOLDER`` unpacks it.

Triton notes where the files of a kernel lie by their absolute paths and compiles again where it finds none, so unpacking writes those of
the new folder. Only the standard library is needed for that.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from pathlib import Path

GROUPS = "*/__grp__*.json"  # which files belong to a kernel


def pack(folder: Path, file: Path) -> None:
    """Write the whole cache into the file."""
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder, ".")


def unpack(file: Path, folder: Path) -> None:
    """Write the cache in the file into the folder, to be named by TRITON_CACHE_DIR."""
    with tarfile.open(file) as archive:
        archive.extractall(folder)
    for path in folder.resolve().glob(GROUPS):
        group = json.loads(path.read_text())
        group["child_paths"] = {name: str(path.parent / name) for name in group["child_paths"]}
        path.write_text(json.dumps(group))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    unpack(given.file, given.folder)
