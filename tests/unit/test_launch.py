"""`launch` finds the right mpirun, hands signals on, believes status.json alone, and goes on after crashes.

Here mpirun is a script that writes what a job would have written; `tests/mpi/test_launch_job.py` has real ones.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.comm import mpirun
from mpi_ltcr.config import ConfigError
from mpi_ltcr.verbs.launch import STOPPING, Supervisor, known_job

TEAM = ["train", "ltcr-cartpole-9-1"]

JOB = """
import json, os, pathlib, signal, sys, time
run, script = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
told, hurried = [], []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
signal.signal(signal.SIGINT, lambda *_: hurried.append(1))
calls = run / "calls"
number = len(calls.read_text().splitlines()) if calls.exists() else 0
with open(calls, "a") as file:
    file.write(json.dumps(sys.argv[3:]) + "\\n")
with open(run / "sessions", "a") as file:
    session = os.environ["PRTE_MCA_prte_local_tmpdir_base"]
    file.write(f"{session} {os.path.isdir(session)}\\n")
step = script[min(number, len(script) - 1)]
if step.get("wait"):
    (run / "ready").write_text("")
    end = time.monotonic() + 20
    while not (hurried if step["wait"] == "INT" else told) and time.monotonic() < end:
        time.sleep(0.01)
if "status" in step:
    (run / "status.json").write_text(json.dumps({"attempt": number + 1, **step["status"]}))
sys.exit(step.get("rc", 0))
"""

DONE = {"status": {"state": "completed", "exit_code": 0}}
CRASHED = {"status": {"state": "failed", "exit_code": 70, "checkpoint": 100, "error": "LookupError"}, "rc": 70}
KILLED = {"status": {"state": "running", "exit_code": 1, "checkpoint": 200}, "rc": 0}
FULL = {"status": {"state": "failed", "exit_code": 74, "checkpoint": 100}, "rc": 74}
STOPPED = {"status": {"state": "preempted", "exit_code": 85, "checkpoint": 100}, "rc": 0, "wait": True}


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Supervisor]:
    """`job.script = [...]`: how each attempt goes."""
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    (tmp_path / "mpirun.py").write_text(JOB)
    yield Supervisor([], {}, tmp_path)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(job: Supervisor, script: list[dict], restarts: int = 0) -> tuple[int, list[list[str]]]:
    """The exit code, and the command of each attempt."""
    root = job.run.root
    job.words = [sys.executable, str(root / "mpirun.py"), str(root), json.dumps(script)]
    code = job.see_through(TEAM, ["resume", "it"], restarts)
    return code, [json.loads(line) for line in (root / "calls").read_text().splitlines()]


@pytest.mark.parametrize(
    ("script", "restarts", "code", "attempts"),
    [
        ([DONE], 3, 0, 1),
        ([CRASHED, DONE], 3, 0, 2),
        ([KILLED, CRASHED, DONE], 2, 0, 3),
        ([CRASHED], 2, 70, 3),
        ([KILLED], 0, 75, 1),
        ([FULL, DONE], 3, 74, 1),
        ([{"rc": 2}, DONE], 3, 2, 1),
        ([{"rc": 77}, DONE], 3, 77, 1),
        ([{"rc": 0}, DONE], 3, 75, 1),
    ],
)
def test_it_goes_on_after_crashes_alone_and_believes_the_record(
    script: list[dict], restarts: int, code: int, attempts: int, job: Supervisor
) -> None:
    ended, commands = run(job, script, restarts)
    assert ended == code
    assert commands == [TEAM, *[["resume", "it"]] * (attempts - 1)]


def test_what_crashed_before_it_began_is_given_once_more_as_it_was(job: Supervisor) -> None:
    """A team that was to change has perhaps not changed."""
    early = {"status": {**CRASHED["status"], "attempt": 0}, "rc": 70}
    assert run(job, [early, CRASHED, DONE], restarts=2) == (0, [TEAM, TEAM, ["resume", "it"]])


def test_each_attempt_has_a_folder_of_its_own_for_the_session_of_its_mpirun(job: Supervisor) -> None:
    run(job, [CRASHED, DONE], restarts=1)
    told = [line.split() for line in (job.run.root / "sessions").read_text().splitlines()]
    assert [there for _, there in told] == ["True", "True"]
    assert len({folder for folder, _ in told}) == 2
    assert not any(Path(folder).exists() for folder, _ in told)


def test_a_job_that_was_killed_without_a_word_is_written_down_as_lost(job: Supervisor) -> None:
    run(job, [KILLED])
    status = RunDirectory(job.run.root).read_status()
    assert (status["state"], status["exit_code"], status["checkpoint"]) == ("failed", 75, 200)


@pytest.mark.parametrize("number", STOPPING)
def test_every_signal_becomes_the_one_that_both_launchers_forward_and_nothing_is_restarted(
    number: signal.Signals, job: Supervisor
) -> None:
    def send() -> None:
        while not (job.run.root / "ready").exists():
            pass
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()
    ended, commands = run(job, [STOPPED, DONE], restarts=3)
    assert (ended, len(commands)) == (85, 1)


@pytest.mark.parametrize(
    ("step", "state"), [({**KILLED, "rc": 1, "wait": "INT"}, "failed"), ({"rc": 1, "wait": "INT"}, None)]
)
def test_a_second_ctrl_c_ends_the_job_with_the_exit_code_of_shells(
    step: dict, state: str | None, job: Supervisor
) -> None:
    def send() -> None:
        while not (job.run.root / "ready").exists():
            pass
        os.kill(os.getpid(), signal.SIGINT)
        while not job.stopping:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()
    ended, commands = run(job, [step, DONE], restarts=3)
    assert (ended, len(commands)) == (130, 1)
    assert job.run.read_status().get("state") == state


def test_the_run_directory_is_known_before_the_job_starts() -> None:
    run, first, again = known_job(TEAM, 2)
    assert run.parent == Path("runs")
    assert run.name.startswith("ltcr-cartpole-9-1-s1-")
    assert (first, again) == ([*TEAM, "--out", str(run)], ["resume", str(run)])
    mine = [*TEAM, "--out", "runs/mine"]
    assert known_job(mine, 2) == (Path("runs/mine"), mine, ["resume", "runs/mine"])
    with pytest.raises(ConfigError, match="needs teammates, 1 rank started"):
        known_job(TEAM, 1)


def test_a_run_that_goes_on_keeps_its_new_length_after_a_crash_and_changes_its_team_once(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    command = ["resume", "--agents", "3", "--keep", "0,2", str(tmp_path), "--frames", "900"]
    assert known_job(command, 3) == (tmp_path, command, ["resume", str(tmp_path), "--frames", "900"])
    with pytest.raises(ConfigError, match=r"3: not a run directory"):
        known_job(["resume", "3"], 3)


@pytest.mark.parametrize(
    ("told", "family"),
    [
        ("mpirun (Open MPI) 5.0.11", mpirun.OPEN_MPI),
        ("Open MPI v4.1.4, package: Debian OpenMPI", mpirun.OPEN_MPI),
        ("HYDRA build details:\n    Version: 5.0.2", mpirun.MPICH),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.9", mpirun.MPICH),
        ("busybox", ""),
    ],
)
def test_whose_a_launcher_is_is_read_from_what_it_says(told: str, family: str) -> None:
    assert mpirun.family_of(told) == family


def test_the_mpirun_of_the_library_in_use_is_found_although_another_comes_first_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "Open MPI" if mpirun.library_family() == mpirun.MPICH else "HYDRA"
    (tmp_path / "mpirun").write_text(f"#!/bin/sh\necho {other}\n")
    (tmp_path / "mpirun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = mpirun.find()
    assert found is not None
    assert found.family == mpirun.library_family()
    assert mpirun.look_at(tmp_path / "mpirun").family not in ("", found.family)


def test_flags_are_given_only_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpirun, "cores", lambda: 2)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    hydra, prte = (mpirun.Launcher(Path("mpirun"), family) for family in (mpirun.MPICH, mpirun.OPEN_MPI))
    assert (mpirun.options(hydra, 9), mpirun.variables(hydra)) == (["-n", "9"], {})
    assert mpirun.options(prte, 2) == ["-n", "2"]
    assert mpirun.options(prte, 3) == ["-n", "3", "--oversubscribe"]
    assert len(mpirun.variables(prte)) == 2
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert mpirun.variables(prte) == {}
