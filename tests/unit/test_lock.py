"""Of two processes that want one run directory at once, one gets it: at whatever moment the other comes between."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_report import ALL, Tally

from mpi_ltcr.archive.rundir import RunDirectory, RunDirectoryError

ROUNDS = 150 if ALL else 40
RIVALS = pytest.mark.fault("C29", "two processes want the lock of one run directory: one gets it")


def gone_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def of_a_dead_process(path: Path) -> None:
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": GONE, "job": "", "start": "0"}))


def cut_short(path: Path) -> None:
    path.write_text("{")


def none(path: Path) -> None:
    path.unlink(missing_ok=True)


GONE = gone_pid()
LEFT = [none, of_a_dead_process, cut_short]


def gets_it(root: Path) -> bool:
    try:
        RunDirectory(root).lock()
    except RunDirectoryError:
        return False
    return True


class Rival:
    """A child that wants the lock at a time of the monotonic clock, tells whether it got it, and lives on."""

    def __init__(self, root: Path, at: float = 0.0) -> None:
        self._answer = b""
        self.told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            sys.setprofile(None)
            while time.monotonic() < at:
                pass
            try:
                os.write(tell, b"1" if gets_it(root) else b"0")
                signal.pause()
            finally:
                os._exit(0)
        os.close(tell)

    def won(self) -> bool:
        self._answer = self._answer or os.read(self.told, 1)
        assert self._answer, "the rival broke down"
        return self._answer == b"1"

    def __enter__(self) -> Rival:
        return self

    def __exit__(self, *error: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.told)
        os.waitpid(self.pid, 0)


@RIVALS
@pytest.mark.parametrize("left", LEFT, ids=lambda left: left.__name__)
def test_of_two_processes_at_once_one_gets_the_lock(left: Callable[[Path], None], tmp_path: Path, tally: Tally) -> None:
    winners = []
    for _ in range(ROUNDS):
        left(tmp_path / "run.lock")
        at = time.monotonic() + 0.01
        with Rival(tmp_path, at) as one, Rival(tmp_path, at) as other:
            winners.append(one.won() + other.won())
    assert winners == [1] * ROUNDS
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    tally.add(ROUNDS)


class Interruption:
    """As a profiler: just before the n-th call into the operating system a rival comes, and is through."""

    def __init__(self, root: Path, n: int) -> None:
        self.root, self.n, self.rival = root, n, None

    def __call__(self, frame: Any, event: str, function: Any) -> None:
        if event == "c_call" and (
            function.__module__ in ("posix", "_io", "io") or hasattr(function.__self__, "fileno")
        ):
            self.n -= 1
            if self.n == 0:
                self.rival = Rival(self.root)
                self.rival.won()


@RIVALS
@pytest.mark.parametrize("left", LEFT, ids=lambda left: left.__name__)
def test_a_rival_may_come_before_any_call_and_one_of_both_gets_the_lock(
    left: Callable[[Path], None], tmp_path: Path, tally: Tally
) -> None:
    n = 0
    while True:
        n += 1
        left(tmp_path / "run.lock")
        interruption = Interruption(tmp_path, n)
        sys.setprofile(interruption)
        try:
            mine = gets_it(tmp_path)
        finally:
            sys.setprofile(None)
        if interruption.rival is None:
            break
        with interruption.rival as rival:
            holder = json.loads((tmp_path / "run.lock").read_text())["pid"]
            assert mine + rival.won() == 1, f"before call {n}"
            assert holder == (os.getpid() if mine else rival.pid), f"before call {n}"
        tally.add()
    assert n > 10
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


def test_where_there_are_no_hard_links_a_lock_is_taken_refused_and_taken_over_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    assert gets_it(tmp_path)
    assert not gets_it(tmp_path)
    of_a_dead_process(tmp_path / "run.lock")
    assert gets_it(tmp_path)
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_a_link_whose_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system that asks twice hears the second time that the file is there."""
    real = os.link

    def twice(*paths: Any) -> None:
        real(*paths)
        real(*paths)

    monkeypatch.setattr(os, "link", twice)
    assert gets_it(tmp_path)
    assert not gets_it(tmp_path)
