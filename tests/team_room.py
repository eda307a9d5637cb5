"""A team in one process: each agent is a thread, and a table takes the place of MPI. For tests of transfers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np


class Room:
    """Where the agents meet: the collectives of `comm.collectives.Service`.

    Attributes:
        heard: (speaker, listener) of every point-to-point message so far.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.table: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=20)
        self.heard: list[tuple[int, int]] = []

    def all(self, agent: int, payload: np.ndarray) -> np.ndarray:
        self.table[agent] = np.array(payload)
        self.barrier.wait()
        everything = np.stack(self.table)
        self.barrier.wait()
        return everything


class Seat:
    """One agent's view of the room; `calls` names its collectives in their order."""

    def __init__(self, room: Room, agent: int) -> None:
        self.room, self.agent, self.rank, self.size = room, agent, agent, room.size
        self.sent = self.received = 0
        self.seconds = 0.0
        self.calls: list[str] = []

    def gather(self, payload: np.ndarray) -> np.ndarray | None:
        self.calls.append("gather")
        everything = self.room.all(self.agent, payload)
        return everything if self.agent == 0 else None

    def bcast(self, payload: np.ndarray) -> np.ndarray:
        self.calls.append("bcast")
        return np.asarray(self.room.all(self.agent, payload)[0])

    def allgather(self, payload: np.ndarray) -> np.ndarray:
        self.calls.append("allgather")
        return self.room.all(self.agent, payload)

    def hear(self, payload: np.ndarray, speakers: np.ndarray) -> np.ndarray:
        self.calls.append("hear")
        tables = self.room.all(self.agent, speakers)
        assert (tables == tables[0]).all(), "the ranks disagree on who teaches whom"
        everything = self.room.all(self.agent, payload)
        mine = speakers[self.agent]
        self.room.heard += [(int(speaker), self.agent) for speaker in mine]
        return everything[mine]

    def total(self, values: np.ndarray) -> np.ndarray:
        self.calls.append("total")
        return np.asarray(self.room.all(self.agent, values).sum(0))


def in_threads(part: Callable[[int], Any], size: int) -> list[Any]:
    """`part(agent)` of all agents at the same time; raises the first error of any. A barrier breaks by its timeout."""
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(agent: int) -> None:
        try:
            results[agent] = part(agent)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(agent,)) for agent in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
