"""What a failed update was computed from, kept in crash/: an HDF5 file that any viewer opens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mpi_ltcr.archive.atomic import write_hdf5
from mpi_ltcr.archive.tree import write_tree


def write_batch(path: Path, batch: Any) -> None:
    """Write a batch: named tuples, and lists of them, become groups, all else arrays.

    Raises:
        OSError: the disk does not take it.
    """
    path.parent.mkdir(exist_ok=True)
    write_hdf5(path, lambda file: write_tree(file, _parts(batch)))


def _parts(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {name: _parts(part) for name, part in value._asdict().items()}
    if isinstance(value, list):
        return {str(number): _parts(part) for number, part in enumerate(value)}
    return np.asarray(value)
