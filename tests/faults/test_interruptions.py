"""Trainings that are killed, stopped, frozen or read at random moments end as the ones that were left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from fault_report import ALL, LARGE, Tally, memory_folder

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(3600)]

SCRIPT = Path(__file__).parent / "scripts" / "forked.py"


@pytest.fixture
def memory() -> Iterator[Path]:
    with memory_folder() as folder:
        yield folder


def forked(folder: Path, kind: str, n: int) -> dict:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    argv = [sys.executable, str(SCRIPT), str(folder), kind, str(n), "1"]
    done = subprocess.run(argv, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def case(kind: str, few: int, many: int, row: str, words: str) -> Any:
    return pytest.param(kind, few, many, marks=pytest.mark.fault(row, f"{words}, without mpirun: same end"))


@pytest.mark.parametrize(
    ("kind", "few", "many"),
    [
        case("kill", 4, 50, "D33", "SIGKILL at a random moment, saving included; then resumed, up to 5 times in a run"),
        case("usr1", 3, 50, "B13", "SIGUSR1 at a random moment, start and saving included; then resumed"),
        case("stop", 2, 10, "A11", "SIGSTOP at a random moment, then SIGCONT"),
    ],
)
def test_interrupted_at_random_moments_a_run_equals_the_whole_one_bit_for_bit(
    kind: str, few: int, many: int, memory: Path, tally: Tally
) -> None:
    n = many if ALL else few
    found = forked(memory, kind, n)
    tally.add(n, expected=n - len(found["unexpected"]), seconds=found["seconds"], lost=found["lost"])
    assert found["unexpected"] == []
    assert found["equal"] == found["runs"]
    assert found["signals"] == n
    assert max(found["lost"], default=0) <= 100, "more than the interval of checkpoints"


@LARGE
@pytest.mark.fault("D33", "SIGKILL 20 times in one run, resumed each time, without mpirun: same end")
def test_a_run_that_is_killed_twenty_times_equals_the_whole_one_bit_for_bit(memory: Path, tally: Tally) -> None:
    found = forked(memory, "again", 20)
    tally.add(20, expected=20 - len(found["unexpected"]), seconds=found["seconds"], lost=found["lost"])
    assert found["unexpected"] == []
    assert (found["signals"], found["equal"]) == (20, 1)
    assert 0 < max(found["reached"]) < 20_000, "it got nowhere, or to its end"
    assert max(found["lost"]) <= 100, "more than the interval of checkpoints"


@pytest.mark.fault("C31", "a reader opens a log during training")
def test_a_reader_that_opens_the_logs_in_a_loop_never_meets_half_a_file(memory: Path, tally: Tally) -> None:
    found = forked(memory, "reader", 10_000 if ALL else 200)
    tally.add(found["opened"], expected=found["opened"] - len(found["failures"]))
    clock, core = (a / b for a, b in zip(found["watched_s"], found["alone_s"], strict=True))
    told = f"a training takes {clock:.2f} times as long as alone, {core:.2f} times as much of the core"
    tally.told.append(f"{told}, medians of {found['runs'] // 2}")
    assert found["failures"] == []
