"""The project's own batch files under a real SLURM: four simulated nodes on this machine (`cluster.sh`).

Skipped, and why is said, where SLURM cannot be installed or started. `bash tests/slurm/run.sh all` runs the slow proofs
too: the real time limit, scancel, scontrol requeue, a node that is lost, both launch forms.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE, LAUNCHER_VARIABLES, ROOT, TINY
from same_run import differences

from mpi_ltcr.archive.reader import read_logs
from mpi_ltcr.archive.verification import verify_run
from mpi_ltcr.verbs import doctor

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(900)]

FOLDER = Path(__file__).parent
CLUSTER = FOLDER / "cluster.sh"
slow = pytest.mark.skipif(os.environ.get("SLURM_TESTS") != "all", reason="slow: bash tests/slurm/run.sh all")

TEAM = ["ltcr-cartpole-9-1", *TINY, "--env.id", "sleepy:Sleepy-v0"]
"""On a CartPole of which a step takes `SLEEPY_S` seconds: as long as a test needs, without keeping a core busy."""
TWO_NODES = ["-N", "2", "-n", "4", "--ntasks-per-node", "2"]
PATIENCE = 240.0
"""Seconds for a job of a few seconds on a machine that is busy with other things."""

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


class Cluster:
    """A running SLURM, and what its users type."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
        self.env = {
            **clean,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "VENV": str(HERE),
            "SLEEPY_S": "0",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(FOLDER / "scripts")]),
            **{f"OMPI_ALLOW_RUN_AS_ROOT{suffix}": "1" for suffix in ("", "_CONFIRM")},
        }

    def call(self, *argv: str, **variables: str) -> str:
        done = subprocess.run(
            argv, cwd=ROOT, env={**self.env, **variables}, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout.strip()

    def submit(self, *argv: str, **variables: str) -> str:
        """sbatch with these arguments: the job's number."""
        return self.call("sbatch", "--parsable", "--output", f"{self.folder}/job-%j.out", *argv, **variables)

    def job(self, number: str) -> dict[str, str]:
        """What SLURM says of it."""
        words = self.call("scontrol", "show", "job", "-o", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def said(self, number: str) -> str:
        """All output of a job, of all its starts. An array's: of all tasks."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob(f"job-{number}*.out")))

    def until(self, number: str, condition: Callable[[], bool]) -> None:
        """Wait, looking twice a second; fail with what the job and the daemons have said."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, (self.job(number), self.said(number), self.errors())
            time.sleep(0.5)

    def errors(self) -> list[str]:
        """What the daemons complained of."""
        lines = [line for path in (self.folder / "log").glob("*") for line in path.read_text().splitlines()]
        return [line for line in lines if "error" in line]

    def ends(self, number: str, *states: str) -> dict[str, str]:
        """Wait for a job's end, which must be one of these."""
        self.until(number, lambda: self.job(number)["JobState"] in ENDED)
        job = self.job(number)
        assert job["JobState"] in states, (job, self.said(number))
        return job


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    """A SLURM of our own; none of its daemons is there afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # the path of a socket in it is short
    try:
        for verb in (["install"], ["start", str(folder)]):
            done = subprocess.run(["bash", str(CLUSTER), *verb], capture_output=True, text=True, check=False)
            if done.returncode == 77:
                pytest.skip(done.stderr.strip().splitlines()[-1])
            assert done.returncode == 0, done.stdout + done.stderr
        yield Cluster(folder)
    finally:
        pids = [int(path.read_text()) for path in (folder / "pid").glob("*")]
        subprocess.run(["bash", str(CLUSTER), "stop", str(folder)], check=False)
        left = [pid for pid in pids if alive(pid)]
        shutil.rmtree(folder, ignore_errors=True)
    assert left == []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def whole_job(slurm: Cluster) -> str:
    """A job of two nodes with two ranks each, submitted before anything else."""
    return slurm.submit(*TWO_NODES, "jobs/train.sbatch", *TEAM, "--out", str(slurm.folder / "whole"))


@pytest.fixture(scope="module")
def whole(slurm: Cluster, whole_job: str) -> Path:
    """Its run directory, once it has completed. Not to be changed."""
    slurm.ends(whole_job, "COMPLETED")
    return slurm.folder / "whole"


def status(run: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((run / "status.json").read_text()))
    except OSError:
        return {}


def assert_same(whole: Path, run: Path) -> None:
    """It completed, every file is sound, and everything in it equals the run that was left alone."""
    assert status(run)["state"] == "completed"
    assert [problem for _, problem in verify_run(run) if problem] == []
    assert differences(whole, run) == []


@pytest.mark.fault("B17", "SLURM: a requeue loop without progress stops")
def test_a_loop_without_progress_stops_at_its_second_start(slurm: Cluster, whole_job: str) -> None:
    """The program is one that saves at its first start, and is always stopped by a signal before it gets further."""
    prefix = slurm.folder / "stuck"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy(FOLDER / "scripts" / "stuck.sh", prefix / "bin" / "mpi-ltcr")
    number = slurm.submit("-n", "1", "jobs/train.sbatch", "x", "--out", str(prefix / "run"), VENV=str(prefix))
    job = slurm.ends(number, "FAILED")
    assert (job["Restarts"], job["ExitCode"]) == ("1", "85:0")
    assert "no progress since frame 100, so not requeued" in slurm.said(number)


def test_two_nodes_with_two_ranks_each_train(slurm: Cluster, whole_job: str, whole: Path) -> None:
    assert slurm.job(whole_job)["NumNodes"] == "2"
    places = [f"rank {rank}: agent {rank} on \\S+, local rank {rank % 2} of 2" for rank in range(4)]
    said = slurm.said(whole_job)
    for place in places:
        assert re.search(place, said), said
    assert status(whole)["state"] == "completed"
    assert len(read_logs(whole)) == 4


def test_no_request_to_slurms_pmi_is_near_the_1024_bytes_that_it_takes_in(
    slurm: Cluster, whole_job: str, whole: Path
) -> None:
    """UCX's addresses come in requests of 640 to 1100 bytes: a job of two nodes then waited for ever, now and then."""
    logs = "".join(path.read_text() for path in (slurm.folder / "log").glob("slurmd-*"))
    requests = re.findall(rf"\[{whole_job}\.0\].*got client request: (cmd=put.*)", logs)
    assert len(requests) >= 2, "one of each node at least"
    assert max(map(len, requests)) < 300


@pytest.mark.fault("B19", "SLURM: srun --mpi=none, where each process sees itself alone")
def test_ranks_that_srun_does_not_connect_are_refused_once_with_the_right_command(slurm: Cluster) -> None:
    run = slurm.folder / "none"
    train = [str(HERE / "bin" / "python"), "-m", "mpi_ltcr", "train", *TEAM, "--out", str(run)]
    argv = ["srun", "--mpi=none", *TWO_NODES, *train]
    done = subprocess.run(argv, cwd=ROOT, env=slurm.env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 77, done.stderr
    [told] = [line for line in done.stderr.splitlines() if "mpi-ltcr: error:" in line]
    assert "the launcher started 4 processes, but each sees itself alone" in told
    assert told.endswith("or srun --mpi=pmi2 for MPICH")
    assert not run.exists()


def test_doctor_sees_that_srun_speaks_what_mpich_does(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm.env["SLURM_CONF"])
    [finding] = doctor.look_at_slurm(doctor.Patient(None, 2, Path()))
    assert finding.state == doctor.OK
    assert "pmi2" in finding.told


def test_a_job_array_of_seeds_gives_one_run_directory_each(slurm: Cluster) -> None:
    out = str(slurm.folder / "seeds")
    argv = ["jobs/seeds.sbatch", "ltcr-cartpole-alone", *TINY, "--out", out]
    number = slurm.submit("--array", "3-4", "-n", "1", *argv)
    slurm.until(number, lambda: all(status(Path(f"{out}-s{seed}")).get("state") == "completed" for seed in (3, 4)))
    runs = sorted(slurm.folder.glob("seeds*"))
    assert [run.name for run in runs] == ["seeds-s3", "seeds-s4"]
    assert [log.attributes["seed"] for run in runs for log in read_logs(run)] == [3, 4]


def interrupted(
    slurm: Cluster, name: str, *options: str, launch: str = "srun", sleepy: str = "0.02"
) -> tuple[str, Path]:
    """A job like the whole one, but slower, when it has saved something and is far from its end."""
    run = slurm.folder / name
    argv = [*options, *TWO_NODES, "jobs/train.sbatch", *TEAM, "--out", str(run)]
    number = slurm.submit(*argv, LAUNCH=launch, SLEEPY_S=sleepy)
    slurm.until(number, lambda: status(run).get("checkpoint", 0) >= 100 or slurm.job(number)["JobState"] in ENDED)
    assert 100 <= status(run).get("checkpoint", 0) < 400, ("too late to prove anything", slurm.said(number))
    return number, run


@pytest.mark.fault("B15", "SLURM, two nodes, USR1 as near a time limit: saved, requeued, same end")
def test_near_the_time_limit_a_job_saves_and_requeues_itself_and_the_end_equals_the_whole_run(
    slurm: Cluster, whole: Path
) -> None:
    """SLURM's signal comes by hand here; in `test_the_real_time_limit...` from the time limit."""
    number, run = interrupted(slurm, "limit", sleepy="0.01")
    slurm.call("scancel", "--batch", "--signal=USR1", number)
    assert slurm.ends(number, "COMPLETED")["Restarts"] == "1"
    assert "requeued" in slurm.said(number)
    assert f"going on with {run}, frame" in slurm.said(number)
    assert status(run)["attempt"] == 2
    assert_same(whole, run)


# Slow proofs


@pytest.mark.fault("B15", "SLURM, two nodes, the time limit under srun, mpirun: saved, requeued, same end")
@slow
@pytest.mark.parametrize("launch", ["srun", "mpirun"])
def test_the_real_time_limit_saves_and_requeues_in_either_launch_form(slurm: Cluster, whole: Path, launch: str) -> None:
    """Half a minute to a minute after the start, with as long to save; the second start gets more time."""
    limit = ("--time=2", "--signal=B:USR1@90")
    number, run = interrupted(slurm, f"limit-{launch}", *limit, launch=launch, sleepy="0.2")
    slurm.until(number, lambda: slurm.job(number)["JobState"] == "PENDING")
    assert status(run)["state"] == "preempted"
    slurm.call("scontrol", "update", f"JobId={number}", "TimeLimit=30")
    assert slurm.ends(number, "COMPLETED")["Restarts"] == "1"
    assert_same(whole, run)


@pytest.mark.fault("B16", "SLURM, two nodes: scancel, submitted again: same end")
@slow
def test_a_cancelled_job_saves_and_the_same_submitted_again_goes_on(slurm: Cluster, whole: Path) -> None:
    number, run = interrupted(slurm, "cancelled")
    slurm.call("scancel", number)
    assert slurm.ends(number, "CANCELLED")["Restarts"] == "0"
    slurm.until(number, lambda: status(run)["state"] == "preempted")
    again = slurm.submit(*TWO_NODES, "jobs/train.sbatch", *TEAM, "--out", str(run))
    slurm.ends(again, "COMPLETED")
    assert status(run)["attempt"] == 2
    assert_same(whole, run)


@pytest.mark.fault("B16", "SLURM, two nodes: scontrol requeue: same end")
@slow
def test_a_requeued_job_resumes_from_its_last_checkpoint(slurm: Cluster, whole: Path) -> None:
    number, run = interrupted(slurm, "requeued")
    slurm.call("scontrol", "requeue", number)
    assert slurm.ends(number, "COMPLETED")["Restarts"] == "1"
    assert status(run)["attempt"] == 2
    assert_same(whole, run)


@pytest.mark.fault("B16", "SLURM, two nodes: one set DOWN, went on on others: same end")
@slow
def test_a_job_that_loses_a_node_resumes_from_its_last_checkpoint_on_others(slurm: Cluster, whole: Path) -> None:
    number, run = interrupted(slurm, "node")
    nodes = slurm.job(number)["NodeList"]
    lost = slurm.call("scontrol", "show", "hostnames", nodes).splitlines()[0]
    slurm.call("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=test")
    try:
        assert slurm.ends(number, "COMPLETED")["Restarts"] == "1"
        assert lost not in slurm.call("scontrol", "show", "hostnames", slurm.job(number)["NodeList"]).split()
    finally:
        slurm.call("scontrol", "update", f"NodeName={lost}", "State=RESUME")
    assert status(run)["attempt"] == 2
    assert_same(whole, run)


@pytest.mark.fault("B16", "SLURM, two nodes: preempted by a partition of higher priority: same end")
@slow
def test_a_preempted_job_resumes_from_its_last_checkpoint(slurm: Cluster, whole: Path) -> None:
    number, run = interrupted(slurm, "preempted")
    urgent = slurm.submit("--partition", "urgent", "-N", "4", "--exclusive", "--wrap", "sleep 3")
    slurm.ends(urgent, "COMPLETED")
    assert slurm.ends(number, "COMPLETED")["Restarts"] == "1"
    assert status(run)["attempt"] == 2
    assert_same(whole, run)


@pytest.mark.fault("B17", "SLURM: MAX_REQUEUE ends a loop with progress")
@slow
def test_a_job_is_not_requeued_more_often_than_the_site_allows(slurm: Cluster) -> None:
    run = slurm.folder / "once"
    argv = ["-n", "1", "jobs/train.sbatch", "ltcr-cartpole-alone", *TEAM[1:], "--out", str(run)]
    number = slurm.submit(*argv, MAX_REQUEUE="1", SLEEPY_S="0.1")
    for attempt in (1, 2):
        slurm.until(number, lambda attempt=attempt: status(run).get("attempt") == attempt)
        slurm.call("scancel", "--batch", "--signal=USR1", number)
        slurm.until(number, lambda: status(run)["state"] == "preempted")
    job = slurm.ends(number, "FAILED")
    assert (job["Restarts"], job["ExitCode"]) == ("1", "85:0")
    assert "MAX_REQUEUE is 1" in slurm.said(number)


@pytest.mark.fault("B18", "SLURM: scontrol missing from PATH: told, state kept")
@slow
def test_a_job_whose_node_lacks_scontrol_saves_and_says_how_to_go_on(slurm: Cluster) -> None:
    tools = slurm.folder / "tools"
    tools.mkdir()
    for tool in Path("/usr/bin").iterdir():
        if tool.name != "scontrol":
            (tools / tool.name).symlink_to(tool)
    run = slurm.folder / "without-scontrol"
    argv = ["-n", "1", "jobs/train.sbatch", "ltcr-cartpole-alone", *TEAM[1:], "--out", str(run)]
    number = slurm.submit(*argv, PATH=str(tools), SLEEPY_S="0.05")
    slurm.until(number, lambda: status(run).get("checkpoint", 0) >= 100)
    slurm.call("scancel", "--batch", "--signal=USR1", number)
    job = slurm.ends(number, "FAILED")
    assert (job["Restarts"], job["ExitCode"]) == ("0", "85:0")
    advice = f"no scontrol on this node, so not requeued. To go on, submit the same with --out {run}"
    assert advice in slurm.said(number)
    assert status(run)["state"] == "preempted"
    assert [problem for _, problem in verify_run(run) if problem] == []
