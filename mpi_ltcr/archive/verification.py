"""Is everything in a run directory what it was when it was written?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mpi_ltcr.archive import checkpoint, reader
from mpi_ltcr.archive.atomic import UNSEALED, is_sealed
from mpi_ltcr.archive.schema import TABLES, columns


def verify_run(run: Path) -> Iterator[tuple[str, str]]:
    """(name, problem) of the parts of a run; the problem of a sound part is empty."""
    yield "config.yaml", "" if (run / "config.yaml").is_file() else "missing; not a run directory"
    everybody = run / "checkpoints"
    sound: set[tuple[str, str]] = set()
    for checkpoints in (everybody, *sorted(path for path in everybody.glob("*") if path.is_dir())):  # of each task
        for folder in checkpoint.folders(checkpoints):
            yield str(folder.relative_to(run)), _problem_of_checkpoint(folder, sound)
    for path in sorted((run / "logs").glob("*.h5")):
        yield f"logs/{path.name}", _problem_of_log(path)


def _problem_of_checkpoint(folder: Path, sound: set[tuple[str, str]]) -> str:
    """`sound`: segments of other checkpoints, as in `checkpoint.verify`."""
    try:
        seen = set(sound)
        for name in checkpoint.verify(folder, sound)["files"]:
            checkpoint.load_file(folder / name)
        for name, _ in sound - seen:
            checkpoint.load_file(folder.parent / checkpoint.SEGMENTS / name)
    except checkpoint.CheckpointError as error:
        return str(error)
    return ""


def _problem_of_log(path: Path) -> str:
    try:
        log = reader.open_log(path)
        for name in TABLES:
            content = log.table(name)
            if set(content) != set(columns(name)):
                return f"table {name} has other columns than this program writes"
            if len({len(column) for column in content.values()}) != 1:
                return f"table {name} has columns of unequal length"
        if not is_sealed(path):
            return f"it {UNSEALED}"
    except (reader.ReadError, OSError) as error:
        return str(error)
    return ""
