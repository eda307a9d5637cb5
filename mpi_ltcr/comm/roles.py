"""Who does what: a pure function of the number of ranks, printed by --plan before anything starts."""

from __future__ import annotations

from typing import NamedTuple


class Role(NamedTuple):
    """The part of one rank."""

    rank: int
    agent: int
    keeps_memory: bool
    """Holds the public memory M0."""


class CA3CRole(NamedTuple):
    """The part of one rank in cA3C."""

    rank: int
    task: int
    """Number of its task."""
    serves: bool
    """Owns the task's parameters."""
    worker: int | None
    """Number of its agent among all workers of the run; None: it only serves."""


def ca3c_roles(workers: list[int], *, shared: bool) -> list[CA3CRole]:
    """cA3C: one server per task, then the tasks' workers.

    Args:
        workers: of each task.
        shared: the first worker of a task serves as well; otherwise the servers have the first ranks to themselves.
    """
    roles: list[CA3CRole] = []
    if not shared:
        roles = [CA3CRole(rank, rank, True, None) for rank in range(len(workers))]
    for task, count in enumerate(workers):
        for place in range(count):
            number = sum(workers[:task]) + place
            roles.append(CA3CRole(len(roles), task, shared and place == 0, number))
    return roles


def ltcr_roles(size: int) -> list[Role]:
    """LTCR: every rank is an agent; rank 0 keeps M0 as well."""
    return [Role(rank, rank, rank == 0) for rank in range(size)]
