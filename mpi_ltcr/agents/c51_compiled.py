"""Categorical DQN for plain MLPs as machine code (numba): `fused`, whose small numpy calls have become loops.

The arithmetic, the formulas and the interface are those of `c51_fused.py`; what is computed stands in `c51_kernels.py`.
A batch lies in columns there, so that arrays (K, B) are transposed on the way, which copies nothing.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mpi_ltcr.agents.c51_fused import FusedC51Agent, Told
from mpi_ltcr.interfaces import Features, Transition
from mpi_ltcr.steppers import LocalAdam, accepted


@functools.cache
def kernels() -> Any:
    """The module of what is compiled. Raises ImportError without numba, RuntimeError without a place to keep it."""
    from mpi_ltcr.agents import c51_kernels

    return c51_kernels


class CompiledC51Agent(FusedC51Agent):
    """A C51 agent whose network is a plain MLP (or linear) on the CPU."""

    def __init__(self, *, sizes: list[int], **parts: Any) -> None:
        super().__init__(sizes=sizes, **parts)
        self.sizes = np.array(sizes)
        self.theta, self.grads = self.flat.values.numpy(), self.flat.grads.numpy()
        self.target_theta = self.target_flat.values.numpy()

    def _greedy(self, obs: np.ndarray) -> int:
        return int(kernels().greedy(self.theta, self.sizes, self._inputs(obs[None])[0], self.z))

    def _masses(self, obs: np.ndarray, *, target: bool) -> np.ndarray:
        masses = self._powers(obs, target=target).T.reshape(len(obs), -1, len(self.z))
        masses /= masses.sum(-1, keepdims=True)
        return masses

    def _masses_at(self, features: Features, *, target: bool) -> np.ndarray:
        theta, obs = self.target_theta if target else self.theta, self._inputs(features.obs)
        logits = kernels().look_at(theta, self.sizes, obs, features.action, len(self.z))[1]
        powers = np.exp(logits, out=logits)
        return np.ascontiguousarray((powers / powers.sum(0)).T)

    def _powers(self, obs: np.ndarray, *, target: bool) -> np.ndarray:
        """Masses up to a factor for each action, (A K, B)."""
        theta = self.target_theta if target else self.theta
        logits = kernels().look(theta, self.sizes, self._inputs(obs), len(self.z))
        return np.asarray(np.exp(logits, out=logits))

    def _target(self, batch: Transition) -> tuple[np.ndarray, float]:
        powers = self._powers(batch.next_obs, target=True)
        chooser = self._powers(batch.next_obs, target=False) if self.double else powers
        best = kernels().best_of(chooser, self.z)
        target, outside = kernels().projected(powers, best, batch.reward, batch.discount, self.z)
        return target.T, outside

    def _gradient(self, features: Features, target: np.ndarray, weights: np.ndarray) -> Told:
        obs, action = self._inputs(features.obs), features.action
        rows, logits = kernels().look_at(self.theta, self.sizes, obs, action, len(self.z))
        columns, powers = np.ascontiguousarray(target.T), np.exp(logits)
        loss, value = kernels().descend(
            self.theta, self.grads, self.sizes, rows, columns, logits, powers, action, weights, self.z
        )
        return Told(logits.T, loss, value)


class CompiledAdam(LocalAdam):
    """The same steps in one pass over the vectors, where torch's kernel is compiled for older processors."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        adam, self.grads = self.adam, self.flat.grads.numpy()
        self.vectors = adam.values.numpy(), self.grads, adam.exp_avg.numpy(), adam.exp_avg_sq.numpy()
        self.steps = adam.steps.numpy()

    def follow(self, loss: float) -> float:
        """As `LocalAdam.follow`."""
        norm = accepted(self.flat, kernels().norm(self.grads), loss, self.grad_clip, self.name)
        kernels().adam(*self.vectors, self.steps, self.adam.lr, self.adam.eps)
        return norm
