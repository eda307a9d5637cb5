"""Quantile regression against its definition, against numpy's quantiles, and as a teammate of categorical agents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.agents.qr import QRAgent
from mpi_ltcr.assembly_c51 import build_c51
from mpi_ltcr.config import C51Config, TransferConfig
from mpi_ltcr.formulas import quantile
from mpi_ltcr.interfaces import EnvSpec, Features, Lesson, Transition
from mpi_ltcr.seeds import SeedTree

torch.set_num_threads(1)

SPEC = EnvSpec((4,), np.dtype(np.float32), 3)
ATOMS, QUANTILES = 21, 16


def naive_loss(theta: np.ndarray, points: np.ndarray, masses: np.ndarray, kappa: float) -> float:
    total = 0.0
    for i in range(len(theta)):
        tau = (2 * i + 1) / (2 * len(theta))
        for y, q in zip(points, masses, strict=True):
            u = y - theta[i]
            huber = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
            total += q * abs(tau - (1 if u < 0 else 0)) * huber / kappa
    return total


@pytest.mark.parametrize("kappa", [0.1, 1.0, 4.0])
def test_the_loss_is_the_double_sum_of_its_definition(kappa):
    rng = np.random.default_rng(0)
    theta, points = 2 * rng.normal(size=(3, 5)), 2 * rng.normal(size=(3, 7))
    masses = rng.dirichlet(np.ones(7), size=3)
    told = quantile.huber_loss(*(torch.from_numpy(x) for x in (theta, points, masses)), kappa)
    expected = [naive_loss(*row, kappa) for row in zip(theta, points, masses, strict=True)]
    np.testing.assert_allclose(told.numpy(), expected, rtol=1e-6)


def test_its_minimum_are_the_quantiles_of_the_points():
    rng = np.random.default_rng(1)
    points = rng.gamma(2.0, size=4001)
    theta = torch.zeros(1, 9, requires_grad=True)
    y, q = torch.from_numpy(points).float()[None], torch.full((1, 4001), 1 / 4001)
    for _ in range(400):
        (gradient,) = torch.autograd.grad(quantile.huber_loss(theta, y, q, 0.01).sum(), theta)
        with torch.no_grad():
            theta -= 2 * gradient
    expected = np.quantile(points, (np.arange(9) + 0.5) / 9)
    np.testing.assert_allclose(theta.detach().numpy()[0], expected, atol=0.03)


def test_its_answer_has_the_mass_and_the_mean_of_its_quantiles():
    z = torch.linspace(-5, 5, ATOMS)
    theta = 2 * torch.randn(6, QUANTILES, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    told = quantile.to_atoms(theta, z)
    np.testing.assert_allclose(told.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(told @ z, theta.mean(1), atol=1e-4)
    one = quantile.to_atoms(torch.tensor([[0.25, 7.0]]), z)[0]  # half between two atoms, half beyond the last
    assert one[10:12].tolist() == pytest.approx([0.25, 0.25])
    assert one[-1] == pytest.approx(0.5)


def build(values: str, index: int = 0, **switches: object) -> C51Agent:
    tiny = {"hidden": (16,), "atoms": ATOMS, "vmin": -5.0, "vmax": 5.0, "batch": 16, "warmup": 16, "lr": 5e-3}
    settings = C51Config(returns=values, quantiles=QUANTILES, replay_capacity=500, target_period=40, **tiny, **switches)
    return build_c51(settings, SPEC, SeedTree(1), index, torch.device("cpu"), 0.001, TransferConfig())


def features(count: int = 8) -> Features:
    rng = np.random.default_rng(5)
    return Features(rng.normal(size=(count, 4)).astype(np.float32), rng.integers(3, size=count))


def apart(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one.cumsum(-1) - two.cumsum(-1)).sum(-1).mean())


@pytest.mark.parametrize(("student", "teacher"), [("quantiles", "atoms"), ("atoms", "quantiles")])
def test_categorical_and_quantile_agents_learn_each_others_distributions(student, teacher):
    at, pupil = features(), build(student)
    lesson = Lesson(at, build(teacher, 1).answer(at), np.zeros(8, np.int64))
    before = apart(pupil.answer(at), lesson.target)
    for _ in range(400):
        pupil.mimic(lesson)
    assert apart(pupil.answer(at), lesson.target) < 0.15 * before


@pytest.mark.parametrize("switches", [{}, {"dueling": True, "double": True, "n_step": 3, "prioritised": True}])
def test_a_quantile_agent_learns_the_returns_of_a_chain_whose_distribution_is_known(switches):
    """Reward +1 or -1 by chance with equal odds, then the end: half the quantiles at each."""
    agent = build("quantiles", **switches)
    assert isinstance(agent, QRAgent)
    rng, obs = np.random.default_rng(3), np.ones(4, np.float32)
    for _ in range(500):
        agent.observe(Transition(obs, int(rng.integers(3)), float(rng.choice([-1.0, 1.0])), 0.0, obs, True))
    for _ in range(600):
        agent.revisit()
    theta = agent._quantiles(agent.net(torch.from_numpy(obs[None]))).detach().numpy()[0]
    assert np.abs(np.sort(theta, -1)[:, [2, -3]] - [-1, 1]).max() < 0.3
    assert np.abs(theta.mean(-1)).max() < 0.25


def test_targets_are_the_target_networks_quantiles_moved_by_reward_and_discount():
    agent = build("quantiles")
    rng = np.random.default_rng(4)
    obs = rng.normal(size=(41, 4)).astype(np.float32)
    for i in range(40):
        agent.observe(Transition(obs[i], i % 3, float(rng.normal()), 0.9 * (i % 4 > 0), obs[i + 1], i % 4 == 0))
    agent.target_flat.values.detach().mul_(-1.3)
    twin = build("quantiles", 1)
    twin.load_state(agent.state())
    batch = twin.replay.sample(16).batch
    with torch.no_grad():
        following = 5 * twin.target_net(torch.from_numpy(batch.next_obs)).numpy()
        own = 5 * twin.net(torch.from_numpy(batch.obs)).numpy()[np.arange(16), batch.action]
    total = 0.0
    for n in range(16):
        best = following[n].mean(-1).argmax()
        points = batch.reward[n] + batch.discount[n] * following[n, best]
        total += naive_loss(own[n], points, np.full(QUANTILES, 1 / QUANTILES), 0.5) / 16
    assert agent.revisit()["td_loss"] == pytest.approx(total, rel=1e-4)
