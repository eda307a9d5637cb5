"""What can teach more is drawn more often: prioritised experience replay (Schaul et al. 2016; Rainbow's settings).

Legend
    p_i    priority of row i: how much the last update learned from it (Rainbow: its KL loss)
    ω, β   exponents of the priorities and of the importance weights
    N      rows that are filled

    P(i) = p_i^ω / Σ_j p_j^ω                w_i = (N P(i))^-β / max_j w_j, the maximum over the batch
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpi_ltcr.interfaces import State
from mpi_ltcr.memory.sum_tree import SumTree

SMALLEST = 1e-6
"""Added to every priority, so that what was learned perfectly is still drawn now and then."""


class PrioritisedOrder:
    """Proportional prioritisation. New rows get the largest priority that was ever given (1 before the first).

    Args:
        capacity: rows of the store.
        omega: of the priorities; 0 is uniform.
        beta_of: transitions ever added -> beta; 1 removes the bias of the sampling.
        rng: draws; part of the state.
    """

    rated = True

    def __init__(
        self, *, capacity: int, omega: float, beta_of: Callable[[int], float], rng: np.random.Generator
    ) -> None:
        self.capacity, self.omega, self.beta_of, self.rng = capacity, float(omega), beta_of, rng
        self.tree = SumTree(capacity=capacity)
        self.added = 0
        self.largest = 1.0
        """Of p^omega."""

    def add(self, row: int) -> None:
        self.tree.set(np.array([row]), self.largest)
        self.added += 1

    def draw(self, count: int, filled: int) -> tuple[np.ndarray, np.ndarray]:
        """Stratified: one row out of each of `count` equal parts of the total priority."""
        total = self.tree.total
        rows = self.tree.find((np.arange(count) + self.rng.random(count)) * (total / count))
        weights = (filled * self.tree.values(rows) / total) ** -self.beta_of(self.added)
        return rows, (weights / weights.max()).astype(np.float32)

    def rate(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        """Set the priorities of rows; what rounding made negative counts as 0."""
        powered = (np.maximum(priorities.astype(np.float64), 0.0) + SMALLEST) ** self.omega
        self.tree.set(rows, powered)
        self.largest = max(self.largest, float(powered.max()))

    def state(self) -> State:
        """The priorities of the filled rows; the sums above them follow."""
        filled = min(self.added, self.capacity)
        return {
            "added": self.added,
            "largest": self.largest,
            "powered": self.tree.values(np.arange(filled)),
            "rng": self.rng.bit_generator.state,
        }

    def load_state(self, state: State) -> None:
        """Take over a saved state. Raises ValueError if it is of another capacity."""
        if len(state["powered"]) != min(state["added"], self.capacity):
            raise ValueError(f"{len(state['powered'])} priorities were saved, the replay holds {self.capacity}")
        self.added, self.largest = state["added"], state["largest"]
        self.tree = SumTree(capacity=self.capacity)
        self.tree.set(np.arange(len(state["powered"])), state["powered"])
        self.rng.bit_generator.state = state["rng"]
