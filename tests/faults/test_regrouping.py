"""A job that is to change its team and is cut off: the old team or the new one goes on, by a plain `resume` on as many
ranks as it has, and by the same command once more. `test_crash_points.py` cuts it off everywhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import TINY, Finished, Runner
from fault_report import Tally
from same_run import contents

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import read_logs
from mpi_ltcr.archive.regroup import kept_folder
from mpi_ltcr.archive.verification import verify_run

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(600)]

SCRIPTS = Path(__file__).parent / "scripts"
UNLIKE = "[{}, {hidden: [8]}, {hidden: [12]}]"
SETTINGS = {2: [{"hidden": [12]}, {}], 3: [{}, {"hidden": [8]}, {"hidden": [12]}]}
CHANGE = ["--agents", "2", "--keep", "2,0"]

Job = Callable[..., Finished]


@pytest.fixture
def job(mpirun: Runner, tmp_path: Path) -> Job:
    """`job(ranks, verb, *argv, fault="none:step:0:0")`."""

    def run(ranks: int, *argv: str, fault: str = "none:step:0:0") -> Finished:
        path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = {"FAULT": fault, "FAULT_FOLDER": str(tmp_path), "PYTHONPATH": path}
        return mpirun(ranks, ["-m", "mpi_ltcr", *argv], timeout=200, env=variables)

    return run


@pytest.fixture
def run(job: Job, tmp_path: Path) -> Path:
    """Three unlike agents at frame 200."""
    team = ["--env.id", "faulty:Faulty-v0", "--agents", UNLIKE, "--frames", "200"]
    done = job(3, "train", "ltcr-cartpole-9-1", *TINY, *team, "--out", str(tmp_path / "run"))
    assert done.rc == 0, done.err
    return tmp_path / "run"


def assert_goes_on(done: Finished, run: Path, size: int) -> None:
    """To frame 300, as a team of so many; the logs of all who have ever been there are there."""
    assert done.rc == 0, done.err
    folder, refused = checkpoint.newest_whole(run / "checkpoints")
    assert (folder.name, refused) == ("step_000000300", [])
    assert checkpoint.read_manifest(folder)["world_size"] == size
    assert yaml.safe_load((run / "config.yaml").read_text())["agents"] == SETTINGS[size]
    logs = read_logs(run)
    assert [log.agent for log in logs] == list(range(size))
    for log in logs:
        frames = log.table("train")["frames"].tolist()
        assert frames == sorted(set(frames))
        assert (frames[0], frames[-1]) == (frames[0], 300)
    assert len(read_logs(run if size == 3 else kept_folder(run, 200, 3))) == 3
    assert [problem for _, problem in verify_run(run) if problem] == []


@pytest.mark.parametrize(
    ("place", "size"),
    [
        pytest.param("commit:0:1", 3, marks=pytest.mark.fault("C22", "SIGKILL before a new team is committed")),
        pytest.param("settle:0:2", 2, marks=pytest.mark.fault("C22", "SIGKILL as soon as a new team is committed")),
    ],
)
def test_killed_on_either_side_of_the_commit_a_team_goes_on_and_the_same_command_can_be_given_again(
    place: str, size: int, job: Job, run: Path, tmp_path: Path, tally: Tally
) -> None:
    before = {name: text for name, text in contents(run).items() if name.startswith(("logs", "config"))}
    assert job(2, "resume", str(run), *CHANGE, fault=f"kill:{place}").rc != 0
    assert before.items() <= contents(run).items(), "logs and configuration are changed before the commit"
    again = tmp_path / "again"
    shutil.copytree(run, again)
    assert_goes_on(job(size, "resume", str(run), "--frames", "300"), run, size)
    assert_goes_on(job(2, "resume", str(again), *CHANGE, "--frames", "300"), again, 2)
    tally.add()


def test_under_launch_a_team_that_crashed_while_it_changed_goes_on_by_itself(job: Job, run: Path) -> None:
    front = ["launch", "-n", "2", "--max-restarts", "1", "--"]
    done = job(0, *front, "resume", str(run), *CHANGE, "--frames", "300", fault="raise:settle:0:2")
    assert_goes_on(done, run, 2)
    assert "ended with exit code 70 (LookupError: the injected fault); goes on from frame 200" in done.err


@pytest.mark.fault("C24", "EIO from the commit of a new team: exit code 74, the old one in force")
def test_a_new_team_that_cannot_be_saved_leaves_the_old_one_in_force(job: Job, run: Path, tally: Tally) -> None:
    before = {name: text for name, text in contents(run).items() if not name.startswith("heartbeat")}
    done = job(2, "resume", str(run), *CHANGE, fault="eio:commit:0:1")
    assert done.rc == 74
    (line,) = [text for text in done.err.splitlines() if "mpi-ltcr: error: " in text]
    assert "the new team was not saved (OSError: [Errno 5]" in line
    assert "Traceback" not in done.err
    assert before.items() <= contents(run).items()
    assert not (run / "run.lock").exists()
    assert_goes_on(job(3, "resume", str(run), "--frames", "300"), run, 3)
    tally.add()
