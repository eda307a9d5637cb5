"""Is there room on the disk? Asked before a run is begun and before each checkpoint, so that the answer is one line."""

from __future__ import annotations

import os
from pathlib import Path


def free_bytes(path: Path) -> int:
    """What this user may still write where `path` is or will be."""
    folder = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def require_space(path: Path, needed: float, what: str) -> None:
    """Raise OSError, telling both numbers, unless `needed` bytes are free there."""
    free = free_bytes(path)
    if free < needed:
        raise OSError(f"out: {what} needs {needed:.0f} bytes, {free} are free at {path}; free some, or choose another")
