"""Trainings that are killed, stopped, frozen or read at random moments end as the ones that were left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from reporting import ALL, memory_folder, note

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


FAULTS = {
    "kill": ("D33", "SIGKILL at a random moment, start and saving included; then resumed"),
    "usr1": ("B13", "SIGUSR1 at a random moment, start and saving included; then resumed"),
    "stop": ("A11", "SIGSTOP at a random moment, then SIGCONT"),
}


@pytest.mark.parametrize(("kind", "few", "many"), [("kill", 4, 50), ("usr1", 3, 50), ("stop", 2, 10)])
def test_interrupted_at_random_moments_a_run_equals_the_whole_one_bit_for_bit(
    kind: str, few: int, many: int, memory: Path
) -> None:
    n = many if ALL else few
    found = forked(memory, kind, n)
    assert found["unexpected"] == []
    assert found["equal"] == found["runs"]
    assert found["signals"] == n
    assert max(found["lost"], default=0) <= 100, "more than the interval of checkpoints"
    row, fault = FAULTS[kind]
    note(row, f"{fault}: same end", n, n, seconds=found["seconds"], lost=found["lost"])


def test_a_reader_that_opens_the_logs_in_a_loop_never_meets_half_a_file(memory: Path) -> None:
    found = forked(memory, "reader", 10_000 if ALL else 200)
    assert found["failures"] == []
    note("C31", "a reader opens a log during training", found["opened"], found["opened"])
