"""LTCR's start-up: roles, members that understand each other, restoring."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpi_ltcr import assembly, assembly_agents, devices
from mpi_ltcr.archive.regroup import settle
from mpi_ltcr.comm import node, runtime
from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.comm.roles import Role, ltcr_roles
from mpi_ltcr.comm.runtime import JobError
from mpi_ltcr.config import Config, require
from mpi_ltcr.programs.job import Program, Start, place, together
from mpi_ltcr.programs.ltcr import ltcr
from mpi_ltcr.programs.needs import check_networks, spec_of
from mpi_ltcr.programs.regrouping import take_seats
from mpi_ltcr.programs.session import Session
from mpi_ltcr.rivals import Rivals, find


def prepare_ltcr(
    config: Config, comm: Any, service: Service, roles: Callable[[int], list[Role]] = ltcr_roles
) -> Program:
    """Collective. This rank's member of the team; raises JobError if the members cannot understand each other."""
    role = roles(comm.size)[comm.rank]
    local, _ = runtime.local_rank(comm)
    device = together(service, lambda: devices.torch_device(config.device_of(role.agent), local))
    together(service, lambda: devices.check_precision(config.runtime.precision, device))
    on_gpus, _ = node.total_of_node(comm, device.type == "cuda")
    spec = together(service, lambda: spec_of(config))
    parameters = assembly_agents.parameters_of(config.agent_of(role.agent), spec)
    left = together(service, lambda: check_networks(parameters, "agent.hidden, agent.atoms", comm))
    need = assembly.memory_need(config, spec, role)
    together(service, lambda: _check_memory(config, comm, need, left))
    rivals = _agree_on_rivals(config, service)
    own = Service(comm, role.agent)
    member = together(service, lambda: assembly.build_member(config, role, own, device, rivals))
    difference = assembly.disagreement(service.texts(assembly.fingerprint(config, member.spec, role.agent)))
    if difference:
        raise JobError(difference, runtime.BAD_INPUT)

    def program(start: Start) -> None:
        session = Session(
            config=config,
            member=member,
            service=Service(comm, role.agent),
            run=start.run,
            recorder=start.recorder(start.run.log(role.agent), role.agent),
            signals=start.signals,
            attempt=start.attempt,
        )
        if start.resumed:
            _restore(session, service, start)
        where = place(comm, device)
        session.event("info", f"attempt {start.attempt} on {where}")
        if crowd := devices.crowd(device, on_gpus):
            session.event("warning", crowd)
            if service.rank == 0:
                print(f"mpi-ltcr: warning: {crowd}", file=sys.stderr, flush=True)
        start.greet(f"agent {role.agent} on {where}")
        ltcr(config, member, session)

    return program


def _agree_on_rivals(config: Config, service: Service) -> Rivals | None:
    """Collective. Who plays the enemies; a frozen team as rank 0 finds it, so that all take the same checkpoint."""
    rivals: Rivals | None = together(service, lambda: find(config))
    if rivals is None or rivals.folder is None:
        return rivals
    if service.rank == 0:
        for reason in rivals.refused:
            print(f"mpi-ltcr: checkpoint refused: {reason}; using {rivals.folder.name}", file=sys.stderr, flush=True)
    return rivals._replace(folder=Path(service.announce(str(rivals.folder))))


def _check_memory(config: Config, comm: Any, need: int, left: int | None) -> None:
    """Collective. Raise ConfigError unless the memories of all agents of this node fit into what it has left."""
    need, agents = node.total_of_node(comm, need)
    problem = assembly.memory_problem(config, need, agents, left)
    require(not problem, problem)


def _restore(session: Session, service: Service, start: Start) -> None:
    """Collective. Every rank continues from the newest whole checkpoint."""
    change = start.regrouping
    before = change.before if change else service.size
    folder = Path(start.newest_whole(start.run.checkpoints, chooses=service.rank == 0, size=before)[0])

    def follow() -> None:
        if service.rank == 0:
            settle(start.run.root, folder)

    together(service, follow, runtime.IO)
    if change:
        take_seats(session, folder, change)
    else:
        together(service, lambda: session.restore(folder), runtime.BAD_CHECKPOINT)
