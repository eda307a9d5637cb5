"""The private experience buffer (LTCR Phase 1 and 4)."""

from __future__ import annotations

import numpy as np

from mpi_ltcr.interfaces import EnvSpec, State, Transition
from mpi_ltcr.memory.ring import Ring


class UniformReplay:
    """Transitions, sampled uniformly with replacement.

    Args:
        capacity: transitions that are kept; the oldest leave first.
        spec: shapes and dtype of the observations.
        rng: draws the samples; part of the state.
    """

    def __init__(self, *, capacity: int, spec: EnvSpec, rng: np.random.Generator) -> None:
        obs = (np.dtype(spec.obs_dtype), spec.obs_shape)
        scalar = (np.dtype(np.float32), ())
        self.ring = Ring(
            capacity=capacity,
            columns={
                "obs": obs,
                "action": (np.dtype(np.int64), ()),
                "reward": scalar,
                "discount": scalar,
                "next_obs": obs,
            },
        )
        self.rng = rng

    def __len__(self) -> int:
        return len(self.ring)

    def add(self, transition: Transition) -> None:
        """Remember one step."""
        self.ring.add(**transition._asdict())

    def sample(self, batch: int) -> Transition:
        """A batch of `batch` remembered steps: obs (B, *obs), action (B,) int64, reward and discount (B,) float32."""
        return Transition(**self.ring.take(self.rng.integers(len(self.ring), size=batch)))

    def state(self) -> State:
        return {"ring": self.ring.state(), "rng": self.rng.bit_generator.state}

    def load_state(self, state: State) -> None:
        self.ring.load_state(state["ring"])
        self.rng.bit_generator.state = state["rng"]
