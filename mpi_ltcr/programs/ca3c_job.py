"""cA3C's start-up: roles, teachers that fit, servers and workers; then each rank's own loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mpi_ltcr import assembly_ca3c as assembly
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.comm import runtime
from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.comm.mailbox import Mailbox
from mpi_ltcr.comm.parameter_server import ParameterServer, ServerLink
from mpi_ltcr.comm.roles import CA3CRole, ca3c_roles
from mpi_ltcr.comm.runtime import JobError
from mpi_ltcr.config import CA3CConfig
from mpi_ltcr.programs.ca3c import ca3c
from mpi_ltcr.programs.continuity import kept
from mpi_ltcr.programs.job import Program, Start, place, together
from mpi_ltcr.programs.needs import check_networks
from mpi_ltcr.programs.serving import Serving
from mpi_ltcr.programs.workshop import Workshop


class Crew(NamedTuple):
    """Who is who in a run."""

    config: CA3CConfig
    roles: list[CA3CRole]

    def server(self, task: int) -> int:
        """Rank of a task's server."""
        return next(role.rank for role in self.roles if role.task == task and role.serves)

    def workers(self, task: int) -> list[int]:
        """Ranks of a task's workers."""
        return [role.rank for role in self.roles if role.task == task and role.worker is not None]

    def guests(self, task: int) -> list[int]:
        """Ranks of other tasks' workers that learn from this one's newest weights."""
        name = self.config.tasks[task].name
        students = [
            number
            for number, other in enumerate(self.config.tasks)
            if any(t.checkpoint is None and t.task == name for t in other.teachers)
        ]
        return [rank for student in students for rank in self.workers(student)]


def prepare_ca3c(config: CA3CConfig, comm: Any, service: Service) -> Program:
    """Collective. Load the teachers of this rank's task; raises JobError if one, or a network, does not fit."""
    crew = Crew(config, ca3c_roles([config.workers_of(t) for t in config.tasks], shared=config.server == "shared"))
    role = crew.roles[comm.rank]
    task = config.tasks[role.task]
    parameters = together(service, lambda: assembly.parameters_of(config.agent, assembly.spec_of(task.env)))
    together(service, lambda: check_networks(parameters, "agent.hidden, agent.lstm", comm))
    teachings = together(service, lambda: [assembly.load_teaching(config, task, t) for t in task.teachers])
    store = together(service, lambda: assembly.build_store(config, role.task, teachings))
    return functools.partial(_run, crew, role, teachings, store, comm)


def _run(crew: Crew, role: CA3CRole, teachings: list[assembly.Teaching], store: Any, comm: Any, start: Start) -> None:
    """Collective. Serve, work, or both, until every task is done."""
    config, lane = crew.config, comm.Dup()
    mailbox = Mailbox(comm.Dup())
    serving = _serving(crew, role, store, lane, mailbox, start) if role.serves else None
    workshop = worker = None
    if role.worker is not None:
        worker, workshop = _workshop(crew, role, teachings, store, lane, mailbox, start, serving)
    if start.resumed:
        _restore(crew, role, start, serving, workshop)
    if serving:
        serving.event("info", f"attempt {start.attempt} begins at T = {serving.server.frames}")
    start.greet(f"{_words(crew, role)} on {place(comm, torch.device('cpu'))}")
    if worker and workshop:
        ca3c(worker, workshop)
    if serving:
        while serving.step():
            serving.rest()
        serving.finish()
    start.service.any(False)  # nobody leaves before all have done their work
    _end(start, config, serving)


def _serving(crew: Crew, role: CA3CRole, store: Any, lane: Any, mailbox: Mailbox, start: Start) -> Serving:
    config = crew.config
    server = ParameterServer(
        comm=lane,
        store=store,
        workers=crew.workers(role.task),
        guests=crew.guests(role.task),
        sizes=store.sizes,
        games=int(config.tasks[role.task].env.copies),
        limit=int(config.frames),
        save_every=int(config.checkpoint.every),
        patience_s=float(config.runtime.patience_s),
    )
    tasks = range(len(config.tasks))
    return Serving(
        name=config.tasks[role.task].name,
        server=server,
        store=store,
        mailbox=mailbox,
        others=[crew.server(task) for task in tasks if task != role.task],
        run=start.run,
        recorder=start.recorder(start.run.logs / f"server{role.task:04d}.h5", role.task),
        signals=start.signals,
        publish_s=float(config.log.publish_s),
        keep=int(config.checkpoint.keep),
        facts={"world_size": start.service.size, "config": kept(config)},
        first=role.rank == 0,
    )


def _workshop(
    crew: Crew,
    role: CA3CRole,
    teachings: list[assembly.Teaching],
    store: Any,
    lane: Any,
    mailbox: Mailbox,
    start: Start,
    serving: Serving | None,
) -> tuple[assembly.Worker, Workshop]:
    config, task = crew.config, crew.config.tasks[role.task]
    assert role.worker is not None
    idle: Callable[[], object] = serving.step if serving else lambda: None
    link_to = functools.partial(ServerLink, comm=lane, patience_s=float(config.runtime.patience_s), idle=idle)
    link = link_to(
        server=crew.server(role.task),
        kinds=list(store.sizes),
        values=len(store.values),
        here=serving.server if serving else None,
    )
    guests: dict[int, ServerLink] = {}
    newest: list[Callable[[], np.ndarray] | None] = []
    for teaching in teachings:
        if teaching.weights is not None:
            newest.append(None)
            continue
        number = [t.name for t in config.tasks].index(teaching.config.task)
        network = teaching.parameters
        if number not in guests:
            values = assembly.served_values(config, number)
            guests[number] = link_to(server=crew.server(number), values=values)
        newest.append(functools.partial(_fetch, guests[number], network))
    worker = assembly.build_worker(config, task, role.worker, teachings, newest, link.stage, idle)
    workshop = Workshop(
        worker=worker,
        rank=role.rank,
        link=link,
        guests=list(guests.values()),
        mailbox=mailbox,
        checkpoints=start.run.task_checkpoints(task.name),
        recorder=start.recorder(start.run.log(role.rank), role.rank),
        signals=start.signals,
        publish_s=float(config.log.publish_s),
    )
    return worker, workshop


def _fetch(link: ServerLink, network: int) -> np.ndarray:
    """The newest weights (P,) of another task's network."""
    link.exchange(0)
    return link.values[:network]


def _restore(crew: Crew, role: CA3CRole, start: Start, serving: Serving | None, workshop: Workshop | None) -> None:
    """Collective. Each task goes on from its own newest whole checkpoint."""
    checkpoints = start.run.task_checkpoints(crew.config.tasks[role.task].name)
    chosen = start.newest_whole(checkpoints, chooses=role.serves, size=start.service.size)
    folder = Path(chosen[crew.server(role.task)])

    def load() -> None:
        if serving:
            serving.load_state(checkpoint.load_file(folder / assembly.SERVER_FILE))
        if workshop:
            workshop.frames = checkpoint.frames_of(folder)
            workshop.load_state(checkpoint.load_file(folder / checkpoint.rank_file(role.rank)))

    together(start.service, load, runtime.BAD_CHECKPOINT)


def _words(crew: Crew, role: CA3CRole) -> str:
    task = crew.config.tasks[role.task]
    parts = [f"server of {task.name}"] if role.serves else []
    if role.worker is not None:
        teachers = ", ".join(t.task for t in task.teachers)
        parts.append(f"worker {role.worker} on {task.name}" + (f", learning from {teachers}" if teachers else ""))
    return " and ".join(parts)


def _end(start: Start, config: CA3CConfig, serving: Serving | None) -> None:
    """Collective. The record that says how it ended."""
    problems = start.service.texts(serving.problem if serving else "")
    stopped = start.service.any(serving is not None and serving.server.frames < config.frames)
    problem = next((text for text in problems if text), "")
    code = runtime.IO if problem else runtime.PREEMPTED if stopped else runtime.COMPLETED
    if start.service.rank == 0:
        assert serving is not None
        state = "failed" if problem else "preempted" if stopped else "completed"
        start.run.write_status(state=state, frames=serving.server.frames, exit_code=code, error=problem)
        start.run.unlock()
    if problem:
        raise JobError(f"the last checkpoint was not written: {problem}; free disk space", code)
    if stopped:
        raise JobError(f"stopped and saved; go on: mpi-ltcr resume {start.run.root}", code)
