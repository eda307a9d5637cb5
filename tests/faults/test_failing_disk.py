"""A disk that is too small, gets full or read-only, or a run directory that is deleted, while a job trains on it.

On a small file system in memory, mounted in a namespace of its own; skipped, and why is said, where that needs more
rights than there are. `test_crash_points.py` lets single calls fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LAUNCHER_VARIABLES, ROOT
from fault_report import LARGE, Tally

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parent / "scripts" / "failing_disk.py"
UNSHARE = ["unshare", "--mount"]


@pytest.fixture
def job_on(tmp_path: Path, tally: Tally) -> Callable[[str], dict]:
    """`job_on("full")`: what became of a job whose disk has this fault."""

    def run(fault: str) -> dict:
        try:
            mount = [*UNSHARE, "mount", "-t", "tmpfs", "none", str(tmp_path)]
            able = subprocess.run(mount, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"no mounts here: {error}")
        if able.returncode:
            pytest.skip(f"no mounts here: {able.stderr.strip()}")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
        env = {**clean, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        argv = [*UNSHARE, sys.executable, str(SCRIPT), str(tmp_path), fault]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        tally.add(seconds=[found["seconds"]] if fault != "small" else [])
        return found

    return run


def error_line(found: dict) -> str:
    """What the one error line says; no traceback beside it."""
    assert found["code"] == 74, found
    lines = [line for line in found["error"].splitlines() if "mpi-ltcr: error: " in line]
    assert len(lines) == 1, found["error"]
    assert "Traceback" not in found["error"]
    return lines[0]


@pytest.mark.fault("C23", "too small a disk at the start: refused, nothing written")
def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(job_on):
    found = job_on("small")
    assert "out: the run needs " in error_line(found)
    assert found["left"] == []


@pytest.mark.fault("C23", "the disk gets full: three checkpoints are tried, exit code 74; resumed when there is room")
def test_a_disk_that_gets_full_ends_the_job_in_order_and_with_room_it_goes_on(job_on):
    found = job_on("full")
    assert "3 checkpoints in a row failed" in error_line(found)
    assert found["problems"] == []
    assert found["resumed"][:2] == [0, "completed"], found["resumed"]


@LARGE
@pytest.mark.fault("C30", "the run directory gets read-only: three checkpoints are tried, exit code 74; resumed later")
def test_a_run_directory_that_gets_read_only_ends_the_job_in_order_and_later_it_goes_on(job_on):
    found = job_on("read-only")
    assert "Read-only file system" in error_line(found)
    assert found["problems"] == []
    assert found["resumed"][:2] == [0, "completed"], found["resumed"]


@pytest.mark.fault("C30", "the run directory is deleted: exit code 74, the directory is named")
def test_a_run_directory_that_is_deleted_ends_the_job_in_order_and_is_named(job_on):
    found = job_on("deleted")
    assert "/run: FileNotFoundError" in error_line(found)
