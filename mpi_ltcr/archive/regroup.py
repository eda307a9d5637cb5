"""Who sits where when a team goes on with another number of agents, and what that changes in the run directory.

Agents are independent students, so that a checkpoint of N serves M: those that are kept sit down in the order in which
they are named, and behind them the new ones. Agents are numbered by their seats.

    teams/until-000000200-of-4/     what is kept of the old team: logs, config.yaml
        next.yaml                   the new team's configuration, as long as config.yaml has not followed

One step commits the change: the rename of the new team's checkpoint, whose manifest says who sits where. Before it the
old team is in force, and nothing of it has been touched; after it the new one, whose configuration is `config_file`,
and to which `settle` brings the logs, however often it is cut off.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpi_ltcr.archive import checkpoint, reader
from mpi_ltcr.archive.atomic import copy_file, fsync_folder, write_text
from mpi_ltcr.archive.checkpoint import OLD, TEAM, CheckpointError, Entry
from mpi_ltcr.archive.segments import segments_of
from mpi_ltcr.interfaces import State

RECENT = 10
"""Rows of the eval table over which the best agent is found."""
REGROUPED = "regrouped"
"""In the manifest of a team's first checkpoint: how it came about."""
NEXT = "next.yaml"


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

    @property
    def sources(self) -> list[int | None]:
        """Whom each had been in the old team."""
        return [seat.source for seat in self.seats]

    def facts(self) -> dict[str, Any]:
        """For the manifest of the new team's first checkpoint."""
        return {"before": self.before, "seats": [list(seat) for seat in self.seats]}

    def grants(self, size: int, keep: list[int] | None, *, clone_best: bool) -> bool:
        """Whether it is what these options ask for."""
        kept = list(range(min(self.before, size))) if keep is None else keep
        stay = [source for source in self.sources if source is not None]
        alike = all((seat.clone is not None) == clone_best for seat in self.seats if seat.source is None)
        return (len(self.seats), stay) == (size, kept) and alike


def begun_by(manifest: dict[str, Any]) -> Regrouping | None:
    """The change by which the team of a checkpoint came about, if it has not saved another one since.

    Raises:
        CheckpointError: the manifest does not say so in a way that can be used.
    """
    told = manifest.get(REGROUPED)
    if told is None:
        return None
    try:
        seats = [Seat(*(None if number is None else int(number) for number in seat)) for seat in told["seats"]]
        return Regrouping(int(told["before"]), tuple(seats))
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"manifest: {REGROUPED}: {told!r} is no change of a team") from None


def regroup(run: Path, size: int, keep: list[int] | None, *, clone_best: bool) -> Regrouping | None:
    """How the team of the newest checkpoint becomes one of `size`; None: it has just become so.

    Raises:
        ValueError: those that are to be kept are not there, or too many.
        CheckpointError: there is no checkpoint.
    """
    folders = checkpoint.folders(run / "checkpoints")
    if not folders:
        raise CheckpointError(f"{run}: no checkpoint to go on from; start anew with mpi-ltcr train")
    manifest = checkpoint.read_manifest(folders[0])
    made = begun_by(manifest)
    if made and made.grants(size, keep, clone_best=clone_best):
        return None
    before = int(manifest["world_size"])
    kept = list(range(min(before, size))) if keep is None else keep
    if len(set(kept)) != len(kept) or not set(kept) <= set(range(before)) or not kept:
        raise ValueError(f"--keep: {kept} are not different agents of 0 to {before - 1}; name some of those")
    if len(kept) > size:
        raise ValueError(f"--keep: {len(kept)} agents do not fit into a team of --agents {size}; name fewer")
    clone = None
    if clone_best and len(kept) < size:
        following = _following(run, folders[0])
        logs, numbers = (run, range(before)) if following is None else (following[1], following[0].sources)
        clone = best_agent(logs, numbers)
    seats = [Seat(number) for number in kept] + [Seat(None, clone)] * (size - len(kept))
    return Regrouping(before, tuple(seats))


def best_agent(run: Path, numbers: Iterable[int | None]) -> int:
    """The one with the highest mean return over its newest evaluations, or else episodes; the first of equals.

    Args:
        numbers: of the log of each agent, in their order; None: it has none.
    """
    return int(np.argmax([-np.inf if number is None else _recent_return(run, number) for number in numbers]))


def _recent_return(run: Path, number: int) -> float:
    path = run / "logs" / f"agent{number:04d}.h5"
    if not path.exists():  # of one that has only just come
        return -np.inf
    log = reader.open_log(path)
    rows = log.table("eval")["return"]
    rows = rows if len(rows) else log.table("episodes")["return"]
    return float(np.mean(rows[-RECENT:])) if len(rows) else -np.inf


def kept_folder(run: Path, frames: int, before: int, team: int = 0) -> Path:
    """Where what is kept of an old team lies: RUN/teams/until-000000200-of-4.

    Args:
        team: how often there had been another one before it: one frame may see several teams end.
    """
    return run / "teams" / (f"until-{frames:09d}-of-{before}" + (f"-{team}" if team else ""))


def keep_old_team(run: Path, frames: int, before: int, team: int = 0) -> Path:
    """Set the old team's logs and configuration aside, once; the folder. Raises OSError if the disk is full."""
    folder = kept_folder(run, frames, before, team)
    if not folder.exists():
        draft = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "logs").mkdir(parents=True)
        for path in [run / "config.yaml", *(run / "logs").glob("*.h5")]:
            copy_file(path, draft / path.relative_to(run))
        draft.rename(folder)
        fsync_folder(folder.parent)
    return folder


def write_files(
    folder: Path, number: int, state: State, memory: str | None, draft: Path
) -> Iterator[tuple[Entry, list[Entry]]]:
    """Write one new agent's files; each, and the segments that it refers to, which are there.

    Args:
        folder: the old team's checkpoint, from a file of which the slim `state` was loaded.
        memory: the file of M0, to be taken along as it is; None: not by this rank.
    """
    manifest = checkpoint.read_manifest(folder)
    yield checkpoint.write_file(draft, checkpoint.rank_file(number), state), list(segments_of(state, manifest))
    if memory is not None:
        copy_file(folder / memory, draft / memory)
        public = checkpoint.load_file(folder / memory)
        yield Entry(memory, **manifest["files"][memory]), list(segments_of(public, manifest))


def put_in_force(
    run: Path,
    folder: Path,
    change: Regrouping,
    config: str,
    facts: dict[str, Any],
    files: list[Entry],
    segments: list[Entry],
) -> None:
    """Put the gathered checkpoint of a new team in the place of the old team's, and let all else follow.

    Args:
        folder: the old team's checkpoint.
        config: the new team's config.yaml.
        facts: as of `checkpoint.commit`, of the new team.

    Raises:
        OSError: the disk does not take it; then the old team is in force, or the new one.
    """
    frames, team = checkpoint.frames_of(folder), int(checkpoint.read_manifest(folder).get(TEAM, 0))
    shutil.rmtree(kept_folder(run, frames, change.before, team), ignore_errors=True)  # of an attempt that was cut off
    kept = keep_old_team(run, frames, change.before, team)
    write_text(kept / NEXT, config)
    facts = {**facts, TEAM: team + 1, REGROUPED: change.facts()}
    settle(run, checkpoint.commit(run / "checkpoints", frames, files, facts, segments))
    checkpoint.prune(run / "checkpoints", 1, frames)  # an older team's cannot be gone on from any more


def config_file(run: Path) -> Path:
    """Where the configuration of the team in force stands: RUN/config.yaml, unless a change was cut off."""
    with contextlib.suppress(CheckpointError):
        for folder in checkpoint.folders(run / "checkpoints")[:1]:
            following = _following(run, folder)
            if following is not None:
                return following[1] / NEXT
    return run / "config.yaml"


def _following(run: Path, folder: Path) -> tuple[Regrouping, Path] | None:
    """The change that made this checkpoint's team, and what is kept of the old one, where logs have yet to follow."""
    manifest = checkpoint.read_manifest(folder)
    made = begun_by(manifest)
    if made is None:
        return None
    kept = kept_folder(run, checkpoint.frames_of(folder), made.before, int(manifest.get(TEAM, 0)) - 1)
    return (made, kept) if (kept / NEXT).is_file() else None


def settle(run: Path, folder: Path) -> None:
    """Let logs and configuration follow a whole checkpoint by which a team began, unless they have.

    Raises:
        OSError: the disk does not take them; the same again goes on with what is left to do.
    """
    leftovers = [*(run / "teams").glob(".*.tmp"), *([folder.with_suffix(OLD)] if folder.suffix != OLD else [])]
    for leftover in leftovers:
        shutil.rmtree(leftover, ignore_errors=True)
    following = _following(run, folder)
    if following is None:
        return
    made, kept = following
    for path in (run / "logs").glob("agent*.h5"):  # of numbers that nobody has any more, or nobody had
        number = int(path.stem.removeprefix("agent"))
        if number >= len(made.seats) or made.sources[number] is None:
            path.unlink()
    for number, source in enumerate(made.sources):
        if source is not None:
            copy_file(kept / "logs" / f"agent{source:04d}.h5", run / "logs" / f"agent{number:04d}.h5")
    copy_file(kept / NEXT, run / "config.yaml")
    (kept / NEXT).unlink()
