"""`mpi-ltcr status`: what a run is doing, or how it ended, from its published files alone.

status.json is the authority, but a run that was killed without a word still says "running" there. So the lock's owner
and the ranks' heartbeats are looked at as well: an owner that is gone, or silence for longer than two minutes, is told
and is exit code 75 ("lost"), after which `resume` is in order.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from mpi_ltcr.archive.heartbeats import read_heartbeats
from mpi_ltcr.archive.rundir import RunDirectory, RunDirectoryError
from mpi_ltcr.config import ConfigError
from mpi_ltcr.verbs.checks import Parser
from mpi_ltcr.verbs.tasks import Task, tasks_of

RUNNING, LOST = 1, 75
SILENCE_S = 120.0
"""Without a heartbeat for so long, the ranks are taken to be lost. They write one every five seconds."""


class Health(NamedTuple):
    """A run as its files tell it."""

    status: dict[str, Any]
    heartbeat_s: float
    """Age of the newest sign of life."""
    owner: str
    """Of the lock: "alive", "gone", "elsewhere" (another host), "none"."""
    lost: bool
    """It says that it runs, but it does not."""
    tasks: list[Task]
    """Of cA3C, as far as they have been published."""

    @property
    def exit_code(self) -> int:
        """As the run's own; `RUNNING` while it has not ended, `LOST` if it never will."""
        return LOST if self.lost else int(self.status.get("exit_code", RUNNING))


def health(run: Path, now: float) -> Health:
    """Look at a run, at this time since 1970. Raises ConfigError if it is none, or its status.json is damaged."""
    directory = RunDirectory(run)
    try:
        status = directory.checked_status()
    except RunDirectoryError as error:
        raise ConfigError(str(error)) from None
    if not {"state", "heartbeat"} <= set(status):
        raise ConfigError(f"{run}: no readable status.json; not a run directory")
    signs = [pulse["time"] for pulse in read_heartbeats(run / "heartbeat").values()]
    age = max(0.0, now - max([float(status["heartbeat"]), *signs]))
    owner = directory.owner()
    lost = status["state"] == "running" and (owner in ("gone", "none") or age > SILENCE_S)
    return Health(status, age, owner, lost, tasks_of(run))


def describe(run: Path, seen: Health) -> list[str]:
    """A few lines for people."""
    status = seen.status
    attempt, age = f"attempt {status.get('attempt', 1)}", f"last heartbeat {seen.heartbeat_s:.0f} s ago"
    if seen.tasks:
        lines = [f"{run}: {status['state']}, {attempt}; {age}"]
        lines += [f"{task.name}: T = {task.frames}, last checkpoint: {told(task.saved)}" for task in seen.tasks]
    else:
        lines = [f"{run}: {status['state']} at frame {status.get('frames', 0)}, {attempt}"]
        lines.append(f"last checkpoint: {told(status.get('checkpoint'))}; {age}")
    if status.get("error"):
        lines.append(str(status["error"]))
    if seen.lost:
        why = "its process is gone" if seen.owner in ("gone", "none") else "no rank has shown a sign of life since"
        lines.append(f"but {why}: it was killed without a word; go on: mpi-ltcr resume {run}")
    return lines


def told(saved: int | None) -> str:
    """Where a checkpoint stands, in words."""
    return "none yet" if saved is None else f"frame {saved}"


def status(arguments: list[str]) -> None:
    """Print what a run is doing, or how it ended, from its published files alone."""
    parser = Parser("mpi-ltcr status", description=status.__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--json", action="store_true", help="print status.json and what else was found")
    parser.add_argument(
        "--exit-code",
        action="store_true",
        help="exit as the run did; 1 while it runs, 75 if it was killed without a word",
    )
    asked = parser.parse_args(arguments)
    seen = health(asked.run, time.time())
    if asked.json:
        facts: dict[str, Any] = {"owner": seen.owner, "lost": seen.lost, "heartbeat_s": round(seen.heartbeat_s, 1)}
        if seen.tasks:
            facts["tasks"] = {task.name: {"frames": task.frames, "checkpoint": task.saved} for task in seen.tasks}
        print(json.dumps({**seen.status, **facts}))
    else:
        print("\n".join(describe(asked.run, seen)))
    if asked.exit_code:
        sys.exit(seen.exit_code)
