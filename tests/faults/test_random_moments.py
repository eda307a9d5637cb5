"""Jobs under either mpirun that are struck at random moments, their start and their saving included; then resumed.

Whatever strikes, nobody survives the job, and in the end the run is the one that was left alone, bit for bit.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blows import MPIS, Blow, Struck, command, ready, status_of, strike, wait_for
from conftest import HERE, TINY, Started
from fault_report import ALL, LARGE, Tally, memory_folder
from same_run import differences

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(3600)]

TRAIN = ["-m", "mpi_ltcr", "train", "ltcr-cartpole-9-1", *TINY, "--log.publish_s", "0.05"]
INTERVAL = 100
"""Frames between two checkpoints."""


@pytest.fixture
def memory() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def job(memory: Path) -> Iterator[Callable[..., Started]]:
    """`job(argv, prefix)`: two ranks; what still runs in the end dies."""
    jobs: list[Started] = []

    def begin(argv: list[str], prefix: Path) -> Started:
        jobs.append(Started(2, argv, memory, prefix=prefix))
        return jobs[-1]

    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, and mpirun would inherit that
    yield begin
    signal.signal(signal.SIGHUP, inherited)
    for one in jobs:
        one.kill()
        one.process.communicate(timeout=10)


WORDS = {
    "kill a rank": ("A2", "SIGKILL of a rank at a random moment", signal.SIGKILL, "rank"),
    "kill mpirun": ("A10", "SIGKILL of mpirun at a random moment", signal.SIGKILL, "mpirun"),
    "stop a rank": ("A11", "SIGSTOP of a rank for a second at a random moment, then SIGCONT", signal.SIGSTOP, "rank"),
    "USR1 to mpirun": ("B13", "SIGUSR1 to mpirun at a random moment: saved", signal.SIGUSR1, "mpirun"),
    "TERM to a rank": ("B14", "SIGTERM to a rank at a random moment: saved", signal.SIGTERM, "rank"),
    "HUP to a rank": ("B14", "SIGHUP to a rank at a random moment: saved", signal.SIGHUP, "rank"),
    "TERM to mpirun": ("B14", "SIGTERM to mpirun at a random moment", signal.SIGTERM, "mpirun"),
    "INT to mpirun": ("B14", "SIGINT to mpirun at a random moment", signal.SIGINT, "mpirun"),
    "HUP to mpirun": ("B14", "SIGHUP to mpirun at a random moment", signal.SIGHUP, "mpirun"),
}
FORWARDED = {("mpich", "TERM to mpirun"), ("mpich", "INT to mpirun")}
"""MPICH's mpirun hands these on to the ranks, Open MPI's ends them; SIGHUP ends them with either."""
ENOUGH = {"kill a rank": 25, "kill mpirun": 5, "USR1 to mpirun": 10}
SAMPLE = {("openmpi", "kill a rank"), ("mpich", "USR1 to mpirun")}


def cases() -> Iterator[Any]:
    for mpi in MPIS:
        for name, (row, words, number, victim) in WORDS.items():
            graceful = number != signal.SIGKILL and (victim == "rank" or number == signal.SIGUSR1)
            saves = graceful or (mpi, name) in FORWARDED
            said = words if graceful or number == signal.SIGKILL else f"{words}: {'saved' if saves else 'ended'}"
            marks = [pytest.mark.fault(row, f"{said}, then resumed: same end ({mpi})")]
            if (mpi, name) not in SAMPLE:
                marks.append(LARGE)
            yield pytest.param(mpi, Blow(number, victim, saves), ENOUGH.get(name, 3), marks=marks, id=f"{mpi}-{name}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that was left alone, by MPICH, and the seconds from when its ranks heeded signals to its end."""
    folder = tmp_path_factory.mktemp("whole")
    job = Started(2, [*TRAIN, "--out", str(folder / "run")], folder)
    assert wait_for(lambda: ready(job), 60)
    since = time.monotonic()
    done = job.finish(120)
    assert done.rc == 0, done.err
    return folder / "run", time.monotonic() - since


@pytest.mark.parametrize(("mpi", "blow", "many"), list(cases()))
def test_struck_at_a_random_moment_a_job_leaves_nobody_behind_and_the_resumed_run_equals_the_whole_one(
    mpi: str, blow: Blow, many: int, whole: tuple[Path, float], job: Any, memory: Path, tally: Tally
) -> None:
    rng, due, number = random.Random(f"{mpi} {blow}"), many if ALL else 1, 0
    struck: list[Struck] = []
    problems: list[str] = []
    while len(struck) < due:  # a run is struck until it has come to its end
        run = memory / f"run{number}"
        number += 1
        while status_of(run).get("state") != "completed":
            running = job(command(TRAIN, run), MPIS[mpi])
            assert wait_for(lambda running=running: ready(running), 60)
            over = wait_for(lambda p=running.process: p.poll() is not None, rng.uniform(0, whole[1]))
            if len(struck) < due and not over:
                struck.append(strike(running, blow, run, rng))
                if blow.number != signal.SIGSTOP:
                    continue
            end = running.finish(120)
            problems += [end.err] if end.rc else []
        problems += differences(whole[0], run)[:3]
        shutil.rmtree(run)
    problems += [one.problem for one in struck if one.problem]
    ends = [one.seconds for one in struck if blow.number != signal.SIGSTOP]
    orphans = sum(one.orphans for one in struck)
    tally.add(due, expected=due - len(problems), seconds=ends, lost=[one.lost for one in struck], orphans=orphans)
    assert problems == []
    assert max((one.lost for one in struck), default=0) <= INTERVAL


@LARGE
@pytest.mark.fault("A11", "SIGSTOP of a rank for a minute, then SIGCONT: same end")
def test_a_rank_that_is_stopped_for_a_minute_goes_on_as_if_nothing_had_been(
    whole: tuple[Path, float], job: Any, memory: Path
) -> None:
    run = memory / "run"
    running = job(command(TRAIN, run), HERE)
    assert wait_for(lambda: status_of(run).get("frames", 0) > 0, 60)
    victim = running.ranks()[1]
    os.kill(victim, signal.SIGSTOP)
    time.sleep(60)
    os.kill(victim, signal.SIGCONT)
    end = running.finish(120)
    assert end.rc == 0, end.err
    assert differences(whole[0], run) == []
