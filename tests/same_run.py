"""Are two runs the same? Every bit of every checkpoint and every row of the logs, but for times on the clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mpi_ltcr.archive import checkpoint, reader
from mpi_ltcr.archive.schema import TABLES, WALL_COLUMNS, WALL_TABLES
from mpi_ltcr.archive.segments import Shelf


def saved(run: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of everything in a run that must not depend on its having been stopped."""
    for folder in sorted(checkpoint.folders(run / "checkpoints")):
        manifest = checkpoint.verify(folder)
        yield folder.name, {name: manifest[name] for name in ("frames", "world_size", "updates")}
        for name in sorted(manifest["files"]):
            state = Shelf(folder.parent).fetch(checkpoint.load_file(folder / name))
            for place, leaf in checkpoint.flatten(state):
                if not place.endswith("session/wall_s") and not is_wall_row_count(place):
                    yield f"{folder.name}/{name}/{place}", leaf
    for log in reader.read_logs(run):
        for table in sorted(set(TABLES) - WALL_TABLES):
            for column, values in log.table(table).items():
                if column not in WALL_COLUMNS:
                    yield f"{log.path.name}/{table}/{column}", values


def is_wall_row_count(place: str) -> bool:
    return place.startswith("session/log_rows/") and place.rsplit("/", 1)[1] in WALL_TABLES


def bits(value: Any) -> tuple[Any, ...]:
    """Equal only for values of one type, dtype, shape and content; NaN equals itself."""
    if isinstance(value, np.ndarray):
        content = value.tolist() if value.dtype.kind == "O" else value.tobytes()
        return (str(value.dtype), value.shape, content)
    return (type(value).__name__, repr(value))


def differences(a: Path, b: Path) -> list[str]:
    first, second = dict(saved(a)), dict(saved(b))
    return sorted(
        place
        for place in first.keys() | second.keys()
        if place not in first or place not in second or bits(first[place]) != bits(second[place])
    )


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run, by its path."""
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
