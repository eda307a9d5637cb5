"""Who does what: a pure function of the number of ranks, printed by --plan before anything starts."""

from __future__ import annotations

from typing import NamedTuple


class Role(NamedTuple):
    """The part of one rank."""

    rank: int
    agent: int
    keeps_memory: bool
    """Holds the public memory M0."""


def ltcr_roles(size: int) -> list[Role]:
    """LTCR: every rank is an agent; rank 0 keeps M0 as well."""
    return [Role(rank, rank, rank == 0) for rank in range(size)]
