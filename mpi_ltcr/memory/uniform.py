"""Every remembered transition is drawn equally often."""

from __future__ import annotations

import numpy as np

from mpi_ltcr.interfaces import State


class UniformOrder:
    """Uniform, with replacement.

    Args:
        rng: draws; part of the state.
    """

    rated = False

    def __init__(self, *, rng: np.random.Generator) -> None:
        self.rng = rng

    def add(self, row: int) -> None:
        pass

    def draw(self, count: int, filled: int) -> tuple[np.ndarray, np.ndarray]:
        return self.rng.integers(filled, size=count), np.ones(count, np.float32)

    def rate(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        pass

    def state(self) -> State:
        return {"rng": self.rng.bit_generator.state}

    def load_state(self, state: State) -> None:
        self.rng.bit_generator.state = state["rng"]
