"""Who presses Ctrl-C again does not want to wait: the job ends at once, without a checkpoint, with exit code 130.

On a rank that sleeps for ever, so that nothing but the second one can end the job.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from blows import MPIS, hit, wait_for
from conftest import HERE, TINY, Started, Starter
from fault_report import LARGE

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.verification import verify_run

pytestmark = pytest.mark.mpi

SCRIPTS = Path(__file__).parent / "scripts"
TRAIN = ["train", "ltcr-cartpole-9-1", *TINY, "--env.id", "hanging:Hanging-v0"]
AGAIN_S = 1.0
"""Seconds between two presses: more than an echo of the first one takes."""
BOTH = pytest.mark.parametrize("mpi", ["mpich", pytest.param("openmpi", marks=LARGE)])

Asleep = Callable[..., Started]


@pytest.fixture
def asleep(start: Starter, tmp_path: Path) -> Asleep:
    """`asleep(ranks, words, prefix)`: a job of which rank 1 has gone to sleep after the checkpoint of frame 100."""

    def begin(ranks: int, words: list[str], prefix: Path = HERE) -> Started:
        path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        argv = ["-m", "mpi_ltcr", *words, *TRAIN, "--out", str(tmp_path / "run")]
        job = start(ranks, argv, {"HANG": "sleep:1:150", "PYTHONPATH": path}, prefix)
        assert wait_for(lambda: (tmp_path / "asleep").exists() or job.process.poll() is not None, 60)
        assert job.process.poll() is None, job.finish().err
        return job

    return begin


def press_until_it_ends(job: Started, pid: int) -> int:
    """Ctrl-C again and again; how often."""
    for times in range(1, 60):
        hit(pid, signal.SIGINT)
        if wait_for(lambda: job.process.poll() is not None, AGAIN_S):
            return times
    pytest.fail(f"it does not end: {job.finish(1).err}")


def assert_ended_without_a_checkpoint(job: Started, run: Path, times: int) -> None:
    done, status = job.finish(), json.loads((run / "status.json").read_text())
    assert times > 1, "the first one asks to stop in order"
    assert (done.rc, status["state"], status["exit_code"]) == (130, "failed", 130), done.err
    assert "Ctrl-C while stopping: ended without a checkpoint" in status["error"]
    assert checkpoint.newest_whole(run / "checkpoints")[0].name == "step_000000100"
    assert [problem for _, problem in verify_run(run) if problem] == []


@pytest.mark.fault("B14", "SIGINT, SIGINT to a rank: ended without a checkpoint, exit code 130")
@BOTH
def test_a_second_one_to_a_rank_ends_the_job_without_a_checkpoint(mpi: str, asleep: Asleep, tmp_path: Path) -> None:
    job = asleep(2, [], MPIS[mpi])
    times = press_until_it_ends(job, job.ranks()[1])
    assert_ended_without_a_checkpoint(job, tmp_path / "run", times)


@pytest.mark.fault("B14", "Ctrl-C, Ctrl-C to `launch`: ended without a checkpoint, exit code 130")
@pytest.mark.parametrize("mpi", MPIS)
def test_a_second_one_to_launch_ends_the_job_without_a_checkpoint(mpi: str, asleep: Asleep, tmp_path: Path) -> None:
    job = asleep(0, ["launch", "-n", "2", "--max-restarts", "3", "--"], MPIS[mpi])
    times = press_until_it_ends(job, job.pid)
    assert_ended_without_a_checkpoint(job, tmp_path / "run", times)
