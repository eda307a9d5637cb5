"""What this process's main thread is at: a few fields that it sets as it goes, for the thread that watches over it."""

from __future__ import annotations

import zlib
from typing import NamedTuple


class Wait(NamedTuple):
    """What a main thread waits for."""

    what: str
    """In words, e.g. "the others in allgather at session:158"."""
    ranks: tuple[int, ...]
    """Of the whole job: whoever can end the waiting."""
    place: tuple[int, int] = (0, 0)
    """(communicator, number of the collective on it): equal for all who wait in the same collective. (0, 0): it is
    no collective."""


class Pulse:
    """Signs of life of one process.

    Attributes:
        beats: moves with every sign of progress.
        phase: of the program, in a word.
        waits: what for; None while it works.
        collectives: entered so far, on all communicators.
        entered: the last one on each communicator: number of the communicator -> number of the collective.
    """

    def __init__(self) -> None:
        self.beats = self.collectives = 0
        self.phase = "start"
        self.waits: Wait | None = None
        self.entered: dict[int, int] = {}
        self._communicators: dict[tuple[int, ...], int] = {}

    def communicator(self, ranks: tuple[int, ...]) -> int:
        """A number for a new communicator of these ranks, the same on all of them."""
        self._communicators[ranks] = self._communicators.get(ranks, 0) + 1
        return zlib.crc32(repr((ranks, self._communicators[ranks])).encode())

    def beat(self) -> None:
        """Something was done, or is begun now."""
        self.waits = None
        self.beats += 1

    def enter(self, phase: str) -> None:
        """A phase begins."""
        self.phase = phase
        self.beat()

    def join(self, wait: Wait) -> None:
        """A collective begins; `beat` when it is over."""
        self.collectives += 1
        self.beats += 1
        communicator, number = wait.place
        if wait.place != (0, 0):
            self.entered[communicator] = number
        self.waits = wait


pulse = Pulse()
"""Of this process."""
