"""Real trainings, interrupted at random moments and resumed, in children that are forked after torch has been loaded.

    python forked.py FOLDER KIND N SEED     KIND: kill, usr1, stop; soak: any of them, for N minutes;
                                            again: kill, N times in one run;
                                            reader: N opens of the logs during every other training

Loading torch takes ten times as long as such a training: forked, hundreds of them can be had. Prints a JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import TINY
from same_run import differences

import mpi_ltcr.programs.job  # noqa: F401  (loads torch before the forks; MPI is started by each child)
from mpi_ltcr import cli
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import ReadError, open_log
from mpi_ltcr.programs import publishing

publishing.SHARE = 1.0  # logs are written as often as it is asked for
TRAIN = ["train", "ltcr-cartpole-alone", *TINY, "--agent.backend", "fused", "--log.publish_s", "0.05"]


def begin(argv: list[str]) -> int:
    """Process id of a child that runs this command, its output thrown away."""
    pid = os.fork()
    if pid:
        return pid
    code: Any = 70
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(null, stream)
        cli.main(argv)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        os._exit(code)


def heeds_signals(pid: int) -> bool:
    with contextlib.suppress(OSError):
        caught = int(Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0], 16)
        return bool(caught >> (signal.SIGUSR1 - 1) & 1)
    return False


def command(run: Path, options: Sequence[str] = ()) -> list[str]:
    """Go on if there is something to go on with; otherwise begin anew, as whoever started it would."""
    if not list((run / "checkpoints").glob("step_*")):
        shutil.rmtree(run, ignore_errors=True)
        return [*TRAIN, *options, "--out", str(run)]
    return ["resume", str(run)]


class Injected:
    """What was done to the trainings, and what came of it."""

    def __init__(self) -> None:
        self.signals, self.unexpected = 0, []  # type: int, list[str]
        self.seconds: list[float] = []
        self.lost: list[int] = []
        self.rss_mb: list[float] = []
        """The most memory that each attempt used."""

    def reap(self, pid: int) -> int:
        """Wait for a child: its exit code, minus a signal."""
        _, status, usage = os.wait4(pid, 0)
        self.rss_mb.append(usage.ru_maxrss / 1024)
        return os.waitstatus_to_exitcode(status)

    def strike(self, kind: str, pid: int, run: Path) -> None:
        """One signal to a living training, and its end."""
        while not heeds_signals(pid) and not has_ended(pid):
            time.sleep(0.001)
        self.signals += 1
        since = time.monotonic()
        if kind == "stop":
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.3)
            os.kill(pid, signal.SIGCONT)
            return
        frames = frames_of(run)
        os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGUSR1)
        code = self.reap(pid)
        self.seconds.append(time.monotonic() - since)
        allowed = {-9, 0} if kind == "kill" else {85, 0}  # 0: it was just done
        if code not in allowed:
            self.unexpected.append(f"exit code {code} after {kind}")
        self.lost.append(max(0, frames - saved_by(run)))


def has_ended(pid: int) -> bool:
    """Of a child; it can still be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def frames_of(run: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(json.loads((run / "status.json").read_text()).get("frames", 0))
    return 0


def saved_by(run: Path) -> int:
    """The frame of its newest checkpoint."""
    return max((checkpoint.frames_of(f) for f in checkpoint.folders(run / "checkpoints")), default=0)


def interrupt(base: Path, kind: str, n: float, rng: random.Random, minutes: float = 0) -> dict[str, Any]:
    """Trainings until there were n signals, each training interrupted up to five times; all must equal the whole one.

    With `minutes`, until that time is over; then `kind` is drawn for each signal.
    """
    whole, started = base / "whole", time.monotonic()
    assert os.waitpid(begin([*TRAIN, "--out", str(whole)]), 0)[1] == 0
    length = time.monotonic() - started
    found, runs, equal = Injected(), 0, 0
    while time.monotonic() - started < 60 * minutes if minutes else found.signals < n:
        run = base / f"run{runs}"
        runs += 1
        quota = 5 if minutes else min(5, n - found.signals)
        while True:
            pid = begin(command(run))
            until = time.monotonic() + rng.uniform(0, length)
            while quota and time.monotonic() < until and not has_ended(pid):
                time.sleep(0.002)
            if quota and not has_ended(pid):
                quota -= 1
                strike = rng.choice(["kill", "usr1", "stop"]) if minutes else kind
                found.strike(strike, pid, run)
                if strike != "stop":
                    continue
            code = found.reap(pid)
            if code:
                found.unexpected.append(f"exit code {code} of an attempt that was left alone")
            break
        different = differences(whole, run)
        equal += not different
        if different:
            found.unexpected.append(f"{run.name}: {different[:3]}")
        else:
            shutil.rmtree(run)
    return {"runs": runs, "equal": equal, **vars(found)}


FRAMES = 20_000
LONG = ["--frames", str(FRAMES), "--eval.every", "2000"]
"""Some seconds of training."""


def kill_again_and_again(base: Path, n: int, rng: random.Random) -> dict[str, Any]:
    """One training, killed n times: each time after less than an n-th of it."""
    whole, run, found = base / "whole", base / "run", Injected()
    assert os.waitpid(begin([*TRAIN, *LONG, "--out", str(whole)]), 0)[1] == 0
    reached: list[int] = []
    for _ in range(n):
        due = saved_by(run) + rng.uniform(0, FRAMES / n)
        pid = begin(command(run, LONG))
        while frames_of(run) < due and not has_ended(pid):
            time.sleep(0.001)
        found.strike("kill", pid, run)
        reached.append(frames_of(run))
    code = found.reap(begin(command(run, LONG)))
    different = differences(whole, run)
    if code or different:
        found.unexpected.append(f"exit code {code}, {different[:3]}")
    return {"runs": 1, "equal": int(not different), "reached": reached, **vars(found)}


def read(base: Path, n: int) -> dict[str, Any]:
    """Open and read the logs n times while trainings write them as often as they can; every other one is left alone.

    Of both kinds the median seconds that a training took, on the clock and of the core.
    """
    opened, failures, runs = 0, [], 0
    seconds: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    while opened < n or runs % 2:
        run, watched = base / f"run{runs}", runs % 2 == 0
        since = time.monotonic()
        pid = begin([*TRAIN, "--out", str(run), "--log.publish_s", "0.001"])
        runs += 1
        while not has_ended(pid):
            if not watched:
                time.sleep(0.001)
                continue
            for path in (run / "logs").glob("*.h5"):
                try:
                    columns = open_log(path).table("train")
                    assert len({len(column) for column in columns.values()}) == 1
                    json.loads((run / "status.json").read_text())
                except (ReadError, OSError, ValueError, AssertionError) as error:
                    failures.append(f"{type(error).__name__}: {error}")
                opened += 1
        _, status, usage = os.wait4(pid, 0)
        seconds[watched].append((time.monotonic() - since, usage.ru_utime + usage.ru_stime))
        if status:
            failures.append("the training failed")
        shutil.rmtree(run)
    medians = {kind: list(map(statistics.median, zip(*pairs, strict=True))) for kind, pairs in seconds.items()}
    return {
        **{"runs": runs, "opened": opened, "failures": failures},
        **{"watched_s": medians[True], "alone_s": medians[False]},
    }


if __name__ == "__main__":
    folder, how, number, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if how == "reader":
        print(json.dumps(read(folder, number)))
    elif how == "again":
        print(json.dumps(kill_again_and_again(folder, number, random.Random(seed))))
    elif how == "soak":
        print(json.dumps(interrupt(folder, "", 0, random.Random(seed), minutes=number)))
    else:
        print(json.dumps(interrupt(folder, how, number, random.Random(seed))))
