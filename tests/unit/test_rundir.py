"""A run directory has one writer, and nothing in it is ever overwritten."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpi_ltcr.archive.rundir import RunDirectory, RunDirectoryError, new_name

LOCKED = pytest.mark.fault("C29", "a second job on a run directory, and locks that were left behind")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """One that this process has made and holds."""
    directory = RunDirectory(tmp_path / "run")
    directory.create("frames: 100\n", {"argv": []})
    return directory


def lock_of(directory: RunDirectory, **holder: Any) -> None:
    (directory.root / "run.lock").write_text(json.dumps(holder))


def gone_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_new_run_has_its_configuration_its_folders_and_a_lock(run: RunDirectory) -> None:
    names = sorted(path.name for path in run.root.iterdir())
    assert names == ["checkpoints", "config.yaml", "logs", "meta.json", "run.lock"]
    assert run.config.read_text() == "frames: 100\n"


@LOCKED
def test_an_existing_directory_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunDirectoryError, match="exists already"):
        RunDirectory(tmp_path / "run").create("", {})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    RunDirectory(tmp_path / "run").create("", {})
    assert (tmp_path / "run" / "config.yaml").exists()


def test_a_file_in_the_way_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunDirectoryError, match="cannot be made") as caught:
            RunDirectory(path).create("", {})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sp ace", "semi;colon", "$(true)", "ünï", "new\nline", "line\n", "x" * 129])
def test_a_bad_name_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunDirectoryError, match="is no name for a run"):
        RunDirectory(tmp_path / "a" / name).create("", {})
    assert not (tmp_path / "a").exists()


def test_generated_names_differ_and_are_good_names(tmp_path: Path) -> None:
    names = {new_name("ltcr-cartpole-9-1", 3) for _ in range(50)}
    assert len(names) == 50
    RunDirectory(tmp_path / names.pop()).create("", {})


@LOCKED
def test_the_lock_of_a_living_process_is_respected_and_its_holder_named(run: RunDirectory) -> None:
    with pytest.raises(RunDirectoryError, match=rf"process {os.getpid()} on {socket.gethostname()}.*--force-unlock"):
        RunDirectory(run.root).open()


@LOCKED
def test_the_lock_of_a_dead_process_is_taken_over(run: RunDirectory) -> None:
    lock_of(run, host=socket.gethostname(), pid=gone_pid())
    RunDirectory(run.root).open()
    assert json.loads((run.root / "run.lock").read_text())["pid"] == os.getpid()


@LOCKED
def test_the_lock_of_a_process_that_died_but_was_not_reaped_is_taken_over(run: RunDirectory) -> None:
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert zombie.stdout is not None
    zombie.stdout.read()  # it has closed its output, so it is ending
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    lock_of(run, host=socket.gethostname(), pid=zombie.pid)
    try:
        RunDirectory(run.root).open()
    finally:
        zombie.communicate()


@LOCKED
def test_the_lock_of_another_host_is_respected_and_the_host_named(run: RunDirectory) -> None:
    lock_of(run, host="node17", pid=gone_pid())
    with pytest.raises(RunDirectoryError, match="node17"):
        RunDirectory(run.root).open()


@pytest.mark.parametrize(
    ("job", "start", "taken"), [("71", "0", True), ("71", "2", True), ("71", "1", False), ("72", "0", False)]
)
def test_a_slurm_job_takes_over_the_lock_of_its_own_earlier_start_on_another_host(
    run: RunDirectory, job: str, start: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_of(run, host="node17", pid=1, job=job, start=start)
    with pytest.raises(RunDirectoryError, match="node17"):
        RunDirectory(run.root).open()
    monkeypatch.setenv("SLURM_JOB_ID", "71")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    if taken:
        RunDirectory(run.root).open()
    else:
        with pytest.raises(RunDirectoryError, match="node17"):
            RunDirectory(run.root).open()


def test_force_unlock_takes_over_whatever_the_lock_says(run: RunDirectory) -> None:
    lock_of(run, host="node17", pid=1)
    RunDirectory(run.root).open(force_unlock=True)


@LOCKED
@pytest.mark.parametrize("pid", ["7 or so", None, 10**30, [1]])
def test_a_lock_with_a_strange_process_number_is_respected(run: RunDirectory, pid: Any) -> None:
    lock_of(run, host=socket.gethostname(), pid=pid)
    with pytest.raises(RunDirectoryError, match="in use"):
        RunDirectory(run.root).open()


@LOCKED
@pytest.mark.parametrize("text", ["", "{", "[]", "\0\0"])
def test_a_lock_that_was_cut_short_is_taken_over(run: RunDirectory, text: str) -> None:
    (run.root / "run.lock").write_text(text)
    RunDirectory(run.root).open()


def test_unlocking_lets_the_next_one_in_but_never_takes_another_ones_lock(run: RunDirectory) -> None:
    run.unlock()
    assert not (run.root / "run.lock").exists()
    for host, pid in (("node17", os.getpid()), (socket.gethostname(), os.getpid() + 1)):
        lock_of(run, host=host, pid=pid)
        run.unlock()
        assert (run.root / "run.lock").exists()


def test_what_is_no_run_directory_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunDirectoryError, match="not a run directory"):
            RunDirectory(path).open()
        assert not (path / "run.lock").exists()


def test_opening_sweeps_away_what_killed_writers_left_and_nothing_else(run: RunDirectory) -> None:
    (run.logs / "agent0000.h5").write_text("log")
    (run.logs / ".agent0000.h5.4711.tmp").write_text("half a log")
    (run.root / ".status.json.4711.tmp").write_text("{")
    run.unlock()
    RunDirectory(run.root).open()
    left = {path.name for path in run.root.rglob("*") if path.is_file()}
    assert left == {"agent0000.h5", "config.yaml", "meta.json", "run.lock"}


def test_status_is_merged_and_its_heartbeat_fresh(run: RunDirectory) -> None:
    run.write_status(state="running", frames=10)
    first = run.read_status()["heartbeat"]
    run.write_status(frames=20)
    status = run.read_status()
    assert (status["state"], status["frames"]) == ("running", 20)
    assert status["heartbeat"] >= first


STRANGE = {
    "state": 7,
    "frames": "x",
    "checkpoint": None,
    "attempt": "z",
    "exit_code": True,
    "error": ["it broke"],
    "heartbeat": "soon",
}


@pytest.mark.parametrize("field", [*STRANGE, "not a number", "more than 64 bits"])
def test_a_status_with_a_field_of_another_type_is_damaged_and_says_which(run: RunDirectory, field: str) -> None:
    run.write_status(state="running", frames=10, checkpoint=10, attempt=1, exit_code=1, error="")
    sound = run.checked_status()
    values = {**STRANGE, "not a number": float("nan"), "more than 64 bits": 10**400}
    name = field if field in STRANGE else "heartbeat"
    run.status.write_text(json.dumps({**sound, name: values[field]}))
    assert run.read_status() == {}
    with pytest.raises(
        RunDirectoryError, match=rf"status.json is damaged \({name}: .* is no .*resume writes a new one"
    ):
        run.checked_status()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\ud800", "[" * 50_000])
def test_a_status_that_cannot_be_read_is_an_empty_one(run: RunDirectory, text: str) -> None:
    run.status.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert run.read_status() == {}


def test_one_failure_makes_one_report_however_many_ranks_see_it(run: RunDirectory) -> None:
    assert run.record_failure(1, "rank 1: it broke", 70)
    assert not run.record_failure(1, "rank 0: it broke here too", 70)
    assert (run.root / "crash" / "attempt1.txt").read_text() == "rank 1: it broke\n"
    status = run.read_status()
    assert (status["state"], status["exit_code"], status["error"]) == ("failed", 70, "rank 1: it broke")
