"""Learning independently: the baseline, on the same code path."""

from __future__ import annotations

from mpi_ltcr.interfaces import Agent, Features, Lesson, Metrics, State


class NoTransfer:
    """Nothing is uploaded, nothing is learned from others."""

    lockstep = False

    def __init__(self) -> None:
        self.last: Metrics = {}

    def exchange(self, agent: Agent, fresh: Features) -> Lesson | None:
        return None

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None:
        pass
