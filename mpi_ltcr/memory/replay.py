"""The private experience buffer (LTCR Phase 1 and 4): what is kept, in what order it is drawn, over how many steps.

Three parts that know nothing of each other, joined by `Replay`:

    store    where transitions lie and what they cost     dense.DenseStore
    order    which of them are drawn, with what weight    uniform.UniformOrder
    n_step   one step or several as one transition        n_step.NStep
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from mpi_ltcr.interfaces import State, Stateful, Transition
from mpi_ltcr.memory.n_step import NStep


class Sample(NamedTuple):
    """A drawn batch of B transitions."""

    batch: Transition
    """obs and next_obs (B, *obs), action (B,) int64, reward and discount (B,) float32."""
    rows: np.ndarray
    """(B,) int64: where they lie, for `Replay.rate`."""
    weights: np.ndarray
    """(B,) float32: importance weights of their losses, at most 1."""


class Store(Stateful, Protocol):
    """Rows of transitions that overwrite the oldest. Every row of `range(len(store))` can be taken."""

    def __len__(self) -> int: ...

    def add(self, transition: Transition) -> int:
        """Write a transition over the oldest row; that row's place."""
        ...

    def take(self, rows: np.ndarray) -> Transition:
        """The transitions at these places (B,), observations whole."""
        ...


class Order(Stateful, Protocol):
    """Which rows are drawn."""

    rated: bool
    """Whether `rate` is of use."""

    def add(self, row: int) -> None:
        """A row was written."""
        ...

    def draw(self, count: int, filled: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` places out of range(filled), (B,) int64, and the weights of their losses, (B,) float32."""
        ...

    def rate(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        """How much was learned from these rows: (B,) and (B,), not negative."""
        ...


class Replay:
    """Private experience."""

    def __init__(self, *, store: Store, order: Order, n_step: NStep) -> None:
        self.store, self.order, self.n_step = store, order, n_step

    def __len__(self) -> int:
        return len(self.store)

    @property
    def rated(self) -> bool:
        """Whether `rate` is of use."""
        return self.order.rated

    def add(self, transition: Transition) -> None:
        """Remember one step, as soon as the steps that belong to it have followed."""
        for joined in self.n_step.push(transition):
            self.order.add(self.store.add(joined))

    def sample(self, count: int) -> Sample:
        """A batch of `count` transitions."""
        rows, weights = self.order.draw(count, len(self.store))
        return Sample(self.store.take(rows), rows, weights)

    def rate(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        """Tell how much was learned from rows of a sample: (B,) and (B,), not negative."""
        self.order.rate(rows, priorities)

    def state(self) -> State:
        return {"store": self.store.state(), "order": self.order.state(), "n_step": self.n_step.state()}

    def load_state(self, state: State) -> None:
        self.store.load_state(state["store"])
        self.order.load_state(state["order"])
        self.n_step.load_state(state["n_step"])
