"""Whole jobs of cA3C: tasks that end at different times, teachers of each other, ranks that stop to answer."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ca3c_helpers import POLE, POLE3, TOYS, config_file, saved

from mpi_ltcr.archive.reader import open_log
from mpi_ltcr.archive.verification import verify_run

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

LIMIT = 110


def mortal(**kwargs: Any) -> dict[str, Any]:
    return {"id": "toy_envs:Mortal-v0", "kwargs": kwargs}


def train(tmp_path: Path, **changed: Any) -> list[str]:
    path = config_file(tmp_path, "run.yaml", **changed)
    return ["-m", "mpi_ltcr", "train", "--config", str(path), "--out", str(tmp_path / "run")]


def log(run: Path, name: str) -> Any:
    return open_log(run / "logs" / name)


@pytest.mark.parametrize("server", ["dedicated", "shared"])
@pytest.mark.parametrize("slow", ["the student", "the teacher"])
def test_a_task_that_ends_long_before_another_one_does_not_end_or_hold_up_the_other(slow, server, mpirun, tmp_path):
    """A teacher that has ended goes on teaching; one that still learns does not wait for its student to come back."""
    pause = {"the student": (0.0, 0.04), "the teacher": (0.04, 0.0)}[slow]
    tasks = [
        {"name": "teacher", "env": mortal(pause=pause[0])},
        {"name": "student", "env": mortal(pause=pause[1]), "teachers": [{"task": "teacher"}]},
    ]
    argv = train(tmp_path, frames=120, tasks=tasks, server=server, checkpoint={"every": 50})
    done = mpirun(4 if server == "dedicated" else 2, argv, timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err
    run, student = tmp_path / "run", 3 if server == "dedicated" else 1
    ends = []
    for number, task in enumerate(("teacher", "student")):
        pushes = log(run, f"server{number:04d}.h5").table("pushes")
        assert 120 <= saved(run, task)["server"]["frames"] == pushes["frames"][-1] < 130
        ends.append(pushes["wall_s"][-1])
    assert (ends[0] < ends[1]) if slow == "the student" else (ends[1] < ends[0])
    rollouts = log(run, f"agent{student:04d}.h5").table("rollouts")
    assert np.isfinite(rollouts["align_loss"]).all()
    assert np.isfinite(rollouts["distill_loss"]).all()
    assert [problem for _, problem in verify_run(run) if problem] == []
    assert json.loads((run / "status.json").read_text())["state"] == "completed"


def test_two_tasks_of_unlike_actions_teach_each_other_on_two_ranks_that_serve_and_work(mpirun, tmp_path):
    """Each rank must serve the other while it waits for it, or both would wait for ever."""
    tasks = [{**POLE, "teachers": [{"task": "pole3"}]}, {**POLE3, "teachers": [{"task": "pole", "t1": 20, "t2": 20}]}]
    argv = train(tmp_path, frames=150, tasks=tasks, server="shared")
    done = mpirun(2, argv, timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err
    for task in ("pole", "pole3"):
        adams = saved(tmp_path / "run", task)["store"]["adams"]
        assert adams["align0"]["steps"] == adams["distill"]["steps"] > 5
        assert f"mpi-ltcr: {task}: completed: 15" in done.err  # the server of each task tells of it


def test_students_without_rl_learn_from_a_teacher_that_learns_beside_them(mpirun, tmp_path):
    """CDRL Fig. 3a: distillation only, into the policy layer."""
    given = {"task": "pole", "layer": "policy", "align": "identity"}
    tasks = [POLE, {**POLE, "name": "student", "rl": False, "teachers": [given]}]
    done = mpirun(4, train(tmp_path, frames=100, tasks=tasks), timeout=LIMIT)
    assert done.rc == 0, done.err
    adams = {task: saved(tmp_path / "run", task)["store"]["adams"] for task in ("pole", "student")}
    version = saved(tmp_path / "run", "student")["server"]["version"]
    assert {kind: adam["steps"] for kind, adam in adams["student"].items()} == {"rl": 0, "distill": version}
    assert adams["pole"]["distill"]["steps"] == 0
    rollouts = log(tmp_path / "run", "agent0003.h5").table("rollouts")
    assert np.isnan(rollouts["policy_loss"]).all()
    assert np.isfinite(rollouts["distill_loss"]).all()


@pytest.mark.parametrize(("who", "told"), [(signal.SIGSTOP, "has not been heard of"), (signal.SIGKILL, "")])
def test_a_worker_that_falls_silent_or_dies_ends_the_job_and_the_status_never_says_completed(
    who, told, mpirun, tmp_path
):
    env = mortal(at=60, mark=str(tmp_path / "mark"), signal=int(who), pause=0.03)  # found in a rollout, not asking
    task = {"name": "pole", "env": env}
    argv = train(tmp_path, frames=5000, tasks=[task], runtime={"patience_s": 4.0 if told else 60.0})
    done = mpirun(2, argv, timeout=LIMIT, env=TOYS)
    assert done.rc != 0
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert told in done.err
    if told:
        assert done.err.count("the job ends here") == 1
        assert (status["state"], status["exit_code"]) == ("failed", 75)
        assert status["error"].startswith("rank 1 holds the job up: rank 1 is in phase rollout, no progress for ")
    else:
        assert status["state"] == "running"


def test_the_log_tells_waiting_work_and_bytes_of_each_rollout(mpirun, tmp_path):
    (tmp_path / "meet").mkdir()
    tasks = [{"name": "pole", "env": mortal(meet=str(tmp_path / "meet"))}]  # each ends an episode, however late it is
    done = mpirun(3, train(tmp_path, frames=150, tasks=tasks, workers=2), timeout=LIMIT, env=TOYS)
    assert done.rc == 0, done.err
    store = saved(tmp_path / "run", "pole")["store"]
    size = 4 * store["network"]
    steps = 0
    for rank in (1, 2):
        mine = log(tmp_path / "run", f"agent{rank:04d}.h5")
        rollouts, episodes = mine.table("rollouts"), mine.table("episodes")
        assert set(rollouts["bytes_received"]) == {40 + size}
        ended = np.isin(rollouts["updates"], episodes["updates"])  # a return of 8 bytes goes with those
        assert (rollouts["bytes_sent"] == 40 + size + 8 * ended).all()
        assert ended.any()
        assert (rollouts["wait_s"] > 0).all()
        assert (rollouts["work_s"] > 0).all()
        assert ((rollouts["steps"] >= 1) & (rollouts["steps"] <= 10)).all()
        steps += rollouts["steps"].sum()
    pushes = log(tmp_path / "run", "server0000.h5").table("pushes")
    assert set(pushes["bytes"]) == {40 + size, 48 + size}
    assert steps == pushes["frames"][-1] == pushes["steps"].sum()
