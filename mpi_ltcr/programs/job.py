"""A run from the first collective to the last: start-up in the same order on every rank, then the program."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

from mpi_ltcr import __version__, options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.atomic import headway
from mpi_ltcr.archive.checkpoint import CheckpointError
from mpi_ltcr.archive.evidence import write_batch
from mpi_ltcr.archive.heartbeats import Heartbeats
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.regroup import Regrouping
from mpi_ltcr.archive.rundir import RunDirectory, RunDirectoryError, new_name
from mpi_ltcr.archive.space import require_space
from mpi_ltcr.comm import runtime
from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.comm.pulse import pulse
from mpi_ltcr.comm.runtime import JobError, StopSignals, guard
from mpi_ltcr.config import ConfigError
from mpi_ltcr.interfaces import NonFiniteError
from mpi_ltcr.programs.continuity import changed
from mpi_ltcr.programs.needs import run_bytes


class Start(NamedTuple):
    """What a program is started with, after everything that can be refused has been refused."""

    config: Any
    comm: Any
    service: Service
    """Of all ranks."""
    run: RunDirectory
    signals: StopSignals
    attempt: int
    resumed: bool
    regrouping: Regrouping | None = None
    """How the team changes, if so."""

    def recorder(self, path: Path, index: int) -> Recorder:
        """The log of one agent or server."""
        attributes = {
            "run_id": self.run.root.name,
            "agent": index,
            "world_size": self.service.size,
            "seed": self.config.seed,
            "name": self.config.name,
            "env": " ".join(env.id for env in self.config.environments()),
            "config_json": json.dumps(options.to_dict(self.config)),
        }
        return Recorder(path=path, attributes=attributes)

    def newest_whole(self, checkpoints: Path, *, chooses: bool, size: int) -> list[str]:
        """Collective. Each rank's choice, the newest whole checkpoint; newer ones that are not whole are named.

        Args:
            chooses: this rank does; the text of the others is empty.
            size: ranks that the checkpoint must be of.

        Raises:
            JobError: there is none, or it is of a team of another size, or was trained with another configuration.
                Nothing has been written yet.
        """

        def choose() -> str:
            if not chooses:
                return ""
            folder, refused = checkpoint.newest_whole(checkpoints)
            for reason in refused:
                print(f"mpi-ltcr: checkpoint refused: {reason}; using {folder.name}", file=sys.stderr, flush=True)
            manifest = checkpoint.read_manifest(folder)
            found = manifest["world_size"]
            if found != size:
                told = f"{folder.name} is of {found} agents, not of {size}"
                change = f"or change the team: resume --agents {self.service.size}"
                raise ValueError(f"{told}; use mpirun -n {found}, {change}")
            saved = manifest.get("config")
            if isinstance(saved, dict):  # older ones hold the name alone
                if self.regrouping:
                    saved = {**saved, "agents": self.regrouping.settings(saved["agents"])}
                if problem := changed(saved, self.config):
                    raise ValueError(problem)
            return str(folder)

        chosen = self.service.texts(together(self.service, choose, runtime.BAD_CHECKPOINT))
        self.attend()
        return chosen

    def attend(self) -> None:
        """See the other ranks from now on, and be seen by them: what can be refused has been refused."""
        board = Heartbeats(self.run.root, self.attempt)
        runtime.watchdog.attach(board, float(self.config.runtime.patience_s))

    def greet(self, role: str) -> None:
        """Collective. Rank 0 tells who is where, and that the run has begun."""
        self.attend()
        roles = self.service.texts(role)
        if self.service.rank == 0:
            self.run.write_status(state="running", attempt=self.attempt, error="", exit_code=1)
            for rank, text in enumerate(roles):
                print(f"mpi-ltcr: rank {rank}: {text}", file=sys.stderr)
            words = f"{self.config.name}, seed {self.config.seed}, writing to {self.run.root}"
            print(f"mpi-ltcr: {words}", file=sys.stderr, flush=True)


Program = Callable[[Start], None]
Prepare = Callable[[Any, Any, Service], Program]
"""(config, comm, service of all ranks) -> the program, or an error before anything is written. Collective."""


class Job(NamedTuple):
    """What was asked for: a new run, or to go on with `resumed`."""

    config: Any
    resumed: Path | None = None
    force_unlock: bool = False
    regrouping: Regrouping | None = None

    def run(self, comm: Any, prepare: Prepare, signals: StopSignals) -> None:
        """Collective. Train to the end.

        Raises:
            JobError: on every rank alike, with the exit code.
        """
        torch.set_num_threads(self.config.runtime.threads)
        headway.made = pulse.beat  # a file that takes long is no hang
        service = Service(comm, comm.rank)
        self._agree(service)
        program = prepare(self.config, comm, service)
        if self.resumed is None:
            together(service, lambda: service.rank or self._check_space(service.size), runtime.IO)
        run = self._open_directory(service)
        attempt = run.read_status().get("attempt", 0) + 1
        guard.on_failure = lambda text, code: run.record_failure(attempt, text, code)
        guard.on_exit = run.unlock  # rank 0's; the others do not know that it has ended
        try:
            resumed = self.resumed is not None
            program(Start(self.config, comm, service, run, signals, attempt, resumed, self.regrouping))
        except JobError:  # an orderly end, e.g. without a usable checkpoint: a lock left behind would bar other hosts
            with contextlib.suppress(OSError):
                run.unlock()
            raise
        except NonFiniteError as error:
            _keep_batch(error, run.root / "crash" / f"attempt{attempt}-rank{service.rank:04d}.h5")
            raise

    def _agree(self, service: Service) -> None:
        """Collective. Before anything else: ranks that run different commands would never meet again."""
        change = f", {self.regrouping}" if self.regrouping else ""
        commands = service.texts(f"{'resume' if self.resumed else 'train'} {self.config.program}{change}")
        other = next((rank for rank, command in enumerate(commands) if command != commands[0]), 0)
        if other:
            told = f"rank 0 was started with {commands[0]}, rank {other} with {commands[other]}"
            raise JobError(f"program: {told}; start all with the same", runtime.BAD_INPUT)

    def _check_space(self, size: int) -> None:
        """Raise OSError unless the disk holds what the run will write."""
        require_space(Path(self.config.out or "runs"), run_bytes(self.config, size), "the run")

    def _open_directory(self, service: Service) -> RunDirectory:
        """Collective. Rank 0 makes or takes over the directory; all learn its path."""
        config = self.config

        def open_on_rank0() -> str:
            if service.rank:
                return ""
            path = self.resumed or Path(config.out or Path("runs") / new_name(config.name, config.seed))
            if self.resumed:
                RunDirectory(path).open(force_unlock=self.force_unlock)
            else:
                RunDirectory(path).create(options.to_yaml(config), _meta(service.size))
            return str(path)

        return RunDirectory(Path(service.announce(together(service, open_on_rank0))))


def _keep_batch(error: NonFiniteError, path: Path) -> None:
    if error.batch is not None:
        with contextlib.suppress(OSError):  # what went wrong is told in any case
            write_batch(path, error.batch)
            print(f"mpi-ltcr: the batch is kept in {path}", file=sys.stderr, flush=True)


def place(comm: Any, device: torch.device) -> str:
    """Collective. Where this rank is, in words."""
    local, per_node = runtime.local_rank(comm)
    return f"{platform.node()}, local rank {local} of {per_node}, {device}, {runtime.library()}"


def together(service: Service, action: Callable[[], Any], code: int = runtime.BAD_INPUT) -> Any:
    """Collective. `action` on every rank; if it fails on any, all raise the first one's words as a JobError."""
    result, problem = None, ""
    try:
        result = action()
    except (ValueError, OSError, RunDirectoryError, CheckpointError, ConfigError) as error:
        problem = " ".join(str(error).split())
    first = next((text for text in service.texts(problem) if text), "")
    if first:
        raise JobError(first, code)
    return result


@contextlib.contextmanager
def tolerated(what: str, event: Callable[[str, str], object]) -> Iterator[None]:
    """What the disk has against it becomes an event of the log, and training goes on: the next time, or the next
    checkpoint, may succeed."""
    try:
        yield
    except OSError as error:
        event("error", f"{what} not written: {error}")


def _meta(size: int) -> dict[str, Any]:
    """Where and with what a run was started."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "argv": sys.argv,
        "world_size": size,
        "host": platform.node(),
        "platform": platform.platform(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID", ""),
        "mpi": runtime.library(),
        "versions": {
            "mpi_ltcr": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
    }
