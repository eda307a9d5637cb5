"""Runs of cA3C that were killed or stopped and go on. One worker: bit for bit. Several: every gradient once, T forward.

The worker of `toy_envs:Mortal-v0` ends its own process at a step; where the file `mark` exists, it does not.
"""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ca3c_helpers import TINY, TOYS, certificate, config_file, differences, saved

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import open_log
from mpi_ltcr.archive.schema import WALL_COLUMNS, WALL_TABLES
from mpi_ltcr.archive.verification import verify_run

EXACT = pytest.mark.fault("D32", "killed or preempted, and resumed: same bits (cA3C of one worker)")
ASYNCHRONOUS = pytest.mark.fault("D32", "killed and resumed, asynchronous: each push once, T never back (cA3C)")
pytestmark = [pytest.mark.mpi, pytest.mark.timeout(600)]

LIMIT = 110
"""Seconds for a job of two on an idle machine."""


def mortal(
    tmp_path: Path, at: int = 250, number: int = signal.SIGKILL, *, pause: float = 0.0, after: str = "", **task: Any
) -> dict[str, Any]:
    kwargs = {"at": at, "mark": str(tmp_path / "mark"), "signal": int(number), "pause": pause, "after": after}
    return {"name": "pole", "env": {"id": "toy_envs:Mortal-v0", "kwargs": kwargs}, **task}


def train(path: Path, out: Path) -> list[str]:
    return ["-m", "mpi_ltcr", "train", "--config", str(path), "--out", str(out)]


def resume(out: Path, *options: str) -> list[str]:
    return ["-m", "mpi_ltcr", "resume", str(out), *options]


def status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


@pytest.mark.fault("D36", "resumed with another network or game: refused, the field named (cA3C)")
def test_what_shapes_the_results_stays_as_it_was(mpirun, tmp_path):
    run = tmp_path / "run"
    assert mpirun(2, train(config_file(tmp_path, "run.yaml", frames=100), run), timeout=LIMIT).rc == 0
    whole = (run / "config.yaml").read_text()
    for field, old, new in (("agent.lstm", "lstm: 16", "lstm: 8"), ("tasks[0].rl", "rl: true", "rl: false")):
        (run / "config.yaml").write_text(whole.replace(old, new))
        done = mpirun(2, resume(run, "--frames", "200"))
        assert done.rc == 65
        values = f"{new.split()[1]} now, {old.split()[1]} when it was saved"
        assert done.err == f"mpi-ltcr: error: {field}: {values}; put it back in config.yaml, or train a new run\n"
    (run / "config.yaml").write_text(whole.replace("every: 100", "every: 50"))
    assert mpirun(2, resume(run, "--frames", "200"), timeout=LIMIT).rc == 0


def assert_sound(run: Path) -> None:
    parts = dict(verify_run(run))
    assert {name: problem for name, problem in parts.items() if problem} == {}
    assert any("/step_" in name for name in parts)
    assert any("server" in name for name in parts)


def logs_differ(one: Path, two: Path) -> list[str]:
    """Columns that tell of learning and are not the same in two logs."""
    found = []
    for name in ("episodes", "rollouts", "pushes", "returns"):
        assert name not in WALL_TABLES
        tables = [open_log(path).table(name) for path in (one, two)]
        for column in tables[0]:
            if column not in WALL_COLUMNS and not np.array_equal(
                tables[0][column], tables[1][column], equal_nan=tables[0][column].dtype.kind == "f"
            ):
                found.append(f"{name}/{column}")
    return found


def assert_equal_runs(one: Path, two: Path, rank: int) -> None:
    """Both ended at the same T with the same bits; only clocks and events tell them apart."""
    server, other = saved(one, "pole"), saved(two, "pole")
    for state in (server, other):
        state["serving"].pop("wall_s")
        state["serving"]["log_rows"].pop("events")
    assert differences(server, other) == []
    mine, others = (saved(run, "pole", f"rank{rank:04d}.h5") for run in (one, two))
    for state in (mine, others):
        state["workshop"].pop("wall_s")
    assert differences(mine, others) == []
    assert logs_differ(one / "logs" / "server0000.h5", two / "logs" / "server0000.h5") == []
    assert logs_differ(one / "logs" / f"agent{rank:04d}.h5", two / "logs" / f"agent{rank:04d}.h5") == []


@EXACT
@pytest.mark.parametrize(
    ("server", "backend", "copies", "at"),
    [("dedicated", "eager", 1, 250), ("shared", "fused", 1, 250), ("dedicated", "fused", 3, 100)],
)
def test_a_killed_run_of_one_worker_goes_on_to_the_bits_of_one_that_was_not(
    server, backend, copies, at, mpirun, tmp_path
):
    """With a certificated teacher, whose recurrent state must go on too, and an alignment network."""
    teacher = {"task": "pole", "checkpoint": str(certificate(tmp_path / "teacher")), "t1": 50, "t2": 150}
    task = mortal(tmp_path, at, teachers=[teacher])
    task["env"]["copies"] = copies
    agent = {**TINY["agent"], "backend": backend}
    path = config_file(tmp_path, "run.yaml", frames=400, tasks=[task], server=server, agent=agent)
    ranks, rank = (2, 1) if server == "dedicated" else (0, 0)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = mpirun(ranks, train(path, killed), timeout=LIMIT, env=TOYS)
    assert done.rc != 0
    before, _ = checkpoint.newest_whole(killed / "checkpoints" / "pole")
    assert 200 <= checkpoint.frames_of(before) < 250
    assert status(killed)["state"] == "running"  # nobody could write anything

    done = mpirun(ranks, resume(killed), timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err
    assert status(killed)["state"] == "completed"
    assert status(killed)["attempt"] == 2
    done = mpirun(ranks, train(path, whole), timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err
    assert_equal_runs(killed, whole, rank)
    assert saved(whole, "pole")["store"]["adams"]["align0"]["steps"] > 10
    assert_sound(killed)


@EXACT
def test_a_run_stopped_by_a_signal_is_preempted_saved_and_goes_on_to_the_same_bits(mpirun, tmp_path):
    path = config_file(tmp_path, "run.yaml", frames=300, tasks=[mortal(tmp_path, 130, signal.SIGUSR1)])
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    done = mpirun(2, train(path, stopped), timeout=LIMIT, env=TOYS)
    assert done.rc == 85, done.err
    assert done.err.count("stopped and saved; go on: mpi-ltcr resume") == 1
    told = status(stopped)
    assert (told["state"], told["exit_code"]) == ("preempted", 85)
    assert 130 <= told["frames"] == told["checkpoint"] <= 140  # the rollout at which it was
    assert saved(stopped, "pole")["server"]["frames"] == told["frames"]
    assert_sound(stopped)

    done = mpirun(2, resume(stopped), timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err
    done = mpirun(2, train(path, whole), timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err
    assert_equal_runs(stopped, whole, 1)
    assert status(stopped)["state"] == "completed"

    # a completed run has nothing more to do, and can be prolonged
    last = saved(stopped, "pole")
    done = mpirun(2, resume(stopped), timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err
    assert differences(saved(stopped, "pole")["store"], last["store"]) == []
    assert saved(stopped, "pole")["server"] == last["server"]
    assert_sound(stopped)
    done = mpirun(2, resume(stopped, "--frames", "350"), timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err
    assert 350 <= saved(stopped, "pole")["server"]["frames"] < 360
    pushes = open_log(stopped / "logs" / "server0000.h5").table("pushes")
    assert pushes["frames"].tolist() == np.cumsum(pushes["steps"]).tolist()
    events = open_log(stopped / "logs" / "server0000.h5").table("events")["text"].tolist()
    assert [event.split(" begins")[0] for event in events] == [f"attempt {number}" for number in (1, 2, 3, 4)]


@ASYNCHRONOUS
def test_two_workers_that_were_killed_go_on_with_each_push_once_and_t_forward(mpirun, tmp_path):
    run = tmp_path / "run"
    task = mortal(tmp_path, 160, pause=0.01, after=f"{run}/checkpoints/pole/step_*/manifest.json")
    path = config_file(tmp_path, "run.yaml", frames=500, workers=2, tasks=[task])
    done = mpirun(3, train(path, run), timeout=LIMIT, env=TOYS)
    assert done.rc != 0
    before = saved(run, "pole")
    assert before["server"]["frames"] >= 100
    done = mpirun(3, resume(run), timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err

    after, pushes = saved(run, "pole"), open_log(run / "logs" / "server0000.h5").table("pushes")
    rows = before["serving"]["log_rows"]["pushes"]
    assert pushes["frames"][rows - 1] == before["server"]["frames"]
    assert pushes["frames"].tolist() == np.cumsum(pushes["steps"]).tolist()  # forward, from the checkpoint's T
    assert pushes["updates"].tolist() == list(range(1, len(pushes["updates"]) + 1))
    assert after["server"] == {"frames": pushes["frames"][-1], "version": len(pushes["updates"])}
    assert after["store"]["adams"]["rl"]["steps"] == len(pushes["updates"])
    assert 500 <= after["server"]["frames"] < 500 + 2 * 10
    assert set(pushes["worker"][rows:]) == {1, 2}
    assert (pushes["staleness"] >= 0).all()
    assert max(pushes["staleness"]) >= 1
    assert_sound(run)


@ASYNCHRONOUS
def test_a_collaborative_pair_that_was_killed_goes_on_each_task_from_its_own_checkpoint(mpirun, tmp_path):
    """Shared servers, so that a rank that serves also waits for another server; then the verbs that look at a run."""
    student = mortal(tmp_path, 170, name="student", teachers=[{"task": "pole", "t1": 60, "t2": 120}])
    tasks = [{"name": "pole", "env": {"id": "mpi_ltcr/CartPole15-v0"}}, student]
    path = config_file(tmp_path, "run.yaml", frames=300, tasks=tasks, server="shared")
    run = tmp_path / "run"
    done = mpirun(2, train(path, run), timeout=LIMIT, env=TOYS)
    assert done.rc != 0
    before = {task: saved(run, task)["server"]["frames"] for task in ("pole", "student")}
    assert 100 <= before["student"] < 170
    done = mpirun(2, resume(run), timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err
    for number, task in enumerate(("pole", "student")):
        state = saved(run, task)
        table = open_log(run / "logs" / f"server{number:04d}.h5").table("pushes")
        assert 300 <= state["server"]["frames"] == table["frames"][-1]
        assert table["frames"].tolist() == np.cumsum(table["steps"]).tolist()
        events = open_log(run / "logs" / f"server{number:04d}.h5").table("events")["text"].tolist()
        assert events[-1] == f"attempt 2 begins at T = {before[task]}"
    adams = saved(run, "student")["store"]["adams"]
    assert adams["rl"]["steps"] > adams["align0"]["steps"] > adams["distill"]["steps"] > 5
    assert_sound(run)
    _look_at(run, mpirun)


def _look_at(run: Path, mpirun: Any) -> None:
    """verify, status and eval know such runs."""
    done = mpirun(0, ["-m", "mpi_ltcr", "verify", str(run)], timeout=LIMIT)
    assert done.rc == 0, done.out
    for part in ("checkpoints/pole/step_", "checkpoints/student/step_", "logs/server0001.h5", "logs/agent0001.h5"):
        assert re.search(f"ok +{part}", done.out), done.out
    done = mpirun(0, ["-m", "mpi_ltcr", "status", str(run)], timeout=LIMIT)
    assert "completed, attempt 2" in done.out
    for task in ("pole", "student"):
        assert f"{task}: T = {saved(run, task)['server']['frames']}, " in done.out
    for number, task in enumerate(("pole", "student")):
        argv = ["-m", "mpi_ltcr", "eval", str(run), "--agent", str(number), "--episodes", "3"]
        done = mpirun(0, argv, timeout=LIMIT, env=TOYS)
        assert done.rc == 0, done.err
        assert re.search(rf"{task} at step_\d+: mean return \d+\.\d+, sd \d+\.\d+, 3 episodes", done.out)
    done = mpirun(0, ["-m", "mpi_ltcr", "eval", str(run), "--agent", "2"], timeout=LIMIT)
    assert done.rc == 2
    assert "--agent: 2 is not among these 2 tasks" in done.err

    damaged = checkpoint.newest_whole(run / "checkpoints" / "student")[0] / "server.h5"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    (run / "logs" / "server0001.h5").write_bytes(b"not HDF5")
    done = mpirun(0, ["-m", "mpi_ltcr", "verify", str(run)], timeout=LIMIT)
    assert done.rc == 65
    faults = [line for line in done.out.splitlines() if line.startswith("FAULT")]
    assert [line.split(":")[0].split("/")[-1] for line in faults] == [damaged.parent.name, "server0001.h5"]
    assert "sha256 differs" in faults[0]


def test_a_signal_to_mpirun_stops_all_tasks_and_ranks(start, tmp_path):
    """SIGUSR1 while both tasks train; all servers and workers leave together, everything is saved."""
    tasks = [{"name": name, "env": {"id": "mpi_ltcr/CartPole15-v0"}} for name in ("one", "two")]
    path = config_file(tmp_path, "run.yaml", frames=10**7, tasks=tasks, server="shared", checkpoint={"every": 200})
    run = tmp_path / "run"
    job = start(2, train(path, run), env=TOYS)
    deadline = time.monotonic() + LIMIT
    while len(list(run.glob("checkpoints/*/step_*/manifest.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    job.signal(signal.SIGUSR1)
    done = job.finish(LIMIT)
    assert done.rc == 85, done.err
    assert status(run)["state"] == "preempted"
    for task in ("one", "two"):
        folder, refused = checkpoint.newest_whole(run / "checkpoints" / task)
        assert refused == []
        assert checkpoint.frames_of(folder) == saved(run, task)["server"]["frames"]
    assert list(run.glob("checkpoints/*/.step_*")) == []
    assert_sound(run)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_resumed_and_says_why(mpirun, tmp_path):
    path = config_file(tmp_path, "run.yaml", frames=60, server="shared", checkpoint={"every": 1000})
    run = tmp_path / "run"
    assert mpirun(0, train(path, run), timeout=LIMIT).rc == 0
    (file,) = run.glob("checkpoints/pole/step_*/server.h5")
    file.write_bytes(file.read_bytes()[:-7])
    done = mpirun(0, resume(run), timeout=LIMIT)
    assert done.rc == 65
    assert "no whole checkpoint" in done.err
    assert "server.h5 has" in done.err
    assert "Traceback" not in done.err


@pytest.mark.fault("C26", "damaged and missing logs of a server and of a worker (cA3C)")
def test_logs_of_servers_and_workers_are_refused_if_damaged_and_begun_anew_if_gone(mpirun, tmp_path):
    path = config_file(tmp_path, "run.yaml", frames=60, checkpoint={"every": 1000})
    run = tmp_path / "run"
    assert mpirun(2, train(path, run), timeout=LIMIT).rc == 0
    first = saved(run, "pole")["server"]["frames"]
    logs = [run / "logs" / name for name in ("agent0001.h5", "server0000.h5")]
    for log in logs:
        whole = log.read_bytes()
        log.write_bytes(whole[:-1] + b"?")
        done = mpirun(2, resume(run, "--frames", "100"), timeout=LIMIT)
        assert done.rc == 65
        assert [f"mpi-ltcr: error: {log} was changed" in line for line in done.err.splitlines()] == [True]
        log.write_bytes(whole)
    for log in logs:
        log.unlink()
    for frames in ("100", "140"):
        done = mpirun(2, resume(run, "--frames", frames), timeout=LIMIT)
        assert done.rc == 0, done.err
        told = sorted(line for line in done.err.splitlines() if "warning" in line)
        missing = [f"mpi-ltcr: warning: {log} is missing; goes on with a new log" for log in logs]
        assert told == (missing if frames == "100" else [])
        assert_sound(run)
    for log in logs:
        events = open_log(log).table("events")
        assert events["text"][0] == f"{log} is missing; goes on with a new log"
        assert events["frames"][0] == first
    pushes = open_log(logs[1]).table("pushes")
    assert pushes["frames"].tolist() == (first + np.cumsum(pushes["steps"])).tolist()
    assert saved(run, "pole")["serving"]["log_rows"]["pushes"] > len(pushes["frames"])
