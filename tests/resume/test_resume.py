"""A run that was stopped and resumed equals the one that was not: every bit of every checkpoint, every row of the logs.

Every run here is a real mpirun of 400 frames with a checkpoint every 100, killed for real. Who is to be struck in
mid-run plays slowly, so that a late blow is not too late.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TINY, Runner, Started, verb
from same_run import contents, differences, saved

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.atomic import write_json
from mpi_ltcr.archive.reader import open_log
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.archive.verification import verify_run

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(300)]

FIRST, LAST = "step_000000100", "step_000000400"
SCRIPTS = Path(__file__).resolve().parents[1] / "slurm" / "scripts"
SLEEPY = ["--env.id", "sleepy:Sleepy-v0"]
"""CartPole whose steps take SLEEPY_S seconds, and that is all."""
SLOW = {"SLEEPY_S": "0.004"}
"""From the first checkpoint to the end it takes some seconds."""


class Team(NamedTuple):
    """Who trains, and which process is killed once the first checkpoint is there."""

    ranks: int
    preset: str
    options: tuple[str, ...]
    victim: str

    def train(self, out: Path, variables: dict[str, str] | None = None) -> Started:
        argv = ["-m", "mpi_ltcr", "train", self.preset, *TINY, *SLEEPY, *self.options, "--out", str(out)]
        return Started(self.ranks if self.ranks > 1 else 0, argv, out.parent, variables)  # alone: without mpirun


TEAMS = {
    "alone": Team(1, "ltcr-cartpole-alone", (), "the program"),
    "alone, compiled": Team(1, "ltcr-cartpole-alone", ("--agent.backend", "compiled"), "the program"),
    "two": Team(2, "ltcr-cartpole-9-1", (), "rank 1"),
    "two, each teacher its own sample": Team(
        2, "ltcr-cartpole-9-1", ("--transfer.subset", "per_teacher", "--transfer.upload_probability", "0.5"), "rank 0"
    ),
    "an actor-critic among them": Team(3, "ltcr-cartpole-policy-9-1", (), "rank 1"),
    "three unlike ones, averaged": Team(3, "ltcr-cartpole-mixed-9-1", ("--transfer.target", "mean"), "mpirun"),
}

Runs = Callable[[str], Path]


@pytest.fixture(scope="module", autouse=True)
def sleepy() -> Iterator[None]:
    """That environment is found, and its steps take no time where nobody asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        patch.setenv("PYTHONPATH", str(SCRIPTS), prepend=os.pathsep)
        patch.setenv("SLEEPY_S", "0")
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The run directory of a team that was never stopped. Not to be changed."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            done = TEAMS[name].train(out).finish(120)
            assert done.rc == 0, done.err
            made[name] = out
        return made[name]

    return run


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The run directory of a team of which one process was killed after the first checkpoint. Not to be changed."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            out = tmp_path_factory.mktemp("cut") / "run"
            kill_after_first_checkpoint(TEAMS[name], out)
            made[name] = out
        return made[name]

    return run


def kill_after_first_checkpoint(team: Team, out: Path) -> None:
    job = team.train(out, SLOW)
    try:
        wait_until(job, lambda: (out / "checkpoints" / FIRST).is_dir())
        ranks = job.ranks()
        os.kill(ranks[int(team.victim[5:])] if team.victim.startswith("rank") else job.pid, signal.SIGKILL)
        done = job.finish(30)
        assert done.rc != 0
        wait_until(None, lambda: not any(alive(pid) for pid in ranks.values()), seconds=10)
        assert [folder.name for folder in checkpoint.folders(out / "checkpoints")] == [FIRST], "killed too late"
    finally:
        job.kill()


def wait_until(job: Started | None, condition: Callable[[], bool], seconds: float = 90) -> None:
    """Look often; fail with what the job says if it ends before."""
    end = time.monotonic() + seconds
    while not condition():
        if job is not None and job.process.poll() is not None:
            pytest.fail(f"ended too early: {job.finish()}")
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def copy_of(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def resume_argv(run: Path) -> list[str]:
    return ["-m", "mpi_ltcr", "resume", str(run)]


def status_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "status.json").read_text()))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def written(run: Path) -> dict[str, bytes]:
    """Everything but the heartbeats, which are seen as soon as a checkpoint has been chosen."""
    return {name: content for name, content in contents(run).items() if not name.startswith("heartbeat")}


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def no_hdf5(path: Path) -> None:
    path.write_text("not HDF5")


def test_the_comparison_looks_at_everything_that_makes_a_run_and_sees_a_difference(whole: Runs) -> None:
    places = " ".join(dict(saved(whole("two"))))
    for part in (
        "rank0001.h5/agent/weights",
        "agent/target_weights",
        "agent/revisit_stepper/exp_avg_sq",
        "agent/digest_stepper/exp_avg",
        "agent/replay/store/ring/rows/next_obs",
        "agent/replay/order/rng/state/state",
        "agent/explore_rng/state/inc",
        "loop/actions",
        "transfer/upload_rng",
        "memory.h5/ring/rows/obs",
        "memory.h5/rng",
        "agent0001.h5/train/td_loss",
        "agent0000.h5/exchange/kl_teammates",
    ):
        assert part in places
    lengths = {place: len(v) for place, v in saved(whole("two")) if place.startswith("agent0000.h5")}
    for table in ("episodes", "eval", "train", "exchange", "probe", "distributions"):
        assert lengths[f"agent0000.h5/{table}/frames"] > 0, table
    different = differences(whole("two"), whole("two, each teacher its own sample"))
    assert f"{LAST}/rank0000.h5/agent/weights" in different
    assert "agent0000.h5/train/td_loss" in different


# Exactness


@pytest.mark.fault("D32", "killed and resumed: every bit of checkpoints and logs as of the whole run (C51, LTCR)")
@pytest.mark.parametrize("name", [name for name in TEAMS if name != "two"])
def test_a_killed_and_resumed_run_equals_the_whole_one_bit_for_bit(
    name: str, whole: Runs, cut: Runs, mpirun: Runner, tmp_path: Path
) -> None:
    run = copy_of(cut(name), tmp_path)
    done = mpirun(TEAMS[name].ranks, resume_argv(run), timeout=120)
    assert done.rc == 0, done.err
    assert (status_of(run)["state"], status_of(run)["attempt"]) == ("completed", 2)
    assert differences(whole(name), run) == []


def test_an_attempt_that_was_killed_before_it_swept_up_leaves_no_checkpoint_too_many(
    whole: Runs, mpirun: Runner, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    argv = [
        "-m",
        "mpi_ltcr",
        "train",
        TEAMS["alone"].preset,
        *TINY,
        *SLEEPY,
        "--checkpoint.keep",
        "3",
        "--out",
        str(run),
    ]
    assert mpirun(0, argv, timeout=120).rc == 0
    # As SIGKILL leaves it between the commit of the last checkpoint and the removal of the oldest one:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("keep: 3", "keep: 2"))
    RunDirectory(run).write_status(state="running", exit_code=1)
    assert len(checkpoint.folders(run / "checkpoints")) == 3
    assert mpirun(0, resume_argv(run), timeout=120).rc == 0
    assert differences(whole("alone"), run) == []


@pytest.mark.fault("C28", "every file of a run is of 1970, and the time zone another one: resumed, same end")
def test_the_times_of_files_and_the_time_zone_do_not_matter(
    whole: Runs, cut: Runs, mpirun: Runner, tmp_path: Path
) -> None:
    run = copy_of(cut("alone"), tmp_path)
    for path in run.rglob("*"):
        os.utime(path, (0, 0))
    done = mpirun(1, resume_argv(run), timeout=120, env={"TZ": "Pacific/Kiritimati"})
    assert done.rc == 0, done.err
    assert differences(whole("alone"), run) == []


@pytest.mark.fault("D33", "killed, preempted, resumed: same end")
def test_killed_then_preempted_then_resumed_again_it_still_equals_the_whole_one(
    whole: Runs, cut: Runs, mpirun: Runner, start: Callable[..., Started], tmp_path: Path
) -> None:
    run = copy_of(cut("two"), tmp_path)
    job = start(2, resume_argv(run), SLOW)
    wait_until(job, lambda: status_of(run)["attempt"] == 2)
    job.signal(signal.SIGUSR1)
    done = job.finish(60)
    assert done.rc == 85, done
    status = status_of(run)
    assert (status["state"], status["exit_code"]) == ("preempted", 85)
    assert status["checkpoint"] == status["frames"] < 400
    assert f"mpi-ltcr resume {run}" in done.err
    assert not (run / "run.lock").exists()

    done = mpirun(2, resume_argv(run), timeout=120)
    assert done.rc == 0, done.err
    assert (status_of(run)["state"], status_of(run)["attempt"]) == ("completed", 3)
    assert differences(whole("two"), run) == []


@pytest.mark.fault("C26", "the newest checkpoint of a run damaged: the older one is used, same end")
def test_a_damaged_newest_checkpoint_is_named_the_older_one_used_and_the_end_is_the_same(
    whole: Runs, mpirun: Runner, tmp_path: Path
) -> None:
    run = copy_of(whole("two"), tmp_path)
    flip_a_bit(run / "checkpoints" / LAST / "rank0001.h5")
    done = mpirun(2, resume_argv(run), timeout=120)
    assert done.rc == 0, done.err
    assert f"checkpoint refused: {LAST}: rank0001.h5" in done.err
    assert "using step_000000300" in done.err
    assert differences(whole("two"), run) == []


@pytest.mark.fault("B13", "SIGUSR1 during the start, before torch is loaded")
def test_a_signal_during_the_start_is_not_lost(start: Callable[..., Started], tmp_path: Path) -> None:
    """Importing torch takes seconds. A signal that nobody catches ends the rank, and MPICH calls that success."""
    run = tmp_path / "run"
    team = TEAMS["two"]
    job = start(2, ["-m", "mpi_ltcr", "train", team.preset, *TINY, "--out", str(run)])
    wait_until(job, lambda: len(ranks := job.ranks()) == 2 and all(catches_usr1(pid) for pid in ranks.values()))
    job.signal(signal.SIGUSR1)
    done = job.finish(90)
    assert done.rc == 85, done
    assert status_of(run)["state"] == "preempted"
    assert checkpoint.newest_whole(run / "checkpoints")[1] == []


def catches_usr1(pid: int) -> bool:
    """Whether a process has a handler; it must have one before it loads torch."""
    try:
        torch_is_there = "libtorch_cpu" in Path(f"/proc/{pid}/maps").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.split("SigCgt:")[1].split()[0], 16) >> (signal.SIGUSR1 - 1) & 1
    assert caught or not torch_is_there, "torch was loaded before the handler was there"
    return bool(caught)


# What cannot be resumed


@pytest.mark.fault("C26", "every checkpoint damaged: exit code 65, every reason told")
def test_without_a_usable_checkpoint_resume_says_why_and_exits_with_65(
    whole: Runs, mpirun: Runner, tmp_path: Path
) -> None:
    run = copy_of(whole("alone"), tmp_path)
    flip_a_bit(run / "checkpoints" / LAST / "rank0000.h5")
    (run / "checkpoints" / "step_000000300" / "manifest.json").unlink()
    before = contents(run)
    done = mpirun(1, resume_argv(run))
    assert done.rc == 65
    assert f"{LAST}: rank0000.h5 was changed" in done.err
    assert "step_000000300: no manifest.json" in done.err
    assert "Traceback" not in done.err
    assert contents(run) == before, "a lock left behind would bar another host"


@pytest.mark.fault("C26", "a damaged log: resume refuses it, names it and says what to do")
@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, no_hdf5], ids=lambda damage: damage.__name__)
def test_a_damaged_log_is_not_gone_on_with_and_not_sealed_again(
    damage: Callable[[Path], None], whole: Runs, mpirun: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(whole("two"), tmp_path)
    log = run / "logs" / "agent0001.h5"
    damage(log)
    before = written(run)
    done = mpirun(2, resume_argv(run), timeout=120)
    assert done.rc == 65
    (line,) = [line for line in done.err.splitlines() if line.startswith("mpi-ltcr")]
    assert line.startswith(f"mpi-ltcr: error: {log} was changed after it was written")
    assert line.endswith("; restore it from a copy, or move it away to go on with a new log")
    assert written(run) == before
    code, _, err = verb("verify", str(run), capsys=capsys)
    assert code == 65
    assert "restore faulty logs from a copy, or move them away" in err


@pytest.mark.fault("C26", "the log of one rank, or of all, gone: goes on with a new one, same checkpoints")
@pytest.mark.parametrize("gone", [["agent0001.h5"], ["agent0000.h5", "agent0001.h5"]], ids=["one", "all"])
def test_a_log_that_was_moved_away_is_begun_anew_and_training_is_the_same(
    gone: list[str], whole: Runs, cut: Runs, mpirun: Runner, tmp_path: Path
) -> None:
    run = copy_of(cut("two"), tmp_path)
    for name in gone:
        (run / "logs" / name).unlink()
    if len(gone) == 2:
        (run / "logs").rmdir()
    for newest in (FIRST, "step_000000300"):  # the second time rows are counted that are not in the log
        done = mpirun(2, resume_argv(run), timeout=120)
        assert done.rc == 0, done.err
        told = [line for line in done.err.splitlines() if "warning" in line]
        missing = [f"mpi-ltcr: warning: {run / 'logs' / name} is missing; goes on with a new log" for name in gone]
        assert sorted(told) == (missing if newest == FIRST else [])
        different = differences(whole("two"), run)
        assert {place.split("/")[0] for place in different} == set(gone)
        assert [problem for _, problem in verify_run(run) if problem] == []
        for name in gone:
            log = open_log(run / "logs" / name)
            assert log.table("eval")["frames"].tolist()[0] == 200
            assert log.table("events")["text"][0] == f"{log.path} is missing; goes on with a new log"
        flip_a_bit(run / "checkpoints" / LAST / "rank0000.h5")


@pytest.mark.fault("D36", "resumed on another number of ranks: refused with the right one")
def test_another_number_of_ranks_is_refused_with_the_right_one(whole: Runs, mpirun: Runner, tmp_path: Path) -> None:
    run = copy_of(whole("alone"), tmp_path)
    before = contents(run)
    done = mpirun(2, resume_argv(run))
    assert done.rc == 65
    assert done.err.count("use mpirun -n 1") == 1
    assert "Traceback" not in done.err
    assert contents(run) == before


CHANGED = {
    "agent.vmax": ("vmax: 100.0", "vmax: 50.0", "50.0 now, 100.0 when"),
    "agent.atoms": ("atoms: 51", "atoms: 21", "21 now, 51 when"),
    "agent.hidden": ("  - 16\n", "  - 32\n", "[32] now, [16] when"),
    "env.id": ("id: sleepy:Sleepy-v0", "id: CartPole-v1", '"CartPole-v1" now, "sleepy:Sleepy-v0" when'),
    "seed": ("\nseed: 1\n", "\nseed: 7\n", "7 now, 1 when"),
}


def edit(run: Path, old: str, new: str) -> None:
    config = (run / "config.yaml").read_text()
    assert config.count(old) == 1
    (run / "config.yaml").write_text(config.replace(old, new))


@pytest.mark.fault("D36", "resumed with another support, network, game or seed: refused, the field named")
@pytest.mark.parametrize("field", CHANGED)
def test_what_shapes_the_results_stays_as_it_was(field: str, whole: Runs, mpirun: Runner, tmp_path: Path) -> None:
    run = copy_of(whole("two"), tmp_path)
    old, new, told = CHANGED[field]
    edit(run, old, new)
    before = contents(run)
    done = mpirun(2, [*resume_argv(run), "--frames", "600"])
    assert done.rc == 65
    line = f"{field}: {told} it was saved; put it back in config.yaml, or train a new run"
    assert done.err == f"mpi-ltcr: error: {line}\n"
    assert contents(run) == before


@pytest.mark.fault("D36", "resumed as a team of another size, with another seed: refused, the field named")
def test_so_it_does_in_a_team_of_another_size(whole: Runs, mpirun: Runner, tmp_path: Path) -> None:
    run = copy_of(whole("two"), tmp_path)
    edit(run, *CHANGED["seed"][:2])
    before = contents(run)
    done = mpirun(3, [*resume_argv(run), "--agents", "3"])
    assert (done.rc, done.err.count("error: seed: 7 now, 1 when")) == (65, 1)
    assert contents(run) == before


@pytest.mark.fault("D36", "resumed for longer, saved at other times, with other patience: allowed")
def test_how_long_it_runs_how_it_is_saved_and_where_it_computes_may_change(
    whole: Runs, mpirun: Runner, tmp_path: Path
) -> None:
    run = copy_of(whole("two"), tmp_path)
    edit(run, "checkpoint:\n  every: 100\n", "checkpoint:\n  every: 200\n")
    edit(run, "patience_s: 600.0", "patience_s: 500.0")
    edit(run, "threads: 1", "threads: 2")
    RunDirectory(run).write_status(attempt="a damaged count")
    done = mpirun(2, [*resume_argv(run), "--frames", "600"])
    assert done.rc == 0, done.err
    assert status_of(run)["frames"] == 600


def test_a_checkpoint_that_does_not_keep_its_configuration_is_not_compared(
    whole: Runs, mpirun: Runner, tmp_path: Path
) -> None:
    run = copy_of(whole("alone"), tmp_path)
    for folder in checkpoint.folders(run / "checkpoints"):
        manifest = {**checkpoint.read_manifest(folder), "config": "ltcr-cartpole-alone"}  # as it was before
        write_json(folder / "manifest.json", {**manifest, "digest": checkpoint._digest(manifest)})
    edit(run, *CHANGED["agent.vmax"][:2])
    assert mpirun(1, [*resume_argv(run), "--frames", "500"]).rc == 0


# The other verbs on these runs


def test_status_tells_the_state_as_text_as_json_and_as_exit_code(
    whole: Runs, cut: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = verb("status", str(whole("two")), capsys=capsys)
    assert (code, "completed at frame 400" in out) == (0, True)
    code, out, _ = verb("status", str(whole("two")), "--json", "--exit-code", capsys=capsys)
    assert code == 0
    assert json.loads(out)["checkpoint"] == 400
    code, out, _ = verb("status", str(cut("alone")), "--exit-code", capsys=capsys)
    assert code == 75  # lost: status.json says that it runs, but nobody holds its lock
    assert "its process is gone" in out


def test_verify_passes_a_whole_run_and_a_killed_one(whole: Runs, cut: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    for run in (whole("two"), cut("two")):
        code, out, err = verb("verify", str(run), capsys=capsys)
        assert (code, err) == (0, "")
        assert "FAULT" not in out
    assert f"checkpoints/{FIRST}" in out


@pytest.mark.parametrize("name", ["rank0000.h5", "memory.h5", "manifest.json"])
def test_verify_finds_a_flipped_bit_and_exits_with_65(
    name: str, whole: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(whole("two"), tmp_path)
    flip_a_bit(run / "checkpoints" / LAST / name)
    code, out, err = verb("verify", str(run), capsys=capsys)
    assert code == 65
    assert next(line for line in out.splitlines() if "FAULT" in line).startswith(f"FAULT checkpoints/{LAST}")
    assert name in out
    assert err.count("\n") == 1


def test_verify_finds_a_log_cut_short(whole: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_of(whole("alone"), tmp_path)
    log = run / "logs" / "agent0000.h5"
    log.write_bytes(log.read_bytes()[:-1000])
    code, out, _ = verb("verify", str(run), capsys=capsys)
    assert code == 65
    assert "FAULT logs/agent0000.h5" in out


def test_eval_plays_every_agent_of_a_team_and_twice_the_same(whole: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for agent in ("0", "1", "1"):
        code, out, _ = verb("eval", str(whole("two")), "--agent", agent, "--episodes", "3", capsys=capsys)
        assert code == 0
        assert out.count("episode ") == 3
        assert f"agent {agent} at {LAST}: mean return" in out
        answers.append(out)
    assert answers[1] == answers[2]


def test_eval_refuses_an_agent_that_is_not_there_and_a_run_without_checkpoint(
    whole: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = verb("eval", str(whole("two")), "--agent", "2", capsys=capsys)
    assert code == 2
    assert "--agent: 2" in err
    assert "0 to 1" in err
    run = copy_of(whole("alone"), tmp_path)
    shutil.rmtree(run / "checkpoints" / LAST)
    flip_a_bit(run / "checkpoints" / "step_000000300" / "rank0000.h5")
    code, _, err = verb("eval", str(run), capsys=capsys)
    assert code == 65
    assert "rank0000.h5" in err
    assert err.count("\n") == 1
