"""A clock that jumps: no false alarm, and the same end. (Files without dates: `tests/resume/test_resume.py`.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HERE, TINY, Starter, preloadable
from fault_report import LARGE
from same_run import differences

from mpi_ltcr.archive.verification import verify_run

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

SCRIPTS = Path(__file__).parent / "scripts"
LONG = ["--frames", "8000", "--checkpoint.every", "2000", "--runtime.patience_s", "15", "--log.publish_s", "0.2"]
"""Some seconds, in which ranks look at each other's pulse and logs are published."""


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A library under which the wall clock jumps."""
    return preloadable(SCRIPTS / "clock.c", tmp_path)


JUMP = """
import time
wall, monotonic = time.time(), time.monotonic()
while time.time() > wall - 60 and time.monotonic() < monotonic + 30:
    time.sleep(0.1)
print(time.time() - wall, time.monotonic() - monotonic)
"""


def test_the_clock_of_these_tests_does_jump(clock: Path) -> None:
    env = {**os.environ, "LD_PRELOAD": str(clock), "JUMP_S": "-3600", "JUMP_AFTER_S": "3"}
    done = subprocess.run([sys.executable, "-c", JUMP], env=env, capture_output=True, text=True, check=True)
    wall, monotonic = map(float, done.stdout.split())
    assert wall - monotonic == pytest.approx(-3600, abs=2)
    assert 0 < monotonic < 30


@LARGE
@pytest.mark.fault("C28", "the clock of one rank jumps by an hour, and its time zone is another: same end")
@pytest.mark.parametrize("jump", ["-3600", "3600"])
def test_a_clock_that_jumps_raises_no_alarm_and_changes_nothing(
    jump: str, clock: Path, start: Starter, tmp_path: Path
) -> None:
    runs = [tmp_path / "whole", tmp_path / "struck"]
    train = [str(HERE / "bin" / "python"), "-m", "mpi_ltcr", "train", "ltcr-cartpole-9-1", *TINY, *LONG, "--out"]
    strange = ["env", f"LD_PRELOAD={clock}", f"JUMP_S={jump}", "JUMP_AFTER_S=3", "TZ=Pacific/Kiritimati"]
    for run, words in zip(runs, ([], strange), strict=True):
        done = start(0, ["mpirun", "-n", "1", *train, str(run), ":", "-n", "1", *words, *train, str(run)]).finish(120)
        assert done.rc == 0, done.err
        assert json.loads((run / "status.json").read_text())["state"] == "completed"
        assert [problem for _, problem in verify_run(run) if problem] == []
    assert differences(*runs) == []
    told = [json.loads((runs[1] / "heartbeat" / f"rank000{rank}.json").read_text())["time"] for rank in range(2)]
    assert told[1] - told[0] == pytest.approx(float(jump), abs=60), "it came too late to prove anything"
