"""Learning independently: the baseline, on the same code path."""

from __future__ import annotations

from collections.abc import Iterable

from mpi_ltcr.interfaces import Agent, Episode, Features, Lesson, Metrics, State


class NoTransfer:
    """Nothing is uploaded, nothing is learned from others."""

    lockstep = False

    def __init__(self) -> None:
        self.last: Metrics = {}

    def exchange(self, agent: Agent, fresh: Features, episodes: Iterable[Episode] = ()) -> Lesson | None:
        return None

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None:
        pass
