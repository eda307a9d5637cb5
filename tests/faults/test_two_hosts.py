"""Two ranks on two hosts that a network joins. The cable is pulled: the watchdogs end the job. It is back: it goes on.

The hosts are network namespaces of this machine with a pair of virtual cards; skipped, and why is said, where those
cannot be made.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import HERE, LAUNCHER_VARIABLES, ROOT, TINY, Runner
from fault_report import Tally
from same_run import differences

from mpi_ltcr.archive.verification import verify_run

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parent / "scripts" / "two_hosts.sh"
SLEEPY = ROOT / "tests" / "slurm" / "scripts"
"""CartPole whose steps take `SLEEPY_S` seconds."""
PATIENCE = 5.0
GRACE = 45.0
"""Seconds for a busy machine beyond the watchdog's patience."""


class Hosts:
    """Two hosts, and mpirun on the first that starts a rank on each."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.agent = Path(shutil.copy(SCRIPT, folder / f"{name}.launch"))

    def do(self, verb: str) -> None:
        done = subprocess.run(["bash", str(SCRIPT), verb, self.name], capture_output=True, text=True, check=False)
        if done.returncode == 77:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr

    def start(self, *argv: str, sleepy: float = 0.0) -> subprocess.Popen[str]:
        """`python -m mpi_ltcr ARGV`, a rank on each host."""
        options = ["-launcher", "ssh", "-launcher-exec", str(self.agent), "-localhost", "10.77.0.1"]
        options += ["-hosts", "10.77.0.1,10.77.0.2", "-ppn", "1", "-n", "2"]
        command = [str(HERE / "bin" / "mpirun"), *options, sys.executable, "-m", "mpi_ltcr", *argv]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
        path = os.pathsep.join([str(ROOT), str(SLEEPY)])
        # Two hosts that are one machine share more than a network: MPICH must be told to use it.
        return subprocess.Popen(
            ["ip", "netns", "exec", f"{self.name}-a", *command],
            env={**clean, "PYTHONPATH": path, "SLEEPY_S": str(sleepy), "UCX_TLS": "tcp,self", "FI_PROVIDER": "tcp"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ranks(self) -> list[int]:
        """Processes of training on either host."""
        found = []
        for side in "ab":
            done = subprocess.run(["ip", "netns", "pids", f"{self.name}-{side}"], capture_output=True, text=True)
            found += [int(pid) for pid in done.stdout.split()]
        return [pid for pid in found if b"mpi_ltcr" in command_line(pid) and b"mpirun" not in command_line(pid)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    pair = Hosts(f"lt{os.getpid() % 100_000}", tmp_path)
    try:
        pair.do("up")
        yield pair
    finally:
        subprocess.run(["bash", str(SCRIPT), "down", pair.name], check=False)


def wait_until(condition: Callable[[], bool], job: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            job.kill()
            pytest.fail(f"waited in vain: {job.communicate()[1]}")
        time.sleep(0.2)


def status(run: Path) -> dict:
    try:
        return json.loads((run / "status.json").read_text())
    except OSError:
        return {}


@pytest.mark.fault("A7", "the network between two hosts is cut, then back: same end")
def test_the_cable_is_pulled_and_the_job_ends_by_the_watchdog_it_is_back_and_the_job_goes_on(
    hosts: Hosts, mpirun: Runner, tally: Tally, tmp_path: Path
) -> None:
    options = ["ltcr-cartpole-9-1", *TINY, "--env.id", "sleepy:Sleepy-v0", "--runtime.patience_s", str(PATIENCE)]
    run, whole = tmp_path / "run", tmp_path / "whole"
    job = hosts.start("train", *options, "--out", str(run), sleepy=0.05)
    wait_until(lambda: status(run).get("checkpoint", 0) >= 100 or job.poll() is not None, job)
    assert job.poll() is None, job.communicate()[1]
    assert len(hosts.ranks()) == 2

    hosts.do("cut")
    since = time.monotonic()
    wait_until(lambda: not hosts.ranks(), job, PATIENCE + GRACE)
    seconds = time.monotonic() - since
    job.kill()  # mpirun itself waits for the host that it cannot reach
    job.communicate()
    assert (status(run)["state"], status(run)["exit_code"]) == ("failed", 75), status(run)
    assert re.search(r"rank \d", status(run)["error"])
    assert [problem for _, problem in verify_run(run) if problem] == []
    assert not (run / "run.lock").exists(), "on a third host it could not be known that rank 0 has ended"

    hosts.do("join")
    job = hosts.start("resume", str(run))
    err = job.communicate(timeout=240)[1]
    assert (job.returncode, status(run)["state"], status(run)["attempt"]) == (0, "completed", 2), err
    path = os.pathsep.join([str(ROOT), str(SLEEPY)])
    argv = ["-m", "mpi_ltcr", "train", *options, "--out", str(whole)]
    done = mpirun(2, argv, timeout=240, env={"PYTHONPATH": path, "SLEEPY_S": "0"})
    assert done.rc == 0, done.err
    assert differences(whole, run) == []
    tally.add(seconds=[seconds])
