"""The public memory M0 (LTCR section 3.1): feature vectors phi = (s, a) that teammates have met.

Only states and actions: no rewards and no successors leave an agent. It lives on rank 0 and knows nothing of MPI.
"""

from __future__ import annotations

import numpy as np

from mpi_ltcr.interfaces import EnvSpec, Features, State
from mpi_ltcr.memory.frame_ring import ring_for
from mpi_ltcr.memory.ring import Columns


def columns_of(spec: EnvSpec) -> Columns:
    """What a row holds."""
    return {"obs": (np.dtype(spec.obs_dtype), spec.obs_shape), "action": (np.dtype(np.int64), ())}


class PublicMemory:
    """A ring of (s, a), sampled uniformly with replacement.

    Args:
        capacity: feature vectors that are kept; the oldest leave first.
        spec: shape and dtype of the observations.
        rng: draws the subsets Phi_0; part of the state.
    """

    def __init__(self, *, capacity: int, spec: EnvSpec, rng: np.random.Generator) -> None:
        self.ring = ring_for(capacity=capacity, columns=columns_of(spec), spec=spec)
        self.rng = rng

    def __len__(self) -> int:
        return len(self.ring)

    def add(self, features: Features) -> None:
        """Append every vector of an upload, in its order."""
        self.ring.extend(obs=features.obs, action=features.action)

    def sample(self, count: int) -> Features:
        """Phi_0: `count` vectors, obs (count, *obs) and action (count,)."""
        return Features(**self.ring.take(self.rng.integers(len(self.ring), size=count)))

    def state(self) -> State:
        return {"ring": self.ring.state(), "rng": self.rng.bit_generator.state}

    def load_state(self, state: State) -> None:
        self.ring.load_state(state["ring"])
        self.rng.bit_generator.state = state["rng"]
