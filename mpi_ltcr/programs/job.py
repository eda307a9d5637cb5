"""A run from the first collective to the last: start-up in the same order on every rank, then the program."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

from mpi_ltcr import __version__, assembly, options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.rundir import RunDirectory, RunDirectoryError, new_name
from mpi_ltcr.comm import runtime
from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.comm.roles import ltcr_roles
from mpi_ltcr.comm.runtime import JobError, StopSignals, guard
from mpi_ltcr.config import Config
from mpi_ltcr.programs import PROGRAMS
from mpi_ltcr.programs.session import Session


class Job(NamedTuple):
    """What was asked for: a new run, or to go on with `resumed`."""

    config: Config
    resumed: Path | None = None
    force_unlock: bool = False

    def run(self, comm: Any) -> None:
        """Collective. Train to the end.

        Raises:
            JobError: on every rank alike, with the exit code.
        """
        config, signals = self.config, StopSignals()
        role = ltcr_roles(comm.size)[comm.rank]
        service = Service(comm, role.agent)
        local, per_node = runtime.local_rank(comm)
        device = _together(service, lambda: assembly.torch_device(config.runtime.device, local))
        member = assembly.build_member(config, role, Service(comm, role.agent), device)
        _agree(service, assembly.fingerprint(config, member.spec, role.agent))
        run = self._open_directory(service)
        attempt = int(run.read_status().get("attempt", 0)) + 1
        guard.on_failure = lambda text, code: run.record_failure(attempt, text, code)
        session = Session(
            config=config,
            member=member,
            service=service,
            run=run,
            recorder=Recorder(path=run.log(role.agent), attributes=self._attributes(run, role.agent, comm.size)),
            signals=signals,
            attempt=attempt,
        )
        if self.resumed:
            _restore(session, service, run)
        places = service.texts(f"{platform.node()}, local rank {local} of {per_node}, {device}")
        session.event("info", f"attempt {attempt} on {places[role.agent]}, {runtime.library()}")
        if service.rank == 0:
            run.write_status(state="running", frames=session.frames, attempt=attempt, error="", exit_code=1)
            _greet(config, run, places)
        PROGRAMS[config.program](config, member, session)

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

        return RunDirectory(Path(service.announce(_together(service, open_on_rank0))))

    def _attributes(self, run: RunDirectory, agent: int, size: int) -> dict[str, Any]:
        return {
            "run_id": run.root.name,
            "agent": agent,
            "world_size": size,
            "seed": self.config.seed,
            "name": self.config.name,
            "env": self.config.env.id,
            "config_json": json.dumps(options.to_dict(self.config)),
        }


def _together(service: Service, action: Callable[[], Any], code: int = runtime.BAD_INPUT) -> Any:
    """Collective. `action` on every rank; if it fails on any, all raise the first one's words as a JobError."""
    result, problem = None, ""
    try:
        result = action()
    except (ValueError, OSError, RunDirectoryError, checkpoint.CheckpointError) as error:
        problem = " ".join(str(error).split())
    first = next((text for text in service.texts(problem) if text), "")
    if first:
        raise JobError(first, code)
    return result


def _agree(service: Service, fingerprint: str) -> None:
    """Collective. Refuse a team whose members cannot understand each other."""
    difference = assembly.disagreement(service.texts(fingerprint))
    if difference:
        raise JobError(difference, runtime.BAD_INPUT)


def _restore(session: Session, service: Service, run: RunDirectory) -> None:
    """Collective. Every rank continues from the newest whole checkpoint; newer ones that are not whole are named."""

    def choose() -> str:
        if service.rank:
            return ""
        folder, refused = checkpoint.newest_whole(run.checkpoints)
        for reason in refused:
            print(f"mpi-ltcr: checkpoint refused: {reason}; using {folder.name}", file=sys.stderr, flush=True)
        size = checkpoint.read_manifest(folder)["world_size"]
        if size != service.size:
            raise ValueError(f"{folder.name} is of {size} agents, {service.size} started; use mpirun -n {size}")
        return str(folder)

    folder = Path(service.announce(_together(service, choose, runtime.BAD_CHECKPOINT)))
    _together(service, lambda: session.restore(folder), runtime.BAD_CHECKPOINT)


def _greet(config: Config, run: RunDirectory, places: list[str]) -> None:
    for agent, place in enumerate(places):
        print(f"mpi-ltcr: agent {agent} on {place}", file=sys.stderr)
    print(f"mpi-ltcr: {config.name}, seed {config.seed}, writing to {run.root}", file=sys.stderr, flush=True)


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
