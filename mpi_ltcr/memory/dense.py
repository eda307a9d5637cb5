"""Transitions as rows of a ring: both observations of each in full, or by their frames (`frame_ring.ring_for`)."""

from __future__ import annotations

import numpy as np

from mpi_ltcr.interfaces import EnvSpec, State, Transition
from mpi_ltcr.memory.frame_ring import ring_for
from mpi_ltcr.memory.ring import Columns


def columns_of(spec: EnvSpec) -> Columns:
    """What a row holds."""
    obs, scalar = (np.dtype(spec.obs_dtype), spec.obs_shape), (np.dtype(np.float32), ())
    return {"obs": obs, "action": (np.dtype(np.int64), ()), "reward": scalar, "discount": scalar, "next_obs": obs}


class DenseStore:
    """A ring of whole transitions.

    Args:
        capacity: transitions that are kept; the oldest leave first.
        spec: shapes and dtype of the observations.
    """

    def __init__(self, *, capacity: int, spec: EnvSpec) -> None:
        self.ring = ring_for(capacity=capacity, columns=columns_of(spec), spec=spec)

    def __len__(self) -> int:
        return len(self.ring)

    def add(self, transition: Transition) -> int:
        return self.ring.add(
            obs=transition.obs,
            action=transition.action,
            reward=transition.reward,
            discount=transition.discount,
            next_obs=transition.next_obs,
        )

    def take(self, rows: np.ndarray) -> Transition:
        row = self.ring.take(rows)
        return Transition(row["obs"], row["action"], row["reward"], row["discount"], row["next_obs"])

    def state(self) -> State:
        return {"ring": self.ring.state()}

    def load_state(self, state: State) -> None:
        self.ring.load_state(state["ring"])
