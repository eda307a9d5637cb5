"""`mpi-ltcr watch`: a run in a terminal, renewed every few seconds, from its published files alone.

It opens logs that the ranks replace whole, takes no lock, and speaks to no process: it can neither slow nor stop a job.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mpi_ltcr.archive.heartbeats import Heartbeats
from mpi_ltcr.archive.reader import Log, ReadError, read_logs
from mpi_ltcr.config import ConfigError
from mpi_ltcr.verbs.checks import Parser, require_run
from mpi_ltcr.verbs.status import Health, describe, health
from mpi_ltcr.verbs.tasks import Task

PHASES = ("explore", "communicate", "digest", "revisit", "evaluate", "archive")
ROLLOUTS = 100
NO_LOGS = "no logs yet; an offline alignment writes none"
CLEAR = "\x1b[H\x1b[2J"


def watch(arguments: list[str]) -> None:
    """Show progress, returns, KL, staleness, time of each phase, and each rank's last sign of life."""
    parser = Parser("mpi-ltcr watch", description=watch.__doc__)
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks (default 2)")
    parser.add_argument("--once", action="store_true", help="print once, for scripts")
    asked = parser.parse_args(arguments)
    if not 0.1 <= asked.every <= 3600:
        raise ConfigError(f"--every: {asked.every} s is no rhythm to look in; take 0.1 to 3600")
    require_run(asked.run)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            page, ended = look(asked.run, time.time())
            print(page if asked.once or not sys.stdout.isatty() else CLEAR + page, flush=True)
            if asked.once or ended:
                return
            time.sleep(asked.every)


def look(run: Path, now: float) -> tuple[str, bool]:
    """What there is to see, and whether there will never be more of it."""
    seen = health(run, now)
    parts = [describe(run, seen)]
    try:
        parts += of_logs(seen, read_logs(run)) if any((run / "logs").glob("agent*.h5")) else [[NO_LOGS]]
    except ReadError as error:
        parts.append([f"{error}; mpi-ltcr verify {run} tells what else is damaged"])
    parts.append(list(ranks(run, now, seen.status.get("attempt", 1))))
    page = "\n\n".join("\n".join(part) for part in parts if part)
    return page + "\n", seen.lost or seen.status["state"] not in ("running", "stopping")


def of_logs(seen: Health, logs: list[Log]) -> list[list[str]]:
    """What the logs tell: progress, tables, phases. Raises ReadError if one of them is damaged."""
    total, parts = total_of(logs[0]), []
    if seen.tasks:
        parts += [[bar(task.name, task.frames, total, task.frames_per_s) for task in seen.tasks]]
        parts += [table("task", SERVERS, [(t.name, t.frames, functools.partial(of_task, t)) for t in seen.tasks])]
    else:
        parts.append([bar("", seen.status.get("frames", 0), total, speed(logs[0]))])
    kind, columns = ("worker", WORKERS) if logs[0].config["program"] == "ca3c" else ("agent", AGENTS)
    rows = [(str(log.agent), frames_of(log), functools.partial(of_log, log)) for log in logs]
    return [*parts, table(kind, columns, rows), list(phases(logs))]


def total_of(log: Log) -> int:
    """Frames that the run shall have. Raises ReadError if its configuration does not say so."""
    config = log.config
    if not isinstance(config.get("frames"), int) or config["frames"] < 1 or "program" not in config:
        raise ReadError(f"{log.path}: attribute config_json is no configuration of a run")
    return int(config["frames"])


def bar(name: str, frames: int, total: int, rate: float) -> str:
    """How far it is, how fast, and how long it will take."""
    left = f"{max(0, total - frames) / rate / 60:.0f} min to go" if rate else "no rate yet"
    done = min(20, 20 * frames // total)
    head = f"{name}: " if name else ""
    return f"{head}[{'#' * done}{'.' * (20 - done)}] {frames} of {total} frames, {rate:.0f} frames/s, {left}"


class Shown(NamedTuple):
    """A column of a table: the mean of the newest rows of a column of the log."""

    head: str
    table: str
    column: str
    rows: int


AGENTS = (
    Shown("eval return", "eval", "return", 10),
    Shown("train return", "episodes", "return", 10),
    Shown("KL to team", "probe", "kl_teammates", 1),
    Shown("td loss", "train", "td_loss", 10),
)
"""Of LTCR, a line for each agent."""
WORKERS = (
    Shown("train return", "episodes", "return", 10),
    Shown("KL to teacher", "rollouts", "distill_loss", 100),
    Shown("policy loss", "rollouts", "policy_loss", 100),
    Shown("entropy", "rollouts", "entropy", 100),
)
"""Of cA3C, a line for each worker."""
SERVERS = (
    Shown("train return", "returns", "return", 100),
    Shown("staleness", "pushes", "staleness", 100),
    Shown("queue", "pushes", "queue", 100),
)
"""Of cA3C, a line for each task."""
Row = tuple[str, int, Callable[[Shown], np.ndarray]]
"""Name, frames, and the newest values for a column."""


def table(kind: str, columns: Sequence[Shown], rows: Sequence[Row]) -> list[str]:
    """A line for each row, below the columns' heads; "-" where nothing has been logged."""
    name = max(len(word) for word in (kind, *(row[0] for row in rows)))
    lines = [f"{kind:>{name}}{'frames':>10}" + "".join(f"{shown.head:>14}" for shown in columns)]
    for label, frames, newest in rows:
        values = [newest(shown) for shown in columns]
        cells = (f"{np.mean(value):.3f}" if len(value) else "-" for value in values)
        lines.append(f"{label:>{name}}{frames:>10}" + "".join(f"{cell:>14}" for cell in cells))
    return lines


def of_log(log: Log, shown: Shown) -> np.ndarray:
    """The newest values of a column of a log."""
    return measured(log.table(shown.table)[shown.column], shown.rows)


def of_task(task: Task, shown: Shown) -> np.ndarray:
    """The newest values of a column of a server's log."""
    return measured(getattr(task, shown.table)[shown.column], shown.rows)


def measured(values: np.ndarray, rows: int) -> np.ndarray:
    """The newest of them, without those that stand for nothing."""
    return values[np.isfinite(values)][-rows:]


def frames_of(log: Log) -> int:
    """The newest frame that an agent has logged."""
    return max(int(log.table(name)["frames"].max(initial=0)) for name in ("train", "rollouts", "episodes"))


def speed(log: Log) -> float:
    """Frames per second of an agent of LTCR, as last logged."""
    rates = log.table("perf")["frames_per_s"]
    return float(rates[-1]) if len(rates) else 0.0


def phases(logs: list[Log]) -> Iterator[str]:
    """Where the time since the last published row went, as shares: of LTCR's four phases and of what surrounds them; of
    a worker's last rollouts."""
    for log in logs:
        perf, rollouts = log.table("perf"), log.table("rollouts")
        if len(perf["frames"]):
            seconds = {name: float(np.nan_to_num(perf[f"{name}_s"][-1])) for name in PHASES}
            yield f"agent {log.agent}: {shares(seconds)}   {float(perf['rss_bytes'][-1]) / 1e6:.0f} MB"
        elif len(rollouts["frames"]):
            seconds = {name: float(rollouts[f"{name}_s"][-ROLLOUTS:].sum()) for name in ("work", "wait")}
            yield f"worker {log.agent}: {shares(seconds)}"


def shares(seconds: dict[str, float]) -> str:
    """E.g. "work 90 %  wait 10 %"."""
    total = sum(seconds.values()) or 1.0
    return "  ".join(f"{name} {100 * value / total:.0f} %" for name, value in seconds.items())


def ranks(run: Path, now: float, attempt: int) -> Iterator[str]:
    """Each rank's newest sign of life in this attempt."""
    for rank, pulse in Heartbeats(run, attempt).read().items():
        doing = f"waits for {pulse['waits']['what']}" if pulse["waits"] else pulse["phase"]
        idle = f", no progress for {pulse['silence_s']:.0f} s" if pulse["silence_s"] >= 5 else ""
        yield f"rank {rank} on {pulse['host']}: {max(0.0, now - pulse['time']):.0f} s ago, {doing}{idle}"
