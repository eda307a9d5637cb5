"""The switches of the C51 agent: each against a naive reading of its definition, then all combinations of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.assembly_c51 import build_c51
from mpi_ltcr.config import C51Config
from mpi_ltcr.interfaces import EnvSpec, Transition
from mpi_ltcr.memory.prioritised import SMALLEST
from mpi_ltcr.seeds import SeedTree

torch.set_num_threads(1)

ACTIONS, ATOMS = 3, 11
SPEC = EnvSpec((4,), np.dtype(np.float32), ACTIONS)
Z = np.linspace(-5, 5, ATOMS)


def build(index: int = 0, **switches: object) -> C51Agent:
    tiny = {"hidden": (12, 8), "atoms": ATOMS, "vmin": -5.0, "vmax": 5.0, "batch": 8, "warmup": 8, "lr": 1e-2}
    settings = C51Config(**{**tiny, "replay_capacity": 60, "target_period": 10, **switches})
    return build_c51(settings, SPEC, SeedTree(4), index, torch.device("cpu"), 0.001, "online")


def experience(count: int, seed: int = 0) -> list[Transition]:
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(count + 1, 4)).astype(np.float32)
    over = rng.random(count) < 0.2
    discount = np.where(over & (rng.random(count) < 0.5), 0.0, 0.9)
    return [
        Transition(
            obs[i], int(rng.integers(ACTIONS)), float(rng.normal()), float(discount[i]), obs[i + 1], bool(over[i])
        )
        for i in range(count)
    ]


def feed(agent: C51Agent, count: int = 40, seed: int = 0) -> C51Agent:
    for transition in experience(count, seed):
        agent.observe(transition)
    return agent


def masses(net: torch.nn.Module, obs: np.ndarray) -> np.ndarray:
    """(B, A, K), in float64 from the network's logits."""
    logits = net(torch.from_numpy(obs)).detach().numpy().astype(np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def projected(reward: float, discount: float, at: np.ndarray) -> np.ndarray:
    """Pi_C, one atom at a time."""
    row = np.zeros(ATOMS)
    for z, mass in zip(Z, at, strict=True):
        place = (min(max(reward + discount * z, -5.0), 5.0) + 5) / (Z[1] - Z[0])
        low = min(math.floor(place), ATOMS - 2)
        row[low] += mass * (low + 1 - place)
        row[low + 1] += mass * (place - low)
    return row


@pytest.mark.parametrize("backend", ["eager", "fused"])
@pytest.mark.parametrize("double", [False, True])
def test_targets_weights_and_priorities_are_those_of_the_definitions(backend, double):
    """One update of a prioritised agent: gradient, loss and new priorities, from masses and sums written out."""
    agent = feed(build(backend=backend, double=double, prioritised=True, priority_omega=0.6, beta_start=0.7, n_step=2))
    agent.target_flat.values.detach().mul_(-1.3)  # whose choice differs from the online network's
    rng = np.random.default_rng(2)
    agent.replay.rate(np.arange(len(agent.replay)), rng.random(len(agent.replay)) ** 4)
    twin = build_and_load(agent, backend=backend, double=double, prioritised=True, priority_omega=0.6, beta_start=0.7,
                          n_step=2)  # fmt: skip
    sample = twin.replay.sample(8)
    batch = sample.batch
    values = [masses(net, batch.next_obs) @ Z for net in (twin.net, twin.target_net)]
    choice = values[0 if double else 1].argmax(-1)
    assert (values[0].argmax(-1) != values[1].argmax(-1)).any()  # else the test could not tell them apart
    evaluated = masses(twin.target_net, batch.next_obs)[np.arange(8), choice]
    targets = np.stack([projected(*row) for row in zip(batch.reward, batch.discount, evaluated, strict=True)])
    assert sample.weights.min() < 0.9

    logits = twin.net(torch.from_numpy(batch.obs))[torch.arange(8), torch.from_numpy(batch.action)]
    entropies = -(torch.from_numpy(targets).float() * torch.log(torch.softmax(logits, 1))).sum(1)
    loss = sum(float(w) * entropy for w, entropy in zip(sample.weights, entropies, strict=True)) / 8
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(twin.net.parameters()))])

    told = agent.revisit()
    assert torch.allclose(agent.flat.grads, expected, atol=1e-6)
    assert told["td_loss"] == pytest.approx(float(entropies.detach().mean()), rel=1e-5)
    own = [sum(-t * math.log(t) for t in row if t > 0) for row in targets]
    divergences = entropies.detach().numpy() - own
    assert divergences.min() > 0
    found = agent.replay.order.tree.values(sample.rows)
    np.testing.assert_allclose(found, (divergences + SMALLEST) ** 0.6, rtol=1e-3)


def build_and_load(agent: C51Agent, **switches: object) -> C51Agent:
    twin = build(1, **switches)
    twin.load_state(agent.state())
    return twin


def test_beta_goes_from_its_start_to_one_with_the_transitions():
    agent = build(prioritised=True, beta_start=0.4, beta_frames=40)
    told = []
    for transition in experience(60):
        told.append(agent.replay.order.beta_of(agent.replay.order.added))
        agent.observe(transition)
    assert told[0] == 0.4
    assert told[20] == pytest.approx(0.7)
    assert told[40] == told[59] == 1.0
