"""Jobs of a real team under mpirun, struck every few seconds and resumed until each has come to its end.

    python team_soak.py FOLDER MINUTES RANKS SEED

MPICH and Open MPI by turns. Every run must end as the one that was left alone. Prints a JSON object.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from blows import MPIS, Blow, Struck, command, ready, status_of, strike, wait_for
from conftest import HERE, TINY, Started
from same_run import differences

FRAMES = 8_000
"""Some seconds' work, so that most runs are struck several times."""
EVERYTHING_S = 600
"""Seconds for whatever is left alone, on a busy machine."""
PAUSE_S = 8.0
"""At most, from when the ranks heed signals, or from the last blow, to the next blow."""
TRAIN = ["-m", "mpi_ltcr", "train", "ltcr-cartpole-9-1", *TINY, "--frames", str(FRAMES)]
# Checkpoints stay at TINY's every 100 frames, where ranks agree to stop: otherwise the last two of a run would differ.
TRAIN += ["--eval.every", "1000", "--log.probe_every", "1000", "--log.publish_s", "0.5"]

BLOWS = {
    "SIGKILL of a rank": ("rank", signal.SIGKILL),
    "SIGSEGV of a rank": ("rank", signal.SIGSEGV),
    "SIGSTOP and SIGCONT of a rank": ("rank", signal.SIGSTOP),
    "SIGKILL of mpirun": ("mpirun", signal.SIGKILL),
    "SIGTERM to mpirun": ("mpirun", signal.SIGTERM),
    "SIGUSR1 to mpirun": ("mpirun", signal.SIGUSR1),
}


def drawn(rng: random.Random, mpi: str) -> tuple[str, Blow]:
    """A blow, and its name. Open MPI's mpirun answers SIGTERM by ending the ranks, MPICH's hands it on."""
    name = rng.choice(list(BLOWS))
    victim, number = BLOWS[name]
    return name, Blow(number, victim, number == signal.SIGUSR1 or (number == signal.SIGTERM and mpi == "mpich"))


class Soak:
    """What was done to the jobs, and what came of it."""

    def __init__(self, base: Path, ranks: int, rng: random.Random) -> None:
        self.base, self.ranks, self.rng = base, ranks, rng
        self.blows: Counter[str] = Counter()
        self.struck: list[Struck] = []
        self.attempts = 0
        self.unexpected: list[str] = []

    def attempt(self, run: Path, mpi: str, until: float) -> bool:
        """One mpirun, struck until it ends or the time is over; whether to try again, should the run be unfinished."""
        self.attempts += 1
        job = Started(self.ranks, command(TRAIN, run), self.base, prefix=MPIS[mpi])
        try:
            wait_for(lambda: ready(job, self.ranks), EVERYTHING_S)
            while time.monotonic() < until:
                if wait_for(lambda: job.process.poll() is not None, self.rng.uniform(0, PAUSE_S)):
                    break
                name, blow = drawn(self.rng, mpi)
                struck = strike(job, blow, run, self.rng, FRAMES)
                self.blows[name] += 1
                self.struck.append(struck)
                if struck.problem:
                    self.unexpected.append(f"{run.name}, {name}, {mpi}: {struck.problem}")
                if blow.number != signal.SIGSTOP:
                    return struck.orphans == 0
            done = job.finish(EVERYTHING_S)
            if done.rc:
                self.unexpected.append(f"{run.name}, {mpi}, left alone: exit code {done.rc}, {done.err[-2000:]}")
            return False
        finally:
            job.kill()
            job.process.communicate(timeout=10)
            job.session.cleanup()

    def till(self, until: float, whole: Path) -> dict[str, Any]:
        """Runs until the time is over; the last one is then left alone."""
        runs = equal = 0
        while time.monotonic() < until:
            run, mpi = self.base / f"run{runs}", list(MPIS)[runs % len(MPIS)]
            runs += 1
            while status_of(run).get("state") != "completed" and self.attempt(run, mpi, until):
                pass
            different = differences(whole, run)
            equal += not different
            if different:
                self.unexpected.append(f"{run.name}: {different[:3]}")
            else:
                shutil.rmtree(run)
        ends = [one.seconds for one in self.struck if one.seconds]
        return {
            **{"runs": runs, "equal": equal, "ranks": self.ranks, "attempts": self.attempts},
            **{"signals": len(self.struck), "blows": self.blows, "seconds": ends, "unexpected": self.unexpected},
            "lost": [one.lost for one in self.struck],
            "orphans": sum(one.orphans for one in self.struck),
        }


def main(base: Path, minutes: float, ranks: int, seed: int) -> dict[str, Any]:
    until = time.monotonic() + 60 * minutes
    whole = base / "whole"
    done = Started(ranks, command(TRAIN, whole), base, prefix=HERE).finish(EVERYTHING_S)
    assert done.rc == 0, done.err
    found = Soak(base, ranks, random.Random(seed)).till(until, whole)
    return {**found, "whole_s": done.seconds}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
