"""Whether a job still goes on, and who holds it up if not: pure conclusions from the pulses of its ranks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from mpi_ltcr.comm.pulse import Wait

OUT_OF_STEP_S = 10.0
"""Seconds after which two that wait for each other in different collectives are told of."""
HANG, INTERNAL = 75, 70


class Seen(NamedTuple):
    """One rank's pulse, as another one knows it."""

    rank: int
    phase: str
    silence_s: float
    """Without progress, at least."""
    waits: Wait | None
    steady: bool = False
    """Has said twice since its last progress that it is there."""
    entered: Mapping[int, int] = MappingProxyType({})
    """Communicator -> number of the last collective that it has come to there."""

    def __str__(self) -> str:
        doing = f"waits for {self.waits.what}" if self.waits else f"is in phase {self.phase}"
        return f"rank {self.rank} {doing}, no progress for {self.silence_s:.0f} s"


class Verdict(NamedTuple):
    """Who holds the job up, in one line, and the exit code that says so."""

    guilty: int
    text: str
    code: int


def judge(me: Seen, others: list[Seen], limit_s: float) -> Verdict | None:
    """Whether this rank's waiting will never end, and who is to blame. Pure.

    - Who does not wait and has been silent for the limit is stuck itself.
    - Who waits follows the waits of those that it waits for: if one of them has moved within the limit, all is well;
      else it blames the one that has been silent for longest among those that do not wait.
    - Two that wait for each other, each in a collective that the other has not come to, are out of step at once.
    """
    if me.waits is None:
        return stuck(me) if me.silence_s >= limit_s else None
    for other in others:
        if out_of_step(me, other, min(OUT_OF_STEP_S, limit_s / 2)):
            text = f"the ranks' collectives are out of step: {_where(me)}, {_where(other)}"
            return Verdict(other.rank, text, INTERNAL)
    chain = [other for other in blockers(me, others) if not _together(me, other)]
    if me.silence_s < limit_s or any(other.silence_s < limit_s for other in chain):
        return None
    return accuse(me, chain)


def accuse(me: Seen, chain: list[Seen]) -> Verdict:
    """The most likely culprit among those that `me` waits for: silent for longest, not waiting itself if possible."""
    suspects = [other for other in chain if other.waits is None] or chain
    if not suspects:
        return Verdict(me.rank, f"{me} with all the others; the network or MPI itself may be at fault", HANG)
    guilty = max(suspects, key=lambda other: other.silence_s)
    return Verdict(guilty.rank, f"{stuck(guilty).text}; {me}", HANG)


def stuck(seen: Seen) -> Verdict:
    """Blame this one."""
    return Verdict(seen.rank, f"rank {seen.rank} holds the job up: {seen}", HANG)


def _where(seen: Seen) -> str:
    assert seen.waits is not None
    return f"rank {seen.rank} waits for {seen.waits.what} (number {seen.waits.place[1]})"


def _together(me: Seen, other: Seen) -> bool:
    """Whether both wait in the same collective, so that neither is the other's problem."""
    assert me.waits is not None
    return other.waits is not None and other.waits.place == me.waits.place != (0, 0)


def out_of_step(me: Seen, other: Seen, after_s: float) -> bool:
    """Whether these two wait for each other, each where the other has not been, and have done so for this long.

    One that is merely ahead has done its part of what the other waits in: that one waits for a third, or for a network
    that has lost its message.
    """
    mine, theirs = me.waits, other.waits
    if mine is None or theirs is None or (0, 0) in (mine.place, theirs.place):
        return False
    mutual = other.rank in mine.ranks and me.rank in theirs.ranks
    strangers = not _has_come_to(other, mine.place) and not _has_come_to(me, theirs.place)
    return mutual and strangers and other.steady and min(me.silence_s, other.silence_s) >= after_s


def _has_come_to(seen: Seen, place: tuple[int, int]) -> bool:
    communicator, number = place
    return seen.entered.get(communicator, -1) >= number


def blockers(me: Seen, others: list[Seen]) -> list[Seen]:
    """Everybody whose progress `me` depends on: those that it waits for, those that they wait for, and so on."""
    known = {other.rank: other for other in others}
    found: dict[int, Seen] = {}
    ahead = list(me.waits.ranks) if me.waits else []
    while ahead:
        rank = ahead.pop()
        if rank == me.rank or rank in found or rank not in known:
            continue
        found[rank] = known[rank]
        waits = known[rank].waits
        ahead += waits.ranks if waits else ()
    return list(found.values())
