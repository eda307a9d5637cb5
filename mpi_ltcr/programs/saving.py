"""How the ranks of a team write one checkpoint together: all files of it, or none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.comm.collectives import Service

Written = tuple[checkpoint.Entry, list[checkpoint.Entry]]
"""A file of a checkpoint, and the segments that it refers to."""


def save_together(
    service: Service,
    checkpoints: Path,
    frames: int,
    write: Callable[[Path], Iterator[Written]],
    commit: Callable[[list[checkpoint.Entry], list[checkpoint.Entry]], object],
) -> str:
    """Collective. Either all ranks' files are whole and the checkpoint is committed, or nothing is.

    Args:
        write: on each rank: writes its files into this draft.
        commit: on rank 0: given all files, and all segments that they refer to.

    Returns:
        The first problem that the disk made on any rank, the same text on all; empty if there was none.
    """

    def agree(problem: str) -> str:
        return next((text for text in service.texts(problem) if text), "")

    problem = agree(_problem_of(lambda: service.rank or checkpoint.begin(checkpoints, frames)))
    written: list[Written] = []
    if not problem:
        draft = checkpoint.draft_folder(checkpoints, frames)
        problem = agree(_problem_of(lambda: written.extend(write(draft))))
    listed = service.texts(json.dumps(written))
    if not problem and service.rank == 0:
        everything = [one for text in listed for one in json.loads(text)]
        files = [checkpoint.Entry(*file) for file, _ in everything]
        segments = [checkpoint.Entry(*segment) for _, segments in everything for segment in segments]
        problem = _problem_of(lambda: commit(files, segments))
    return agree(problem)


def _problem_of(action: Callable[[], object]) -> str:
    """Run it; what the disk had against it, or nothing. HDF5 reports some full disks as RuntimeError."""
    try:
        action()
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
