"""`mpi-ltcr watch`: a run in a terminal, renewed every few seconds, from its published files alone.

It opens logs that the ranks replace whole, takes no lock, and speaks to no process: it can neither slow nor stop a job.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mpi_ltcr.archive.heartbeats import Heartbeats
from mpi_ltcr.archive.reader import Log, ReadError, read_logs
from mpi_ltcr.config import ConfigError
from mpi_ltcr.verbs.checks import Parser, require_run
from mpi_ltcr.verbs.status import Health, describe, health

RECENT = 10
"""Rows over which the newest returns are averaged."""
PHASES = ("explore", "communicate", "digest", "revisit", "evaluate", "archive")
CLEAR = "\x1b[H\x1b[2J"


def watch(arguments: list[str]) -> None:
    """Show progress, returns, KL between teammates, time of each phase, and each rank's last sign of life."""
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
    lines = [*describe(run, seen), ""]
    try:
        logs = read_logs(run)
    except ReadError:
        lines.append("no logs yet")
    else:
        lines += [*progress(seen, logs[0]), "", *table(logs), "", *phases(logs)]
    lines += ["", *ranks(run, now, int(seen.status.get("attempt", 1)))]
    return "\n".join(lines).rstrip() + "\n", seen.lost or seen.status["state"] not in ("running", "stopping")


def progress(seen: Health, log: Log) -> Iterator[str]:
    """How far it is, how fast, and how long it will take."""
    total, frames = int(log.config["frames"]), int(seen.status.get("frames", 0))
    perf = log.table("perf")
    rate = float(perf["frames_per_s"][-1]) if len(perf["frames"]) else 0.0
    left = f"{(total - frames) / rate / 60:.0f} min to go" if rate else "no rate yet"
    done = min(20, 20 * frames // total)
    yield f"[{'#' * done}{'.' * (20 - done)}] {frames} of {total} frames, {rate:.0f} frames/s, {left}"


def table(logs: list[Log]) -> Iterator[str]:
    """A line for each agent."""
    yield f"{'agent':>6}{'frames':>10}{'eval return':>13}{'train return':>14}{'KL to team':>12}{'td loss':>10}"
    for log in logs:
        cells = [
            _mean(log, "eval", "return"),
            _mean(log, "episodes", "return"),
            _mean(log, "probe", "kl_teammates", 1),
            _mean(log, "train", "td_loss"),
        ]
        frames = max(int(log.table(name)["frames"].max(initial=0)) for name in ("train", "rollouts", "episodes"))
        yield f"{log.agent:>6}{frames:>10}" + "".join(
            f"{cell:>{width}}" for cell, width in zip(cells, (13, 14, 12, 10), strict=True)
        )


def phases(logs: list[Log]) -> Iterator[str]:
    """Where the time since the last published row went, as shares: of LTCR's four phases and of what surrounds them."""
    for log in logs:
        perf = log.table("perf")
        if not len(perf["frames"]):
            continue
        seconds = {name: float(np.nan_to_num(perf[f"{name}_s"][-1])) for name in PHASES}
        total = sum(seconds.values()) or 1.0
        shares = "  ".join(f"{name} {100 * value / total:.0f} %" for name, value in seconds.items())
        yield f"agent {log.agent}: {shares}   {float(perf['rss_bytes'][-1]) / 1e6:.0f} MB"


def ranks(run: Path, now: float, attempt: int) -> Iterator[str]:
    """Each rank's newest sign of life in this attempt."""
    for rank, pulse in Heartbeats(run, attempt).read().items():
        doing = f"waits for {pulse['waits']['what']}" if pulse["waits"] else pulse["phase"]
        idle = f", no progress for {pulse['silence_s']:.0f} s" if pulse["silence_s"] >= 5 else ""
        yield f"rank {rank} on {pulse['host']}: {max(0.0, now - pulse['time']):.0f} s ago, {doing}{idle}"


def _mean(log: Log, name: str, column: str, rows: int = RECENT) -> str:
    """Of the newest rows of a column; "-" where there is none."""
    values = log.table(name)[column][-rows:]
    return f"{np.nanmean(values):.3f}" if np.isfinite(values).any() else "-"
