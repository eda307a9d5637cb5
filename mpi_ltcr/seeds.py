"""One seed -> a named tree of generators: by agent, then by purpose, then (where needed) by a counter.

The tree is stateless: the generator of (agent 1, "env", episode 7) is the same in every process and every attempt,
so a resumed run needs to remember only counters. No global generator is used anywhere.
"""

from __future__ import annotations

import numpy as np

TEAM = 2**31
"""The index of what belongs to nobody: M0's sampling, the probe set. Agents are 0, 1, 2, ..."""

PURPOSES = (
    "weights",
    "env",
    "explore",
    "replay",
    "upload",
    "subset",
    "eval_env",
    "eval_policy",
    "probe",
    "noise",
    "topology",
)
"""Append only: the position of a name is part of every run's randomness."""


class SeedTree:
    """The generators of one run.

    Args:
        seed: the run's seed, any non-negative integer.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def sequence(self, agent: int, purpose: str, *counters: int) -> np.random.SeedSequence:
        """The node of the tree; raises ValueError for a purpose without a name in PURPOSES."""
        return np.random.SeedSequence(self.seed, spawn_key=(agent, PURPOSES.index(purpose), *counters))

    def generator(self, agent: int, purpose: str, *counters: int) -> np.random.Generator:
        """A fresh PCG64 generator at this node, always in its first state."""
        return np.random.default_rng(self.sequence(agent, purpose, *counters))

    def integer(self, agent: int, purpose: str, *counters: int) -> int:
        """A 31-bit seed for what takes only an integer (an environment, torch)."""
        return int(self.sequence(agent, purpose, *counters).generate_state(1)[0] >> 1)
