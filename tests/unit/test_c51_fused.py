"""The gradients by hand against autograd, and the projection against the formula's other form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpi_ltcr import assembly_c51, envs, options
from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.agents.c51_fused import FusedC51Agent, backward, forward, layers_of, log_softmax, project
from mpi_ltcr.config import ConfigError
from mpi_ltcr.formulas import categorical
from mpi_ltcr.interaction import EnvLoop, explore
from mpi_ltcr.interfaces import Features, Lesson
from mpi_ltcr.nets.atoms import AtomNetwork
from mpi_ltcr.nets.flat import flatten
from mpi_ltcr.nets.torsos import MLP, Identity, linear
from mpi_ltcr.seeds import SeedTree

CPU = torch.device("cpu")


def agent_of(backend: str, *overrides: str) -> C51Agent:
    """An agent on CartPole that has explored 300 frames."""
    config, _ = options.load(["ltcr-cartpole-alone", "--agent.backend", backend, "--agent.warmup", "50", *overrides])
    env = envs.make(config.env.id, {})
    agent = assembly_c51.build_c51(config.agent, envs.spec_of(config.env.id, env), SeedTree(3), 0, CPU, 0.001, "online")
    explore(EnvLoop(env=env, seed_of=lambda k: 7 + k, discount=0.99), agent, 300)
    return agent


@pytest.mark.parametrize("widths", [(), (7,), (9, 5), (6, 8, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_gradients_by_hand_are_those_of_autograd(widths: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(5)
    torso = MLP(inputs=4, widths=widths, generator=generator) if widths else Identity(inputs=4)
    head = linear((4, *widths)[-1], 33, generator)
    net = AtomNetwork(torso=torso, head=head, actions=3, atoms=11).to(dtype)
    flat = flatten(net)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(16, 4)).astype(flat.values.numpy().dtype)
    action = rng.integers(3, size=16)
    target = rng.dirichlet(np.ones(11), size=16).astype(x.dtype)

    logits = categorical.at_action(net(torch.from_numpy(x)), torch.from_numpy(action))
    categorical.cross_entropy(torch.from_numpy(target), logits).mean().backward()
    wanted = flat.grads.numpy().copy()

    flat.grads.fill_(99.0)  # whatever stood there must not matter
    layers = layers_of(flat.values.numpy(), flat.grads.numpy(), [4, *widths, 33])
    outputs = forward(layers, x)
    gradient = np.zeros_like(outputs[-1])
    rows = np.arange(16)
    masses = np.exp(log_softmax(outputs[-1].reshape(16, 3, 11)[rows, action]))
    gradient.reshape(16, 3, 11)[rows, action] = (masses - target) / 16
    backward(layers, outputs, gradient)
    assert np.abs(flat.grads.numpy() - wanted).max() < tolerance * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize(("vmin", "vmax", "atoms"), [(-100, 100, 51), (0, 100, 51), (-10, 10, 52), (0, 1, 2)])
def test_the_index_form_of_the_projection_is_the_clip_form(vmin: float, vmax: float, atoms: int) -> None:
    z = categorical.support(vmin, vmax, atoms, dtype=torch.float64)
    rng = np.random.default_rng(2)
    masses = rng.dirichlet(np.ones(atoms), size=40)
    positions = rng.uniform(vmin - 20, vmax + 20, size=(40, atoms))
    positions[:10] = z.numpy()  # exactly on the atoms
    positions[10:12] = vmax  # and all of it on the last one
    wanted = categorical.cramer_project(torch.from_numpy(masses), torch.from_numpy(positions), z).numpy()
    found = project(masses, positions, z.numpy())
    assert np.abs(found - wanted).max() < 1e-12
    assert np.abs(found.sum(1) - 1).max() < 1e-12


@pytest.mark.parametrize("torso", ["mlp", "linear"])
def test_both_backends_take_the_same_steps(torso: str) -> None:
    agents = [agent_of(backend, "--agent.torso", torso) for backend in ("eager", "fused")]
    rng = np.random.default_rng(4)
    lesson_at = Features(rng.normal(size=(32, 4)).astype(np.float32), rng.integers(2, size=32))
    target = rng.dirichlet(np.ones(51), size=32).astype(np.float32)
    for _ in range(20):
        eager, fused = (agent.revisit() for agent in agents)
        assert fused == pytest.approx(eager, rel=1e-3, abs=1e-4)
        eager, fused = (agent.mimic(Lesson(lesson_at, target, np.zeros(32, np.int64))) for agent in agents)
        assert fused == pytest.approx(eager, rel=1e-3, abs=1e-4)
    values = [agent.flat.values.numpy() for agent in agents]
    assert np.abs(values[0] - values[1]).max() < 1e-5
    assert np.abs(agents[0].answer(lesson_at) - agents[1].answer(lesson_at)).max() < 1e-5
    actions = [[agent.player(np.random.default_rng(0))(obs) for obs in lesson_at.obs] for agent in agents]
    assert actions[0] == actions[1]


def test_the_fused_backend_is_refused_where_it_cannot_compute() -> None:
    config, _ = options.load(["ltcr-cartpole-alone", "--agent.backend", "fused"])
    spec = envs.spec_of(config.env.id, envs.make(config.env.id, {}))
    with pytest.raises(ConfigError, match=r"agent\.backend.*agent\.backend: eager"):
        assembly_c51.build_c51(config.agent, spec, SeedTree(1), 0, torch.device("meta"), 0.001, "online")


def test_vectors_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="not an MLP of sizes"):
        layers_of(np.zeros(10), np.zeros(10), [4, 8, 2])


def test_the_fused_agent_computes_in_numpy_on_views_of_its_weights() -> None:
    agent = agent_of("fused")
    assert isinstance(agent, FusedC51Agent)
    assert np.shares_memory(agent.online[0].weight, agent.flat.values.numpy())
    assert np.shares_memory(agent.target[-1].bias, agent.target_flat.values.numpy())
