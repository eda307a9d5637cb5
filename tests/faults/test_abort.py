"""Whatever goes wrong on one rank ends the whole job, soon and with one report, under either MPI library.

The faults come in with an environment of the user's (`scripts/faulty.py`), so that the job itself is launched as a user
launches it: by `mpirun mpi-ltcr` and by `mpirun python -m mpi_ltcr`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from conftest import HERE, ROOT, TINY, Finished
from fault_report import ALL, LARGE

from mpi_ltcr.archive.reader import read_logs
from mpi_ltcr.archive.schema import TABLES
from mpi_ltcr.archive.verification import verify_run

pytestmark = pytest.mark.mpi

SCRIPTS = Path(__file__).parent / "scripts"
PRESET = "ltcr-cartpole-9-1"
CONSOLE, MODULE = ["mpi-ltcr"], ["-m", "mpi_ltcr"]
TRACEBACK = "Traceback (most recent call last)"
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
BOTH = pytest.mark.parametrize("mpi", ["mpich", pytest.param("openmpi", marks=LARGE)], indirect=True)
SOON = 5.0
"""Seconds from a fault to the end of the job."""


class Outcome(NamedTuple):
    """How a job with a fault in it ended."""

    done: Finished
    run: Path
    after: float
    """Seconds between the fault and the end of the job."""

    @property
    def phase(self) -> str:
        """The one that the report names."""
        return re.findall(r", phase (\w+): the job ends here", self.done.err)[0]

    @property
    def status(self) -> dict:
        return json.loads((self.run / "status.json").read_text())


@pytest.fixture(scope="session")
def openmpi() -> Path:
    """An environment like ours, but with Open MPI."""
    subprocess.run(["bash", str(ROOT / "tests" / "openmpi_venv.sh")], check=True)
    return ROOT / ".venv-openmpi"


@pytest.fixture(params=["mpich", "openmpi"])
def mpi(request) -> Path:
    """Prefix of an environment with this MPI library."""
    return HERE if request.param == "mpich" else request.getfixturevalue("openmpi")


@pytest.fixture
def fault(start, mpi, tally, tmp_path) -> Callable[..., Outcome]:
    """`fault("raise:digest:1:3", *overrides, way=CONSOLE)`: train with that fault, and see that nobody survives it."""

    def run(what: str, *overrides: str, ranks: int = 2, way: list[str] = MODULE) -> Outcome:
        mark, out = uuid.uuid4().hex, tmp_path / "run"
        path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        variables = {"FAULT": what, "FAULT_FOLDER": str(tmp_path), "FAULT_MARK": mark, "PYTHONPATH": path}
        argv = [*way, "train", PRESET, *TINY, "--env.id", "faulty:Faulty-v0", "--out", str(out), *overrides]
        done = start(ranks, argv, variables, mpi).finish(timeout=60)
        ended = time.time()
        struck = [float(file.read_text()) for file in tmp_path.glob("struck-*")]
        orphans, after = survivors(mark), ended - min(struck, default=ended)
        tally.add(seconds=[after], orphans=len(orphans))
        assert orphans == []
        return Outcome(done, out, after)

    return run


def survivors(mark: str) -> list[str]:
    """Processes with this mark in their environment that are still there after three seconds."""
    deadline = time.monotonic() + 3
    while found := list(filter(None, (marked(p, mark) for p in Path("/proc").glob("[0-9]*")))):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return found


def marked(process: Path, mark: str) -> str:
    try:
        return process.name if mark.encode() in (process / "environ").read_bytes() else ""
    except OSError:
        return ""


def assert_one_report(outcome: Outcome, rank: int, phase: str) -> None:
    """The job ended soon, failed, and one rank told why; what it had written is whole."""
    done, heads = outcome.done, re.findall(r"mpi-ltcr: rank .*", outcome.done.err)
    heads = [head for head in heads if "the job ends here" in head]
    assert outcome.after < SOON
    assert done.rc != 0
    assert len(heads) == 1, done.err
    assert re.match(rf"mpi-ltcr: rank {rank} of \d on \S+, phase {phase}: the job ends here", heads[0])
    assert (outcome.status["state"], outcome.status["exit_code"]) == ("failed", 70)
    assert [problem for _, problem in verify_run(outcome.run) if problem] == []


# An exception in every phase

CALLS = {"explore": 120, "communicate": 9, "digest": 3, "revisit": 40, "evaluate": 2, "archive": 2}
"""Phase: which of its calls is to fail."""


def phases() -> Iterator[Any]:
    """Each under both libraries; in the sample under one, in turns."""
    for number, phase in enumerate(CALLS):
        for turn, mpi in enumerate(("mpich", "openmpi")):
            yield pytest.param(phase, mpi, marks=[LARGE] if (number + turn) % 2 else [])


@pytest.mark.fault("A1", "an exception on one rank, in each phase")
@pytest.mark.parametrize(("phase", "mpi"), list(phases()), indirect=["mpi"])
def test_an_exception_in_any_phase_ends_the_job_with_one_traceback_that_names_rank_and_phase(phase, fault, mpi):
    turn = (list(CALLS).index(phase) + (mpi == HERE)) % 2  # first and last rank, in turns; and so the ways to launch
    outcome = fault(f"raise:{phase}:{turn}:{CALLS[phase]}", way=[CONSOLE, MODULE][turn])
    assert_one_report(outcome, turn, phase)
    assert outcome.done.err.count(TRACEBACK) == 1
    assert outcome.status["error"] == "LookupError: the injected fault"
    assert "the injected fault" in (outcome.run / "crash" / "attempt1.txt").read_text()


@pytest.mark.fault("C29", "rank 0 ends the job: its lock bars nobody, on whatever host")
@pytest.mark.parametrize("mpi", ["mpich"], indirect=True)
def test_rank_0_that_ends_the_job_gives_the_run_back(fault):
    outcome = fault("raise:explore:0:120")
    assert_one_report(outcome, 0, "explore")
    assert not (outcome.run / "run.lock").exists()


@pytest.mark.fault("A1", "an exception on one rank, in each phase")
@pytest.mark.parametrize("mpi", ["mpich"], indirect=True)
def test_the_last_of_three_ranks_ends_the_two_others(fault):
    outcome = fault("raise:digest:2:2", ranks=3, way=CONSOLE)
    assert_one_report(outcome, 2, "digest")
    assert outcome.done.err.count(TRACEBACK) == 1


@pytest.mark.fault("A1", "an exception on all ranks at once")
@pytest.mark.parametrize("mpi", ["mpich"], indirect=True)
def test_an_exception_on_all_ranks_at_once_is_told_once(fault):
    outcome = fault("raise:revisit:*:40")
    assert outcome.after < SOON
    assert outcome.done.rc != 0
    assert outcome.done.err.count(TRACEBACK) == 1, outcome.done.err
    assert outcome.status["state"] == "failed"


@pytest.mark.fault("A1", "an exception on all ranks at once")
@pytest.mark.parametrize("mpi", ["mpich"], indirect=True)
def test_an_exception_on_all_ranks_before_there_is_a_run_directory_is_told_once(fault):
    outcome = fault("raise:start:*:1")
    assert outcome.after < SOON
    assert outcome.done.rc != 0
    assert outcome.done.err.count(TRACEBACK) == 1, outcome.done.err
    assert "phase start" in outcome.done.err
    assert not outcome.run.exists()


# Other ends


@pytest.mark.fault("A6", "out of memory on one rank")
@pytest.mark.parametrize("mpi", ["mpich"], indirect=True)
def test_who_runs_out_of_memory_is_told_what_to_lower(fault):
    outcome = fault("memory:revisit:1:40")
    assert_one_report(outcome, 1, "revisit")
    assert "lower agent.batch or agent.replay_capacity" in outcome.status["error"]


@pytest.mark.fault("A5", "an exception at Python's exit, when all is written: told, no more")
@pytest.mark.parametrize("mpi", ["mpich"], indirect=True)
def test_an_exception_after_the_end_is_told_and_the_run_stays_completed(fault):
    outcome = fault("atexit:digest:1:3")
    assert outcome.done.err.count("LookupError: the injected fault") == 1
    assert (outcome.done.rc, outcome.status["state"], outcome.status["exit_code"]) == (0, "completed", 0)


@pytest.mark.fault("A5", "an exception in a thread")
def test_an_exception_in_a_thread_ends_the_job_like_any_other(fault):
    outcome = fault("thread:digest:1:3", way=CONSOLE)
    assert_one_report(outcome, 1, "digest")
    assert outcome.done.err.count(TRACEBACK) == 1


@pytest.mark.fault("A5", "an exception in a destructor")
@BOTH
def test_an_exception_in_a_destructor_ends_the_job_like_any_other(fault):
    outcome = fault("destructor:explore:0:120")
    assert_one_report(outcome, 0, "explore")
    assert outcome.done.err.count(TRACEBACK) == 1


@pytest.mark.fault("A4", "sys.exit in mid-run")
@BOTH
@pytest.mark.parametrize(("code", "rank"), [(0, 1), (3, 0)])
def test_a_rank_that_exits_early_takes_the_others_with_it_and_is_named(code, rank, fault):
    outcome = fault(f"exit{code}:revisit:{rank}:40", way=CONSOLE)
    assert_one_report(outcome, rank, "revisit")
    assert "left early" in outcome.status["error"]


@BOTH
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("_exit0", marks=pytest.mark.fault("A4", "os._exit(0) in mid-run")),
        pytest.param("kill", marks=pytest.mark.fault("A2", "SIGKILL of a rank in Digest")),
        pytest.param("segfault", marks=pytest.mark.fault("A3", "a segmentation fault")),
    ],
)
def test_a_rank_that_vanishes_takes_the_others_with_it_and_the_run_is_never_called_completed(kind, fault):
    outcome = fault(f"{kind}:digest:1:9")
    assert outcome.after < SOON
    assert outcome.done.rc != 0 or kind == "_exit0"  # MPICH's mpirun believes it, so status.json is the authority
    assert outcome.status["state"] != "completed"
    assert outcome.status["exit_code"] != 0
    if kind == "segfault":  # Python's stack of the rank that crashed
        assert re.search(
            r'Fatal Python error: Segmentation fault[^$]*faulty.py", line \d+ in wrapped', outcome.done.err
        )
    assert [problem for _, problem in verify_run(outcome.run) if problem] == []


# A broken environment

STEPS = {
    "raise": "the environment raised LookupError: the injected fault",
    "nan-reward": "reward is nan",
    "inf-reward": "reward is inf",
    "wrong-shape": r"observation is \(3,\) float32; its space says \(4,\) float32",
    "wrong-dtype": r"observation is \(4,\) float64; its space says \(4,\) float32",
    "outside": "observation is outside its space",
}


@pytest.mark.fault("E38", "a broken environment on one rank of a job: rank, episode and step are named")
@pytest.mark.parametrize("mpi", ["mpich"], indirect=True)
@pytest.mark.parametrize("kind", STEPS if ALL else ["raise", "outside"])
def test_a_broken_environment_stops_the_job_and_rank_episode_and_step_are_named(kind, fault):
    outcome = fault(f"{kind}:step:1:1000", "--frames", "2000")
    assert_one_report(outcome, 1, outcome.phase)
    place = r"env\.id: (episode \d+|evaluation with seed \d+), step \d+: "
    assert re.search(place + STEPS[kind], outcome.status["error"])


# Nothing that is not finite


def numbers_that_are_not_finite(run: Path) -> list[str]:
    """Datasets of checkpoints with a NaN or an infinity, and columns of logs where a loss of an update is none."""
    found: list[str] = []
    for path in run.glob("checkpoints/*/*.h5"):
        with h5py.File(path) as file:
            names: list[str] = []
            file.visit(names.append)
            leaves = {name: file[name][()] for name in names if isinstance(file[name], h5py.Dataset)}
        numbers = {name: leaf for name, leaf in leaves.items() if np.asarray(leaf).dtype.kind == "f"}
        assert numbers
        found += [f"{path.name}/{name}" for name, leaf in numbers.items() if not np.isfinite(leaf).all()]
    for log in read_logs(run):
        for table in TABLES:
            for name, column in log.table(table).items():
                if column.dtype.kind == "f" and np.isinf(column).any():
                    found.append(f"{log.path.name}/{table}/{name}")  # (a NaN in a log says: no value)
        rounds = log.table("train")
        both = rounds["frames"] > 60  # with updates of both kinds
        assert both.any()
        for name in ("td_loss", "revisit_grad_norm", "distill_loss", "digest_grad_norm", "q_mean"):
            found += [] if np.isfinite(rounds[name][both]).all() else [f"{log.path.name}/train/{name}"]
    return found


NOT_FINITE = {
    "a loss": ("nan-loss:revisit:1:150", "revisit", "NonFiniteError: revisit: the loss is nan"),
    "an answer": ("nan-weights:explore:1:155", "communicate", "NonFiniteError: answer: .* nothing was sent"),
    "saved weights": ("nan-weights:evaluate:1:2", "archive", "NonFiniteError: state: .* not saved"),
}


@pytest.mark.fault("E39", "a NaN on one rank: in its loss, in what it would send, in what it would save")
@pytest.mark.parametrize(
    ("case", "mpi"),
    [("a loss", "mpich"), ("an answer", "mpich"), ("saved weights", "mpich"), ("a loss", "openmpi")],
    indirect=["mpi"],
)
def test_what_is_not_finite_stops_the_job_before_it_is_sent_logged_or_saved(case, fault, tmp_path):
    what, phase, words = NOT_FINITE[case]
    outcome = fault(what, "--log.probe_every", "400")
    assert_one_report(outcome, 1, phase)
    assert re.search(words, outcome.status["error"])
    assert [folder.name for folder in (outcome.run / "checkpoints").glob("step_*")] == ["step_000000100"]
    assert numbers_that_are_not_finite(outcome.run) == []
    for rank in range(2):
        counts = np.loadtxt(tmp_path / f"received-{rank}", dtype=int)
        assert counts[:, 0].sum() > 0
        assert counts[:, 1].sum() == 0


# Start-up


def train(out: Path, *overrides: str) -> list[str]:
    return [*MODULE, "train", PRESET, *TINY, "--out", str(out), *overrides]


@pytest.mark.fault("B19", "each process of the launcher sees itself alone")
@pytest.mark.parametrize("variable", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_process_that_sees_itself_alone_among_several_is_refused_at_once(variable, start, mpi, tmp_path):
    before = os.times()
    done = start(0, train(tmp_path / "run"), {variable: "2"}, mpi).finish()
    after = os.times()
    assert (done.rc, done.out) == (77, "")
    # Time of the core, which does not depend on who else is busy here: less than it takes to load torch.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.5
    assert re.fullmatch(r"mpi-ltcr: error: the launcher started 2 processes, but each sees itself alone.*\n", done.err)
    assert f"({mpi}/bin/mpirun)" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("B19", "the mpirun of the other MPI")
@pytest.mark.parametrize("own", ["mpich", "openmpi"])
def test_the_mpirun_of_another_library_is_refused_and_the_right_one_is_named_once(own, start, openmpi, tmp_path):
    mine, other = (HERE, openmpi) if own == "mpich" else (openmpi, HERE)
    flags = ["--oversubscribe"] if other == openmpi else []
    argv = [*flags, "-n", "2", str(mine / "bin" / "python"), *train(tmp_path / "run")]
    done = start(0, ["mpirun", *argv], AS_ROOT, other).finish()
    assert done.rc == 77
    assert done.err.count("mpi-ltcr: error:") == 1, done.err
    assert f"({mine}/bin/mpirun)" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("B19", "ranks that were started unlike")
@BOTH
def test_ranks_that_were_started_with_different_settings_are_refused_once_and_the_field_is_named(start, mpi, tmp_path):
    one = [str(mpi / "bin" / "python"), *train(tmp_path / "run")]
    other = [*one, "--transfer.subset", "per_teacher"]
    flags = ["--oversubscribe"] if mpi != HERE else []
    done = start(0, ["mpirun", *flags, "-n", "1", *one, ":", "-n", "1", *other], AS_ROOT, mpi).finish()
    assert done.rc == 2, done.err
    errors = [line for line in done.err.splitlines() if "mpi-ltcr: error:" in line]
    assert len(errors) == 1
    assert re.search(r"transfer: agent 0 has .*'common'.*, agent 1 has .*'per_teacher'", errors[0])
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("B19", "ranks that were started unlike")
def test_a_rank_that_resumes_while_the_other_starts_anew_is_refused(start, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.yaml").write_text(f"program: ltcr\nout: {old}\n")
    python = str(HERE / "bin" / "python")
    argv = ["mpirun", "-n", "1", python, *train(tmp_path / "run"), ":", "-n", "1", python, *MODULE, "resume", str(old)]
    done = start(0, argv).finish()
    assert done.rc == 2, done.err
    assert done.err.count("mpi-ltcr: error: program: rank 0 was started with train ltcr, rank 1 with resume ltcr") == 1


@pytest.mark.parametrize("mpi", ["mpich"], indirect=True)
def test_an_environment_that_cannot_be_made_is_one_line_for_the_whole_job(fault):
    outcome = fault("import:start:*:1")
    assert outcome.done.rc == 2
    lines = [line for line in outcome.done.err.splitlines() if "mpi-ltcr" in line or TRACEBACK in line]
    told = "mpi-ltcr: error: env.id: faulty:Faulty-v0 cannot be made: AttributeError: the user's module is broken"
    assert lines == [told]
    assert not outcome.run.exists()
