"""An LTCR team that goes on with fewer or more agents, or others: each rank finds the state that belongs on its seat.

    mpirun -n 2 mpi-ltcr resume runs/a --agents 2 --keep 0,2
    mpirun -n 3 mpi-ltcr resume runs/a --agents 3 --new-agents clone-best

Who stays on its number goes on exactly; who moves to another one goes on with all that it knows, but begins a new
episode, since episodes are seeded by the number. A new agent begins its log at this frame: fresh, or with networks,
optimisers and memory of the best, and random numbers of its own. M0 stays as it is.

The new team's first checkpoint replaces the old team's last one in a single step (`archive/regroup.py`). Until then
the old team is in force, its logs and configuration untouched; from then on the new one. The same command can be given
again either way. The old team's logs and configuration are kept in RUN/teams, its checkpoints are not.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from mpi_ltcr import options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.regroup import Regrouping, Seat, put_in_force, write_files
from mpi_ltcr.comm import runtime
from mpi_ltcr.comm.runtime import JobError
from mpi_ltcr.interfaces import State
from mpi_ltcr.programs.job import together
from mpi_ltcr.programs.saving import save_together
from mpi_ltcr.programs.session import MEMORY_FILE, Session


def take_seats(session: Session, folder: Path, change: Regrouping) -> None:
    """Collective. Every rank goes on from what belongs on its seat, and the new team is saved as one.

    Args:
        folder: the old team's checkpoint, whole.

    Raises:
        JobError: a state does not fit, or the disk does not take the new team: what was in force still is.
    """
    seat = change.seats[session.member.role.agent]
    state = together(session.service, lambda: sit_down(session, folder, seat), runtime.BAD_CHECKPOINT)
    role = session.member.role
    memory = MEMORY_FILE if session.member.memory is not None and role.keeps_memory else None
    write = functools.partial(write_files, folder, role.agent, state, memory)
    config = options.to_yaml(session.config)
    commit = functools.partial(put_in_force, session.run.root, folder, change, config, session.facts())
    problem = save_together(session.service, session.run.checkpoints, session.frames, write, commit)
    if problem:
        told = f"{session.run.root}: the new team was not saved ({problem}); mend that and give the same command again"
        raise JobError(told, runtime.IO)
    session.shelf.team += 1
    session.event("info", str(change))


def sit_down(session: Session, folder: Path, seat: Seat) -> State:
    """Load what belongs on this seat into the session; the state as the new checkpoint will hold it."""
    number = session.member.role.agent
    source = next(n for n in (seat.source, seat.clone, 0) if n is not None)
    state = checkpoint.load_file(folder / checkpoint.rank_file(source))
    if seat.source is None:
        state = newcomer(state, session.state(), cloned=seat.clone is not None)
    elif seat.source != number:
        state["loop"] = in_a_new_episode(state["loop"])
        state["agent"] = without_open_steps(state["agent"], session.member.agent.state())
    session.take(state, folder, session.run.log(source))
    return state


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
        elif isinstance(value, dict) and isinstance(own.get(name), dict):
            mixed[name] = with_own_randomness(value, own[name])
        else:  # also a part that this agent has not got yet, e.g. the open segment of a memory of frames
            mixed[name] = value
    return mixed


def without_open_steps(agent: State, own: State) -> State:
    """An agent's state without the steps that wait to be joined: what comes next is of another episode."""
    if "replay" not in agent:  # an actor-critic, which waits for nothing between two rounds
        return agent
    return {**agent, "replay": {**agent["replay"], "n_step": own["replay"]["n_step"]}}


def in_a_new_episode(loop: State) -> State:
    """The state of an environment loop at the start of its next episode."""
    return {**loop, "episode": loop["episode"] + 1, "actions": np.zeros(0, np.int64)}
