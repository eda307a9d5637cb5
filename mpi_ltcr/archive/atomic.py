"""Files that are either the old one or the new one, never half of either.

Measured: appending to HDF5 in place, killed at the wrong write call, leaves one file in four unreadable or wrong.
Written beside, fsynced and renamed, none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then fsync it and rename it into place.

    Raises:
        OSError: the disk is full or not writable; `path` is then what it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Atomically write a small text file."""
    replace_file(path, lambda temporary: _write_plainly(temporary, text))


def _write_plainly(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Atomically write a small JSON file."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_hdf5(path: Path, fill: Callable[[h5py.File], None]) -> None:
    """Atomically write an HDF5 file that `fill` builds."""

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w", libver=("v110", "v110"), locking="best-effort") as file:
            fill(file)

    replace_file(path, write)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(handle)


def _sha256(handle: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    for block in iter(lambda: handle.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()
