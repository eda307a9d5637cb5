"""`transfer.lesson: policy`: what agents of any kind tell and learn, against the definitions written out."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest
import torch

from mpi_ltcr.agents.actor_critic import ActorCriticAgent, unbroken
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.evidence import write_batch
from mpi_ltcr.assembly_agents import build_actor_critic
from mpi_ltcr.assembly_c51 import build_c51
from mpi_ltcr.config import ActorCriticConfig, C51Config, TransferConfig
from mpi_ltcr.interfaces import EnvSpec, Features, Lesson, NonFiniteError, Transition
from mpi_ltcr.seeds import SeedTree

torch.set_num_threads(1)

ACTIONS, TAU = 3, 0.7
SPEC = EnvSpec((4,), np.dtype(np.float32), ACTIONS)
CPU = torch.device("cpu")
POLICY = TransferConfig(lesson="policy", temperature=TAU)
KINDS = ("eager", "fused", "compiled", "quantiles", "actor_critic")


def build(kind: str, index: int = 0, **changes: object):
    if kind == "actor_critic":
        settings = ActorCriticConfig(**{"hidden": (12,), "lr": 1e-2, "grad_clip": 0.0, **changes})
        return build_actor_critic(settings, SPEC, SeedTree(4), index, CPU, POLICY, rollout=10)
    own = {"returns": "quantiles"} if kind == "quantiles" else {"backend": kind}
    tiny = {"hidden": (12,), "atoms": 11, "vmin": -3.0, "vmax": 3.0, "batch": 8, "warmup": 8, "lr": 1e-2}
    return build_c51(C51Config(**{**tiny, **own}), SPEC, SeedTree(4), index, CPU, 0.0, POLICY)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def features(count: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    return Features(rng.normal(size=(count, 4)).astype(np.float32), rng.integers(ACTIONS, size=count))


def policy_logits(kind: str, agent) -> torch.Tensor:
    """What an agent's policy at `features(6)` is the softmax of, from its network's outputs, with gradient."""
    outputs = agent.net(torch.from_numpy(features(6).obs))
    if kind == "actor_critic":
        return outputs[0]
    if kind == "quantiles":
        return outputs.mul(3.0).mean(-1) / TAU  # half the support's width is 3, its middle 0
    z = torch.linspace(-3, 3, 11)
    return torch.stack([sum(z[k] * outputs[:, a].softmax(-1)[:, k] for k in range(11)) for a in range(3)], 1) / TAU


def test_an_answer_is_the_policy_at_each_state_whatever_was_done_there(kind):
    agent = build(kind)
    logits = policy_logits(kind, agent).detach().numpy().astype(np.float64)
    expected = [[math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in logits]
    answer = agent.answer(features(6))
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, expected, atol=1e-6)
    other = Features(features(6).obs, (features(6).action + 1) % ACTIONS)
    np.testing.assert_array_equal(agent.answer(other), answer)


def test_the_gradient_of_a_lesson_is_that_of_the_divergence_written_out(kind):
    agent = build(kind)
    target = np.random.default_rng(2).dirichlet(np.ones(ACTIONS), size=6).astype(np.float32)
    target[0] = [1, 0, 0]  # 0 log 0 = 0
    policy = policy_logits(kind, agent).softmax(-1)
    divergence = sum(
        p * (math.log(p) - torch.log(policy[n, a])) for n in range(6) for a, p in enumerate(target[n].tolist()) if p
    )
    wanted = torch.autograd.grad(divergence / 6, [*agent.net.parameters()], allow_unused=True)
    flat = torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1)
                      for p, g in zip(agent.net.parameters(), wanted, strict=True)])  # fmt: skip
    told = agent.mimic(Lesson(features(6), target, np.ones(6, np.int64)))
    assert float(flat.norm()) > 0.01
    np.testing.assert_allclose(agent.flat.grads.numpy(), flat.numpy(), atol=2e-6)
    assert told["distill_loss"] == pytest.approx(float(divergence.detach()) / 6, rel=1e-5)
    assert told["digest_grad_norm"] == pytest.approx(float(flat.norm()), rel=1e-4)


def test_agents_of_any_two_kinds_come_to_the_same_policy(kind):
    for teacher in (build(other, index=1) for other in KINDS):
        student = build(kind)
        lesson = Lesson(features(16), teacher.answer(features(16)), np.ones(16, np.int64))
        apart = [np.abs(student.answer(features(16)) - lesson.target).max()]
        for _ in range(300):
            student.mimic(lesson)
        apart.append(np.abs(student.answer(features(16)) - lesson.target).max())
        assert apart[1] < 0.3 * apart[0]


# The actor-critic on its own experience


def walk(*marks: str, seed: int = 3) -> list[Transition]:
    """Steps of a walk; a mark for each: "." goes on, "|" is truncated, "x" terminates, "o" is a lost life."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(len(marks) + 1, 4)).astype(np.float32)
    return [
        Transition(obs[i], int(rng.integers(ACTIONS)), float(rng.normal()), 0.0 if mark in "xo" else 0.99, obs[i + 1],
                   mark in "|x", game=i % 2 if mark == "," else 0)
        for i, mark in enumerate(marks)
    ]  # fmt: skip


def test_steps_are_cut_where_what_follows_does_not_belong_to_them():
    assert [len(path) for path in unbroken(walk(*"..x.o.|..."))] == [3, 2, 2, 3]
    assert [len(path) for path in unbroken(walk(*",,,,,"))] == [3, 2]  # two games in turn
    assert [[t.game for t in path] for path in unbroken(walk(*",,,,,"))] == [[0, 0, 0], [1, 1]]


def test_an_update_follows_algorithm_1_of_cdrl_on_each_unbroken_path():
    """Gradient and metrics against sums written out: advantages from their definition, one path after the other."""
    agent = build("actor_critic", gae_lambda=0.8, value_coef=0.3, entropy_coef=0.05)
    steps = walk(*"..x..|o...")
    for t in steps:
        agent.observe(t)
    gamma, lam, total, parts = 0.99, 0.8, 0.0, {"policy_loss": 0.0, "td_loss": 0.0, "entropy": 0.0}
    start = 0
    for end in (3, 6, 7, 10):
        path = steps[start:end]
        start = end
        looks = [agent.net(torch.from_numpy(t.obs[None])) for t in path]
        after = agent.net(torch.from_numpy(path[-1].next_obs[None]))[1].item()
        values = [v.item() for _, v in looks] + [0.0 if path[-1].discount == 0 else after]
        deltas = [t.reward + gamma * values[i + 1] - values[i] for i, t in enumerate(path)]
        for i, t in enumerate(path):
            advantage = sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[i:]))
            rest = len(path) - i
            ret = sum(gamma**k * later.reward for k, later in enumerate(path[i:])) + gamma**rest * values[-1]
            log_pi = torch.log_softmax(looks[i][0][0], 0)
            terms = {
                "policy_loss": -log_pi[t.action] * advantage,
                "td_loss": (ret - looks[i][1][0]) ** 2,
                "entropy": -(log_pi.exp() * log_pi).sum(),
            }
            total = total + terms["policy_loss"] + 0.3 * terms["td_loss"] - 0.05 * terms["entropy"]
            parts = {name: value + float(terms[name].detach()) / 10 for name, value in parts.items()}
    wanted = torch.cat([g.reshape(-1) for g in torch.autograd.grad(total / 10, [*agent.net.parameters()])])
    told = agent.revisit()
    np.testing.assert_allclose(agent.flat.grads.numpy(), wanted.numpy(), atol=1e-5)
    assert {name: told[name] for name in parts} == pytest.approx(parts, rel=1e-4)
    assert agent.revisit() == {}, "experience of another policy than its own is used once"
    assert agent.revisits == 1


def live(agent: ActorCriticAgent, frames: int, seed: int) -> list[object]:
    tape: list[object] = []
    for i, t in enumerate(walk(*"....x....|" * (frames // 10), seed=seed)):
        tape.append(agent.act(t.obs))
        agent.observe(t._replace(action=tape[-1]))
        if i % 10 == 9:
            tape.append(agent.revisit())
            tape.append(agent.mimic(Lesson(features(4), np.full((4, 3), 1 / 3, np.float32), np.ones(4, np.int64))))
    return tape


def test_a_restored_actor_critic_lives_on_exactly_like_the_saved_one():
    agent, copy = build("actor_critic"), build("actor_critic", index=1)
    live(agent, 40, seed=1)
    copy.load_state(agent.state())
    assert live(copy, 40, seed=2) == live(agent, 40, seed=2)
    one, two = (dict(checkpoint.flatten(a.state())) for a in (agent, copy))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_an_actor_critic_that_never_revisits_keeps_no_more_than_a_round():
    agent = build("actor_critic")
    for t in walk(*"." * 25):
        agent.observe(t)
    agent.revisit()
    assert len(agent._steps) == 0
    for t in walk(*"." * 25):
        agent.observe(t)
    assert len(agent._steps) == 10


def test_an_actor_critic_neither_tells_nor_saves_what_is_not_finite():
    agent = build("actor_critic")
    agent.flat.values.detach()[:] = math.nan
    for attempt in (lambda: agent.answer(features(2)), agent.state):
        with pytest.raises(NonFiniteError):
            attempt()


def test_an_update_that_is_not_finite_brings_its_batch_along(kind, tmp_path):
    agent, lesson = build(kind), Lesson(features(6), np.full((6, ACTIONS), math.nan, np.float32), np.ones(6, np.int64))
    with pytest.raises(NonFiniteError) as refused:
        agent.mimic(lesson)
    write_batch(tmp_path / "crash" / "lesson.h5", refused.value.batch)
    for step in range(10):
        agent.observe(Transition(np.full(4, step, np.float32), 1, math.nan, 0.9, np.zeros(4, np.float32)))
    with pytest.raises(NonFiniteError) as refused:
        agent.revisit()
    write_batch(tmp_path / "crash" / "batch.h5", refused.value.batch)
    with h5py.File(tmp_path / "crash" / "lesson.h5") as file:
        np.testing.assert_array_equal(file["features/obs"], lesson.features.obs)
        np.testing.assert_array_equal(file["target"], lesson.target)
    with h5py.File(tmp_path / "crash" / "batch.h5") as file:  # a replayed batch, or the steps of a rollout
        steps = [file["batch"]] if "batch" in file else [file[str(step)] for step in range(10)]
        assert all(np.isnan(part["reward"][()]).all() and part["obs"].shape[-1] == 4 for part in steps)


def test_its_value_of_a_pair_is_that_of_the_state_and_it_knows_no_distribution():
    agent = build("actor_critic")
    obs = features(5).obs
    np.testing.assert_allclose(agent.values(features(5)), agent.net(torch.from_numpy(obs))[1].detach(), atol=1e-6)
    assert agent.distributions(obs).shape == (5, ACTIONS, 0)
    assert len(agent.support) == 0
