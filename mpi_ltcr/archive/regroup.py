"""Who sits where when a team goes on with another number of agents.

Agents are independent students, so that a checkpoint of N serves M: those that are kept sit down in the order in which
they are named, and behind them the new ones. Agents are numbered by their seats.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mpi_ltcr.archive import checkpoint, reader
from mpi_ltcr.archive.checkpoint import SEGMENTS, CheckpointError

RECENT = 10
"""Rows of the eval table over which the best agent is found."""


class Seat(NamedTuple):
    """Whose place an agent takes in the new team."""

    source: int | None
    """Number, in the old team, of the agent that goes on here; None: a new one."""
    clone: int | None = None
    """Number of the one whose knowledge a new agent begins with; None: it begins with nothing."""

    @property
    def settings(self) -> int | None:
        """Number, in the old team, of the agent whose settings hold here."""
        return self.clone if self.source is None else self.source


class Regrouping(NamedTuple):
    """The change from one team to another."""

    before: int
    """Agents of the old team."""
    seats: tuple[Seat, ...]

    def __str__(self) -> str:
        names = [f"{s.source}" if s.source is not None else "a new one" for s in self.seats]
        clones = {seat.clone for seat in self.seats} - {None}
        like = "".join(f" with what {number} knows" for number in clones)
        return f"the team of {self.before} goes on as {len(self.seats)}: {', '.join(names)}{like}"

    def settings(self, agents: list[dict]) -> list[dict]:
        """The configuration's `agents` of the new team."""
        return [{} if s.settings is None else agents[s.settings] for s in self.seats] if agents else []


def regroup(run: Path, size: int, keep: list[int] | None, *, clone_best: bool) -> Regrouping:
    """How the team of the newest checkpoint becomes one of `size`.

    Raises:
        ValueError: those that are to be kept are not there, or too many; or their memories cannot change hands.
        CheckpointError: there is no checkpoint.
    """
    folders = checkpoint.folders(run / "checkpoints")
    if not folders:
        raise CheckpointError(f"{run}: no checkpoint to go on from; start anew with mpi-ltcr train")
    manifest = checkpoint.read_manifest(folders[0])
    before = int(manifest["world_size"])
    kept = list(range(min(before, size))) if keep is None else keep
    if len(set(kept)) != len(kept) or not set(kept) <= set(range(before)) or not kept:
        raise ValueError(f"--keep: {kept} are not different agents of 0 to {before - 1}; name some of those")
    if len(kept) > size:
        raise ValueError(f"--keep: {len(kept)} agents do not fit into a team of --agents {size}; name fewer")
    if SEGMENTS in manifest:
        raise ValueError(
            "--agents: memories of frames cannot change hands; a team that plays from pixels stays as it is"
        )
    clone = best_agent(run, before) if clone_best and len(kept) < size else None
    seats = [Seat(number) for number in kept] + [Seat(None, clone)] * (size - len(kept))
    return Regrouping(before, tuple(seats))


def best_agent(run: Path, before: int) -> int:
    """The one with the highest mean return over its newest evaluations, or else episodes; the first of equals."""
    values: dict[int, float] = {}
    for log in reader.read_logs(run):
        rows = log.table("eval")["return"]
        rows = rows if len(rows) else log.table("episodes")["return"]
        values[log.agent] = float(np.mean(rows[-RECENT:])) if len(rows) else -np.inf
    return max((number for number in values if number < before), key=values.__getitem__)


def keep_old_team(run: Path, frames: int, before: int) -> Path:
    """Set the old team's logs and configuration aside, once; the folder: RUN/teams/until-000000200-of-4."""
    folder = run / "teams" / f"until-{frames:09d}-of-{before}"
    if not folder.exists():
        draft = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(run / "logs", draft / "logs")
        shutil.copy2(run / "config.yaml", draft / "config.yaml")
        draft.rename(folder)
    return folder


def drop_logs(run: Path, size: int) -> None:
    """Remove the logs of numbers that nobody has any more; `keep_old_team` has set them aside."""
    for path in (run / "logs").glob("agent*.h5"):
        if int(path.stem.removeprefix("agent")) >= size:
            path.unlink()
