"""An LTCR team that goes on with fewer or more agents, or others: each rank finds the state that belongs on its seat.

    mpirun -n 2 mpi-ltcr resume runs/a --agents 2 --keep 0,2
    mpirun -n 3 mpi-ltcr resume runs/a --agents 3 --new-agents clone-best

Who stays on its number goes on exactly; who moves to another one goes on with all that it knows, but begins a new
episode, since episodes are seeded by the number. A new agent begins its log at this frame: fresh, or with networks,
optimisers and memory of the best, and random numbers of its own. M0 stays as it is.

The old team's logs and configuration are kept in RUN/teams, and a checkpoint of the new team is committed before it
trains. Until then the old one is in force, and the same command can be given again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpi_ltcr import options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.atomic import write_text
from mpi_ltcr.archive.regroup import Regrouping, Seat, drop_logs, keep_old_team
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.comm import runtime
from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.interfaces import State
from mpi_ltcr.programs.job import together
from mpi_ltcr.programs.session import Session


def take_seats(session: Session, service: Service, run: RunDirectory, folder: Path, change: Regrouping) -> None:
    """Collective. Every rank takes over what belongs on its seat; then the new team is saved as one."""

    def set_aside() -> str:
        if service.rank:
            return ""
        return str(keep_old_team(run.root, checkpoint.frames_of(folder), change.before))

    old = Path(service.announce(together(service, set_aside, runtime.IO)))
    seat = change.seats[session.member.role.agent]
    together(service, lambda: sit_down(session, folder, seat, old / "logs"), runtime.BAD_CHECKPOINT)
    session.event("info", str(change))
    if service.rank == 0:
        write_text(run.config, options.to_yaml(session.config))
    session.save()
    if service.rank == 0:
        drop_logs(run.root, len(change.seats))


def sit_down(session: Session, folder: Path, seat: Seat, logs: Path) -> None:
    """Load what belongs on this seat into the session."""
    source = next(number for number in (seat.source, seat.clone, 0) if number is not None)
    state = checkpoint.load_file(folder / checkpoint.rank_file(source))
    if seat.source is None:
        state = newcomer(state, session.state(), cloned=seat.clone is not None)
    elif seat.source != session.member.role.agent:
        state["loop"] = in_a_new_episode(state["loop"])
        state["agent"] = without_open_steps(state["agent"], session.member.agent.state())
    session.take(state, logs / f"agent{source:04d}.h5")
    if session.member.memory is not None:
        session.member.memory.load_state(checkpoint.load_file(folder / "memory.h5"))


def newcomer(team: State, own: State, *, cloned: bool) -> State:
    """The state of a new agent.

    Args:
        team: the state of a member of the old team: the clocks are the team's, and what all share of the transfer.
        own: this agent's first state.
        cloned: it knows what that member knows.
    """
    session = {**team["session"], "updates": 0, "log_rows": dict.fromkeys(team["session"]["log_rows"], 0)}
    private = ("upload_rng", "recent_returns")
    transfer = {name: own["transfer"][name] if name in private else value for name, value in team["transfer"].items()}
    agent = own["agent"]
    if cloned:
        agent = without_open_steps(with_own_randomness(team["agent"], agent), agent)
    return {"session": session, "agent": agent, "loop": own["loop"], "transfer": transfer}


def with_own_randomness(state: State, own: State) -> State:
    """`state` with every random generator from `own`, so that a clone does not repeat its model's choices."""
    mixed: State = {}
    for name, value in state.items():
        if name == "rng" or name.endswith("_rng"):
            mixed[name] = own[name]
        else:
            mixed[name] = with_own_randomness(value, own[name]) if isinstance(value, dict) else value
    return mixed


def without_open_steps(agent: State, own: State) -> State:
    """An agent's state without the steps that wait to be joined: what comes next is of another episode."""
    if "replay" not in agent:  # an actor-critic, which waits for nothing between two rounds
        return agent
    return {**agent, "replay": {**agent["replay"], "n_step": own["replay"]["n_step"]}}


def in_a_new_episode(loop: State) -> State:
    """The state of an environment loop at the start of its next episode."""
    return {**loop, "episode": loop["episode"] + 1, "actions": np.zeros(0, np.int64)}
