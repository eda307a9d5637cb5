"""Files that are either the old one or the new one, never half of either.

Measured: appending to HDF5 in place, killed at the wrong write call, leaves one file in four unreadable or wrong.
Written beside, fsynced and renamed, none.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py

STRIDE = 64 << 20
"""Bytes that are written before they are made to reach the disk: what is left to the end is never much more."""


class Headway:
    """Of files on their way to the disk or from it: `made` is called again and again, however long one takes.

    Nobody is told unless a program sets it.
    """

    def __init__(self) -> None:
        self.made: Callable[[], object] = lambda: None


headway = Headway()
"""Of this process."""


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


def copy_file(source: Path, path: Path) -> None:
    """Atomically let `path` hold what `source` does. Raises OSError like `replace_file`."""

    def copy(temporary: Path) -> None:
        with open(source, "rb") as content, contextlib.closing(_Sink(temporary)) as sink:
            shutil.copyfileobj(content, sink, 1 << 20)

    replace_file(path, copy)


def write_text(path: Path, text: str) -> None:
    """Atomically write a small text file."""
    replace_file(path, lambda temporary: _write_plainly(temporary, text))


def _write_plainly(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Atomically write a small JSON file."""
    write_text(path, json.dumps(content, indent=1) + "\n")


class _Sink(io.RawIOBase):
    """A file, for HDF5 above all, that never fails: what the disk refuses is remembered, and told by `close`.

    HDF5 that meets a full disk leaves objects behind which end the process with a segmentation fault, then or later;
    or it finds out when h5py drops an object, where Python can but print the error.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115
        self._error: OSError | None = None
        self._ahead = 0

    def write(self, data: Any) -> int:
        """All of it; after an error nothing is written any more."""
        # Views are let go of by hand: an error that is kept would keep them, and a log that they show could not grow.
        with memoryview(data).cast("B") as content:
            size, done = content.nbytes, 0
            try:
                while done < size and self._error is None:
                    with content[done : done + STRIDE] as piece:
                        done += self._advance(self._file.write(piece))
            except OSError as error:
                self._error = error
        return size

    def _advance(self, written: int) -> int:
        """Every so many bytes, let them reach the disk and tell; the bytes written."""
        self._ahead += written
        if self._ahead >= STRIDE:
            os.fsync(self._file.fileno())
            self._ahead = 0
            headway.made()
        return written

    def truncate(self, size: int | None = None) -> int:
        """Cut or prolong."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        """What is missing because of an error is zeros."""
        view = memoryview(buffer).cast("B")
        n = self._file.readinto(view) or 0
        view[n:] = bytes(len(view) - n)
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def close(self) -> None:
        """Raises OSError if anything was not written."""
        super().close()
        self._file.close()
        if self._error is not None:
            error, self._error = self._error, None
            raise error


HDF5_VERSION = "v110", "v110"
"""Of the format that is written: HDF5 1.10 and all later ones read it."""


def write_hdf5(path: Path, fill: Callable[[h5py.File], None]) -> None:
    """Atomically write an HDF5 file that `fill` builds."""

    def write(temporary: Path) -> None:
        with contextlib.closing(_Sink(temporary)) as sink, h5py.File(sink, "w", libver=HDF5_VERSION) as file:
            fill(file)

    replace_file(path, write)


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, without a lock: ours are only ever replaced whole, so that no reader meets a
    writer, and some network file systems refuse locks (ENOLCK)."""
    return h5py.File(path, "r", locking=False)


USER_BLOCK = 512
"""Bytes at the start of a file that HDF5 leaves to others."""


def write_sealed(path: Path, image: memoryview) -> None:
    """Atomically write an HDF5 file, behind a user block with its check sum, which every reader of HDF5 passes over.

    Args:
        image: the file from behind its user block, for which room of `USER_BLOCK` must have been made.
    """

    def write(temporary: Path) -> None:
        with contextlib.closing(_Sink(temporary)) as sink:
            sink.write(_seal(hashlib.sha256(image).hexdigest()))
            sink.write(image)

    replace_file(path, write)


UNSEALED = "was changed after it was written (its check sum differs, or there is none)"
"""What is to be said of a file that is not."""


def is_sealed(path: Path) -> bool:
    """Whether not one bit of a file has changed since `write_sealed` wrote it."""
    with open(path, "rb") as handle:
        return handle.read(USER_BLOCK) == _seal(_hexdigest(handle))


def _seal(digest: str) -> bytes:
    """The user block that says what the rest of the file was when it was written."""
    return f"mpi-ltcr sha256 {digest}\n".encode().ljust(USER_BLOCK, b"\0")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as handle:
        return _hexdigest(handle)


def _hexdigest(handle: Any) -> str:
    """Of what is left to read. (hashlib.file_digest came with Python 3.11.)"""
    digest = hashlib.sha256()
    for block in iter(lambda: handle.read(1 << 20), b""):
        digest.update(block)
        headway.made()
    return digest.hexdigest()
