"""Who teaches whom in a round: the paper lets all teach all; the others cost less where there are many agents.

Legend
    N          agents of the team                  k    teachers of each student
    teachers   (N, k) int64: row i names agent i's teachers in ascending order, never i itself
    returns    (N,): each agent's recent return, -inf before its first episode has ended

Every rank computes the whole table, and the same one: it depends on nothing but its arguments.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np

from mpi_ltcr.interfaces import Episode, State

RECENT = 10
"""Training episodes whose mean is an agent's recent return."""


def everybody(size: int, k: int, rng: np.random.Generator, returns: np.ndarray) -> np.ndarray:
    """All teammates (LTCR Figure 1); k is then N - 1, whatever was said."""
    return _others(size)


@functools.cache
def _others(size: int) -> np.ndarray:
    return np.array([[j for j in range(size) if j != i] for i in range(size)], np.int64).reshape(size, size - 1)


def ring(size: int, k: int, rng: np.random.Generator, returns: np.ndarray) -> np.ndarray:
    """The agent before oneself; the last one teaches the first."""
    return (np.arange(size, dtype=np.int64)[:, None] - 1) % size


def random_k(size: int, k: int, rng: np.random.Generator, returns: np.ndarray) -> np.ndarray:
    """k teammates, drawn for each student anew, without replacement."""
    lots = rng.random((size, size))
    np.fill_diagonal(lots, 2.0)
    return np.sort(np.argsort(lots, axis=1)[:, :k], axis=1)


def best_k(size: int, k: int, rng: np.random.Generator, returns: np.ndarray) -> np.ndarray:
    """The k teammates of highest recent return; of equal ones those of lower number."""
    ranking = np.argsort(-returns, kind="stable")
    return np.sort([[j for j in ranking if j != i][:k] for i in range(size)], axis=1).astype(np.int64)


TOPOLOGIES: dict[str, Callable[[int, int, np.random.Generator, np.ndarray], np.ndarray]] = {
    "all": everybody,
    "ring": ring,
    "random-k": random_k,
    "best-k": best_k,
}


class Topology:
    """One rank's copy of what decides who teaches whom; all copies decide alike.

    Args:
        name: of an entry of TOPOLOGIES.
        size: N.
        k: teachers of each student, below N.
        rng: draws random-k; seeded alike on all ranks and advanced alike; part of the state.
    """

    def __init__(self, *, name: str, size: int, k: int, rng: np.random.Generator) -> None:
        self.name, self.size, self.k, self.rng = name, size, k, rng
        self.ranked = name == "best-k"
        """Whether it must be told everyone's recent return."""
        self._returns: deque[float] = deque(maxlen=RECENT)

    def note(self, episodes: Iterable[Episode]) -> None:
        """This agent's training episodes that have ended."""
        self._returns.extend(episode.value for episode in episodes)

    @property
    def recent(self) -> float:
        """This agent's recent return."""
        return math.fsum(self._returns) / len(self._returns) if self._returns else -np.inf

    def teachers(self, returns: np.ndarray) -> np.ndarray:
        """The table of this round, (N, k)."""
        return TOPOLOGIES[self.name](self.size, self.k, self.rng, returns)

    def state(self) -> State:
        """What this topology remembers from round to round; most remember nothing."""
        if self.name == "random-k":
            return {"topology_rng": self.rng.bit_generator.state}
        return {"recent_returns": np.array(self._returns, np.float64)} if self.ranked else {}

    def load_state(self, state: State) -> None:
        if self.name == "random-k":
            self.rng.bit_generator.state = state["topology_rng"]
        if self.ranked:
            self._returns = deque(state["recent_returns"].tolist(), RECENT)
