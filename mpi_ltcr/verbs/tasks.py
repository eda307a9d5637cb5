"""The tasks of a run of cA3C, as their servers have published them: each has its own T, its own checkpoints."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import ReadError, read_logs
from mpi_ltcr.archive.rundir import RunDirectory


class Task(NamedTuple):
    """One task."""

    name: str
    saved: int | None
    """T of its newest checkpoint; None before the first."""
    pushes: dict[str, np.ndarray]
    """The table of the gradients that were applied: see `archive.schema`."""
    returns: dict[str, np.ndarray]
    """That of the training episodes."""

    @property
    def frames(self) -> int:
        """T, as far as it has been published."""
        return max(int(self.pushes["frames"].max(initial=0)), self.saved or 0)

    @property
    def frames_per_s(self) -> float:
        """Over the last half of what was published; 0 where that says nothing."""
        half = len(self.pushes["frames"]) // 2
        frames, seconds = (self.pushes[name][half:] for name in ("frames", "wall_s"))
        return float(np.ptp(frames) / np.ptp(seconds)) if len(seconds) and np.ptp(seconds) > 0 else 0.0


def tasks_of(run: Path) -> list[Task]:
    """In the configuration's order; none where there is no server, or its log cannot be read (yet)."""
    tasks = []
    with contextlib.suppress(ReadError, KeyError, IndexError, TypeError):  # what is damaged is for `verify` to tell
        for log in read_logs(run, "server"):
            name = str(log.config["tasks"][log.agent]["name"])
            steps = checkpoint.folders(RunDirectory(run).task_checkpoints(name))
            saved = max(map(checkpoint.frames_of, steps), default=None)
            tasks.append(Task(name, saved, log.table("pushes"), log.table("returns")))
    return tasks
