"""The switches of the C51 agent: each against a naive reading of its definition, then all combinations of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.assembly_c51 import build_c51
from mpi_ltcr.config import C51Config, TransferConfig
from mpi_ltcr.interfaces import EnvSpec, Features, Lesson, Transition
from mpi_ltcr.memory.prioritised import SMALLEST
from mpi_ltcr.nets.noisy import Noise
from mpi_ltcr.seeds import SeedTree

torch.set_num_threads(1)

ACTIONS, ATOMS = 3, 11
SPEC = EnvSpec((4,), np.dtype(np.float32), ACTIONS)
Z = np.linspace(-5, 5, ATOMS)


def build(index: int = 0, **switches: object) -> C51Agent:
    tiny = {"hidden": (12, 8), "atoms": ATOMS, "vmin": -5.0, "vmax": 5.0, "batch": 8, "warmup": 8, "lr": 1e-2}
    settings = C51Config(**{**tiny, "replay_capacity": 60, "target_period": 10, **switches})
    return build_c51(settings, SPEC, SeedTree(4), index, torch.device("cpu"), 0.001, TransferConfig())


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


def features(count: int = 6, seed: int = 1) -> Features:
    rng = np.random.default_rng(seed)
    return Features(rng.normal(size=(count, 4)).astype(np.float32), rng.integers(ACTIONS, size=count))


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


@pytest.mark.parametrize("backend", ["eager", "fused", "compiled"])
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


# Noisy layers in the agent's hands


def spy(agent: C51Agent) -> list[tuple[str, bool]]:
    """A tape of which network was asked, and whether with noise; each noise must be another one."""
    tape: list[tuple[str, bool]] = []
    drawn: list[np.ndarray] = []

    def listen(name: str, noise: Noise) -> None:
        def heard(module: torch.nn.Module, *_: object) -> None:
            fresh = noise.layers[0].noise
            tape.append((name, fresh is not None))
            if fresh is not None:
                drawn.append(fresh[0].numpy().copy())
                assert len({d.tobytes() for d in drawn}) == len(drawn)

        getattr(agent, name).register_forward_pre_hook(heard)

    listen("net", agent.noise)
    listen("target_net", agent.target_noise)
    return tape


def test_noise_is_drawn_for_each_action_and_for_each_network_of_a_batch_and_for_nothing_else():
    agent = feed(build(noisy=0.5, double=True, prioritised=True))
    tape = spy(agent)
    at = features()
    agent.act(at.obs[0])
    agent.act(at.obs[0])
    assert tape == [("net", True)] * 2
    tape.clear()
    agent.revisit()
    assert sorted(tape) == [("net", True), ("net", True), ("target_net", True)]
    tape.clear()
    before = agent.noise.rng.bit_generator.state
    agent.player(np.random.default_rng(0))(at.obs[0])
    agent.answer(at)
    agent.mimic(Lesson(at, agent.answer(at), np.zeros(6, np.int64)))
    agent.distributions(at.obs)
    assert tape == [("net", False)] * 5
    assert agent.noise.rng.bit_generator.state == before


def test_noisy_layers_explore_and_random_actions_do_not():
    agent = build(noisy=0.5)
    assert agent.epsilon == 0
    policy, obs = agent.player(np.random.default_rng(0)), features(1).obs[0]
    assert len({agent.act(obs) for _ in range(100)}) > 1
    assert [policy(obs) for _ in range(100)].count(policy(obs)) >= 99  # mean weights, and eval.epsilon


def test_a_noisy_student_can_come_to_agree_with_its_teacher():
    """With noise in Digest the divergence of two noisy networks would never reach 0."""
    student, at = build(0, noisy=0.5), features()
    lesson = Lesson(at, build(1, noisy=0.5).answer(at), np.zeros(6, np.int64))
    losses = [student.mimic(lesson)["distill_loss"] for _ in range(400)]
    assert losses[0] > 1e-3
    assert losses[-1] < 1e-3 * losses[0]


# All combinations

SWITCHES = {"dueling": True, "double": True, "noisy": 0.5, "n_step": 3, "prioritised": True}
COMBINATIONS = [dict(chosen) for r in range(6) for chosen in itertools.combinations(SWITCHES.items(), r)]


def live(agent: C51Agent, frames: int, seed: int) -> list[object]:
    """A while of an agent's life in a team, and all that it said."""
    said: list[object] = []
    for k, transition in enumerate(experience(frames, seed)):
        said.append(agent.act(transition.obs))
        agent.observe(transition)
        said.append(agent.revisit())
        if k % 5 == 0:
            at = features(seed=k)
            masses = np.random.default_rng(k).dirichlet(np.ones(ATOMS), size=6).astype(np.float32)
            said.append(agent.mimic(Lesson(at, masses, np.zeros(6, np.int64))))
    return [*said, agent.answer(features()).tobytes()]


def bits(agent: C51Agent) -> dict[str, object]:
    leaves = checkpoint.flatten(agent.state())
    return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in leaves}


@pytest.mark.parametrize("switches", COMBINATIONS, ids=lambda s: "+".join(s) or "none")
def test_every_combination_trains_and_goes_on_bit_for_bit_after_it_was_saved_and_loaded(switches, tmp_path):
    first, second = build(0, **switches), feed(build(2, **switches), 20, seed=9)
    start = first.flat.values.clone()
    live(first, 35, seed=1)
    assert not torch.equal(first.flat.values, start)
    checkpoint.write_file(tmp_path, "rank0000.h5", first.state())
    second.load_state(checkpoint.load_file(tmp_path / "rank0000.h5"))
    assert bits(first) == bits(second)
    assert live(first, 35, seed=2) == live(second, 35, seed=2)  # beyond the replay's capacity
    assert bits(first) == bits(second)


def test_each_switch_changes_what_is_learned():
    """Nothing alone against nothing, and nothing missing against everything."""
    chosen = [s for s in COMBINATIONS if len(s) in (0, 1, 4, 5)]
    results = [live(build(0, target_period=40, **s), 39, seed=1)[-1] for s in chosen]
    assert len(set(results)) == len(chosen) == 12


CHEAP = [s for s in COMBINATIONS if not {"dueling", "noisy"} & set(s)]


@pytest.mark.parametrize("backend", ["fused", "compiled"])
@pytest.mark.parametrize("switches", CHEAP, ids=lambda s: "+".join(s) or "none")
def test_a_backend_by_hand_takes_the_same_steps_with_the_switches_that_it_has(switches, backend):
    eager, fused = (build(0, backend=one, **switches) for one in ("eager", backend))
    for _ in (1, 2):
        feed(eager), feed(fused)
        for _ in range(10):
            assert fused.revisit() == pytest.approx(eager.revisit(), rel=1e-3, abs=1e-4)
    assert (fused.flat.values - eager.flat.values).abs().max() < 1e-4
