"""The gradients by hand, in numpy and by numba, against autograd; the projection against the formula's other form."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mpi_ltcr import assembly_c51, envs, options
from mpi_ltcr.agents import c51_kernels
from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.agents.c51_compiled import CompiledC51Agent, kernels
from mpi_ltcr.agents.c51_fused import FusedC51Agent, backward, forward, layers_of, log_softmax, project
from mpi_ltcr.config import ConfigError, TransferConfig
from mpi_ltcr.formulas import categorical
from mpi_ltcr.interaction import EnvLoop, explore
from mpi_ltcr.interfaces import Features, Lesson
from mpi_ltcr.nets.atoms import AtomNetwork
from mpi_ltcr.nets.flat import FlatParameters, flatten
from mpi_ltcr.nets.torsos import MLP, Identity, linear
from mpi_ltcr.seeds import SeedTree

CPU = torch.device("cpu")
BY_HAND = ["fused", "compiled"]
ROOT = Path(__file__).resolve().parents[2]


def gradient_in_numpy(
    flat: FlatParameters, sizes: list[int], x: np.ndarray, action: np.ndarray, target: np.ndarray
) -> None:
    """Of the mean cross-entropy, into `flat.grads`."""
    layers = layers_of(flat.values.numpy(), flat.grads.numpy(), sizes)
    outputs, rows, (count, atoms) = forward(layers, x), np.arange(len(x)), target.shape
    gradient = np.zeros_like(outputs[-1])
    masses = np.exp(log_softmax(outputs[-1].reshape(count, -1, atoms)[rows, action]))
    gradient.reshape(count, -1, atoms)[rows, action] = (masses - target) / count
    backward(layers, outputs, gradient)


def gradient_by_numba(
    flat: FlatParameters, sizes: list[int], x: np.ndarray, action: np.ndarray, target: np.ndarray
) -> None:
    """As `gradient_in_numpy`."""
    vectors, widths, columns = (flat.values.numpy(), flat.grads.numpy()), np.array(sizes), np.array(target.T, order="C")
    rows, logits = c51_kernels.look_at(vectors[0], widths, x, action, len(columns))
    ones, z = np.ones(len(x), x.dtype), np.zeros(len(columns), x.dtype)
    c51_kernels.descend(*vectors, widths, rows, columns, logits, np.exp(logits), action, ones, z)


def agent_of(backend: str, *overrides: str) -> C51Agent:
    """An agent on CartPole that has explored 300 frames."""
    config, _ = options.load(["ltcr-cartpole-alone", "--agent.backend", backend, "--agent.warmup", "50", *overrides])
    env = envs.make(config.env.id, {})
    agent = assembly_c51.build_c51(
        config.agent, envs.spec_of(config.env.id, env), SeedTree(3), 0, CPU, 0.001, TransferConfig()
    )
    explore(EnvLoop(env=env, seed_of=lambda k: 7 + k, discount=0.99), agent, 300)
    return agent


@pytest.mark.parametrize("gradient", [gradient_in_numpy, gradient_by_numba])
@pytest.mark.parametrize("widths", [(), (7,), (9, 5), (6, 8, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_gradients_by_hand_are_those_of_autograd(
    widths: tuple[int, ...], dtype: torch.dtype, tolerance: float, gradient: Callable[..., None]
) -> None:
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
    gradient(flat, [4, *widths, 33], x, action, target)
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


@pytest.mark.parametrize(("vmin", "vmax", "atoms"), [(-100, 100, 51), (0, 100, 51), (-10, 10, 52), (0, 1, 2)])
def test_the_target_by_numba_is_the_formulas(vmin: float, vmax: float, atoms: int) -> None:
    z = categorical.support(vmin, vmax, atoms, dtype=torch.float64)
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(40, 3, atoms))
    reward, discount = rng.uniform(vmin - 20, vmax + 20, size=40), rng.uniform(size=40)
    reward[:10], discount[:10] = z.numpy()[rng.integers(atoms, size=10)], 0.0  # exactly on an atom
    reward[10:20], discount[10:20] = 0.0, 1.0  # on all of them
    wanted = [torch.from_numpy(one) for one in (reward, discount, logits)]
    positions = categorical.bellman_positions(wanted[0], wanted[1], z)

    powers = np.array(7.0 * np.exp(logits).reshape(40, -1).T, order="C")  # the masses but for a factor
    best = c51_kernels.best_of(powers, z.numpy())
    assert best.tolist() == categorical.greedy(wanted[2], z).tolist()
    target, outside = c51_kernels.projected(powers, best, reward, discount, z.numpy())
    assert np.abs(target.T - categorical.target_distribution(*wanted, z).numpy()).max() < 1e-12
    assert outside == pytest.approx(float(categorical.clipped_fraction(positions, z)), abs=1e-12)


def test_what_is_not_a_number_stays_in_its_row() -> None:
    z, powers = np.linspace(0, 1, 5), np.ones((5, 3))
    reward = np.array([np.nan, np.inf, 0.3])
    target, _ = c51_kernels.projected(powers, np.zeros(3, np.int64), reward, np.ones(3), z)
    assert np.isnan(target[:, 0]).any()
    assert target[:, 1].tolist() == [0, 0, 0, 0, 1]
    assert target[:, 2].sum() == pytest.approx(1)


@pytest.mark.parametrize("backend", BY_HAND)
@pytest.mark.parametrize("option", ["torso mlp", "torso linear", "grad_clip 0.1"])
def test_every_backend_takes_the_same_steps(option: str, backend: str) -> None:
    agents = [agent_of(one, *f"--agent.{option}".split()) for one in ("eager", backend)]
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


@pytest.mark.parametrize("backend", BY_HAND)
def test_a_backend_by_hand_is_refused_where_it_cannot_compute(backend: str) -> None:
    config, _ = options.load(["ltcr-cartpole-alone", "--agent.backend", backend])
    spec = envs.spec_of(config.env.id, envs.make(config.env.id, {}))
    with pytest.raises(ConfigError, match=rf"agent\.backend: {backend} .*agent\.backend: eager"):
        assembly_c51.build_c51(config.agent, spec, SeedTree(1), 0, torch.device("meta"), 0.001, config.transfer)


def test_vectors_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="not an MLP of sizes"):
        layers_of(np.zeros(10), np.zeros(10), [4, 8, 2])


@pytest.mark.parametrize(("backend", "kind"), [("fused", FusedC51Agent), ("compiled", CompiledC51Agent)])
def test_an_agent_by_hand_computes_on_views_of_its_weights(backend: str, kind: type[FusedC51Agent]) -> None:
    agent = agent_of(backend)
    assert type(agent) is kind
    assert np.shares_memory(agent.online[0].weight, agent.flat.values.numpy())
    assert np.shares_memory(agent.target[-1].bias, agent.target_flat.values.numpy())


def test_without_numba_the_compiled_backend_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "mpi_ltcr.agents.c51_kernels")
    monkeypatch.delattr("mpi_ltcr.agents.c51_kernels")
    kernels.cache_clear()
    with pytest.raises(ConfigError, match=r"needs numba; pip install mpi-ltcr\[compiled\], or .*backend: fused"):
        agent_of("compiled")


@pytest.mark.parametrize("given", [True, False])
def test_machine_code_is_kept_where_the_package_cannot_be_written(given: bool, tmp_path: Path) -> None:
    """Or it is refused, and told how to give it a place."""
    package = Path(shutil.copytree(ROOT / "mpi_ltcr", tmp_path / "mpi_ltcr", ignore=shutil.ignore_patterns("*.pyc")))
    shutil.rmtree(package / "agents" / "__pycache__", ignore_errors=True)
    (package / "agents" / "__pycache__").touch()  # a file: even root cannot write into it
    nowhere = str(package / "agents" / "__pycache__" / "home")
    places = {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")} if given else {}
    train = ["train", "ltcr-cartpole-alone", "--agent.backend", "compiled"]
    train += ["--frames", "10", "--eval.every", "10", "--out", "run"]  # a game of the greedy policy
    done = subprocess.run(
        [sys.executable, "-m", "mpi_ltcr", *train],
        env={**os.environ, **places, **cache},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if given:
        assert done.returncode == 0, done.stderr
        assert list((tmp_path / "cache").rglob("*.nbi"))
    else:
        assert done.returncode == 2, done.stderr
        assert "set NUMBA_CACHE_DIR to a folder that can be written" in done.stderr.strip().splitlines()[-1]
        assert not (tmp_path / "run").exists()
