"""Categorical DQN's two gradients for plain MLPs, by hand in numpy: autograd's numbers in a fifth of its time.

At these sizes (a batch of 32, layers of 128) autograd's bookkeeping costs several times the arithmetic. The weights are
views of the agent's flat vectors, so optimisers, copies and checkpoints do not notice. The formulas are those of
`formulas/categorical.py` and `formulas/distillation.py`; a test holds both against each other in float64 and float32.

Legend: B batch, A actions, K atoms, H units of a layer; x_0 = observations, x_i = relu(x_{i-1} W_i^T + b_i),
logits = x_L V^T + c.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.agents.soundness import names_batch
from mpi_ltcr.interfaces import Features, Lesson, Metrics, Transition
from mpi_ltcr.memory.replay import Sample
from mpi_ltcr.steppers import LocalAdam


class Layer(NamedTuple):
    """Views of one linear layer and of its gradients: weights (out, in), biases (out,)."""

    weight: np.ndarray
    bias: np.ndarray
    weight_grad: np.ndarray
    bias_grad: np.ndarray


def layers_of(values: np.ndarray, grads: np.ndarray, sizes: list[int]) -> list[Layer]:
    """Cut flat vectors (P,) into the layers of an MLP, in torch's order (weight, bias, weight, ...).

    Args:
        sizes: inputs, widths of the hidden layers, A * K.

    Raises:
        ValueError: the vector is not of such an MLP.
    """
    needed = sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes))
    if needed != len(values):
        raise ValueError(f"{len(values)} parameters are not an MLP of sizes {sizes}, which has {needed}")
    layers, start = [], 0
    for inputs, outputs in pairwise(sizes):
        middle, end = start + inputs * outputs, start + inputs * outputs + outputs
        weight, bias = values[start:middle].reshape(outputs, inputs), values[middle:end]
        layers.append(Layer(weight, bias, grads[start:middle].reshape(outputs, inputs), grads[middle:end]))
        start = end
    return layers


def forward(layers: list[Layer], x: np.ndarray) -> list[np.ndarray]:
    """x_0 (B, inputs) -> [x_0, x_1, ..., x_L, logits (B, A * K)]."""
    outputs = [x]
    for layer in layers[:-1]:
        x = x @ layer.weight.T
        x += layer.bias
        np.maximum(x, 0, out=x)
        outputs.append(x)
    logits = x @ layers[-1].weight.T
    logits += layers[-1].bias
    outputs.append(logits)
    return outputs


def backward(layers: list[Layer], outputs: list[np.ndarray], gradient: np.ndarray) -> None:
    """Fill the layers' gradients from that of the logits (B, A * K). `outputs` are those of `forward`."""
    for i in reversed(range(len(layers))):
        layer = layers[i]
        np.matmul(gradient.T, outputs[i], out=layer.weight_grad)
        np.sum(gradient, axis=0, out=layer.bias_grad)
        if i:
            gradient = gradient @ layer.weight
            gradient *= outputs[i] > 0


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, any shape."""
    masses = np.exp(logits - logits.max(-1, keepdims=True))
    masses /= masses.sum(-1, keepdims=True)
    return np.asarray(masses)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, any shape."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def log_of(masses: np.ndarray) -> np.ndarray:
    """log p, any shape, finite at 0 so that 0 log 0 = 0."""
    return np.asarray(np.log(np.maximum(masses, np.finfo(np.float32).tiny)))


def project(masses: np.ndarray, positions: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The Cramer projection Pi_C (LTCR Eq. 3): (B, K) masses at (B, K) positions -> (B, K) masses on the support.

    In the index form: the share 1 - f of a mass goes to the atom below it and f to the one above; a position on an
    atom has f = 0, so nothing is lost there.
    """
    count, last = len(masses), len(support) - 1
    b = np.clip((positions - support[0]) * (last / (support[-1] - support[0])), 0, last)
    lower = np.fmin(b, last - 1).astype(np.int64)  # for a NaN the last but one; its share is NaN all the same
    upper_share = (b - lower) * masses
    cell = (lower + (np.arange(count) * (last + 1))[:, None]).ravel()
    size = count * (last + 1)
    onto = np.bincount(cell, (masses - upper_share).ravel(), size)
    onto[1:] += np.bincount(cell, upper_share.ravel(), size)[:-1]  # `lower` is never the last atom of a row
    return np.asarray(onto.reshape(count, last + 1).astype(masses.dtype))


def divergence(target: np.ndarray, log_masses: np.ndarray) -> np.ndarray:
    """KL between target (B, K) and masses whose logarithm is given, (B,)."""
    return np.asarray((target * (log_of(target) - log_masses)).sum(-1))


class Told(NamedTuple):
    """What `FusedC51Agent._gradient` says besides the gradient."""

    log_masses: np.ndarray
    """log Z(s, a), (B, K)."""
    loss: float
    """Mean cross-entropy, without weights."""
    value: float
    """Mean expectation of Z(s, a)."""


class FusedC51Agent(C51Agent):
    """A C51 agent whose network is a plain MLP (or linear) on the CPU."""

    revisit_stepper: LocalAdam
    digest_stepper: LocalAdam

    def __init__(self, *, sizes: list[int], **parts: Any) -> None:
        """As C51Agent, and `sizes`: inputs, widths of the hidden layers, A * K."""
        super().__init__(**parts)
        grads = self.flat.grads.numpy()
        self.online = layers_of(self.flat.values.numpy(), grads, sizes)
        self.target = layers_of(self.target_flat.values.numpy(), grads, sizes)
        self.z = self.support.numpy()
        self.scale = np.asarray(self.spec.obs_scale, np.float32)

    def _logits(self, obs: np.ndarray, *, target: bool = False) -> np.ndarray:
        """(B, *obs) -> (B, A, K)."""
        outputs = forward(self.target if target else self.online, self._inputs(obs))
        return outputs[-1].reshape(len(obs), -1, len(self.z))

    def _inputs(self, obs: np.ndarray) -> np.ndarray:
        return (obs.astype(np.float32, copy=False) * self.scale).reshape(len(obs), -1)

    def _greedy(self, obs: np.ndarray) -> int:
        return int((softmax(self._logits(obs[None]))[0] @ self.z).argmax())

    def _masses(self, obs: np.ndarray, *, target: bool) -> np.ndarray:
        return softmax(self._logits(obs, target=target))

    def _values(self, obs: np.ndarray, *, target: bool) -> np.ndarray:
        return np.asarray(self._masses(obs, target=target) @ self.z)

    @names_batch
    def _follow_td(self, sample: Sample) -> Metrics:
        batch = sample.batch
        target, clipped_fraction = self._target(batch)
        told = self._gradient(Features(batch.obs, batch.action), target, sample.weights)
        norm = self.revisit_stepper.follow(told.loss)
        if self.replay.rated:
            self.replay.rate(sample.rows, divergence(target, told.log_masses))
        return {
            "td_loss": told.loss,
            "revisit_grad_norm": norm,
            "q_mean": told.value,
            "clipped_fraction": clipped_fraction,
        }

    def _target(self, batch: Transition) -> tuple[np.ndarray, float]:
        """Pi_C(r + gamma z, p(s', a*)) of Eq. 3, (B, K), and the share of positions outside of the support."""
        masses = softmax(self._logits(batch.next_obs, target=True))
        chooser = softmax(self._logits(batch.next_obs)) if self.double else masses
        best = (chooser @ self.z).argmax(-1)
        positions = batch.reward[:, None] + batch.discount[:, None] * self.z
        outside = (positions < self.z[0]) | (positions > self.z[-1])
        return project(masses[np.arange(len(best)), best], positions, self.z), float(outside.mean())

    def _follow_kl(self, lesson: Lesson) -> Metrics:
        told = self._gradient(lesson.features, lesson.target, np.ones(len(lesson.target), np.float32))
        loss = float(divergence(lesson.target, told.log_masses).mean())
        return {"distill_loss": loss, "digest_grad_norm": self.digest_stepper.follow(loss)}

    def _follow_policy(self, lesson: Lesson, temperature: float) -> Metrics:
        outputs = forward(self.online, self._inputs(lesson.features.obs))
        masses = softmax(outputs[-1].reshape(len(lesson.target), -1, len(self.z)))
        values = masses @ self.z
        log_policy = log_softmax(values / temperature)
        # d/dQ of -sum target log softmax(Q / tau); d/dlogits of Q = p . z is p (z - Q)
        at_value = (np.exp(log_policy) * lesson.target.sum(-1, keepdims=True) - lesson.target) / temperature
        gradient = masses * (self.z - values[..., None]) * (at_value / len(values))[..., None]
        backward(self.online, outputs, gradient.reshape(len(values), -1))
        loss = float(divergence(lesson.target, log_policy).mean())
        return {"distill_loss": loss, "digest_grad_norm": self.digest_stepper.follow(loss)}

    def _gradient(self, features: Features, target: np.ndarray, weights: np.ndarray) -> Told:
        """Fill `flat.grads` with that of the mean of weights (B,) * cross-entropy between target (B, K) and Z(s, a)."""
        outputs = forward(self.online, self._inputs(features.obs))
        count, atoms = target.shape
        rows = np.arange(count)
        log_masses = log_softmax(outputs[-1].reshape(count, -1, atoms)[rows, features.action])
        masses = np.exp(log_masses)
        gradient = np.zeros_like(outputs[-1])
        # d/dlogits of -sum target log softmax(logits) is softmax * (sum of target) - target
        at_action = masses * target.sum(-1, keepdims=True) - target
        gradient.reshape(count, -1, atoms)[rows, features.action] = at_action * weights[:, None] / count
        backward(self.online, outputs, gradient)
        return Told(log_masses, float(-(target * log_masses).sum() / count), float((masses @ self.z).mean()))
