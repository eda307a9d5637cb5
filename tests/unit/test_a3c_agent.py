"""One worker of cA3C: when its rollouts end, what its gradients are, and what they leave alone.

The gradient is compared with finite differences of Algorithm 1's loss, with a network written out in numpy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from ca3c_helpers import differences, slices
from scipy import stats

from mpi_ltcr.agents.a3c import A3CAgent, draw
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.interaction import EnvLoop, explore_rollout
from mpi_ltcr.interfaces import EnvSpec, NonFiniteError, Rollout, Transition
from mpi_ltcr.nets.flat import flatten
from mpi_ltcr.nets.universe import MLPTorso, RecurrentActorCritic, UniverseTorso
from mpi_ltcr.steppers import ParameterStore, PushStepper

torch.set_num_threads(1)

ACTIONS, OBS, HIDDEN = 3, 4, 6
GAMMA, LAMBDA, VALUE_COEF, ENTROPY_COEF = 0.9, 0.7, 0.3, 0.02
SPEC = EnvSpec((OBS,), np.dtype(np.float32), ACTIONS, np.array([1, 2, 0.5, 1], np.float32))
FRAMES = EnvSpec((1, 42, 42), np.dtype(np.float32), ACTIONS)

Staged = list[tuple[str, np.ndarray]]


def build(
    spec: EnvSpec = SPEC, double: bool = False, grad_clip: float = 0.0, rl: bool = True
) -> tuple[A3CAgent, Staged]:
    """A small agent, and the gradients that it stages."""
    generator = torch.Generator().manual_seed(3)
    torso: Any = MLPTorso(obs_size=OBS, widths=(5,), generator=generator) if spec is SPEC else None
    torso = torso or UniverseTorso(channels=1, generator=generator)
    net = RecurrentActorCritic(torso=torso, num_actions=spec.num_actions, hidden=HIDDEN, generator=generator)
    with torch.no_grad():  # a policy that is not uniform
        for head in (net.policy, net.distill):
            head.weight.mul_(60)
    if double:
        net.double()
    flat, staged = flatten(net), []
    push = functools.partial(PushStepper, flat=flat, grad_clip=grad_clip)
    agent = A3CAgent(
        spec=spec,
        net=net,
        flat=flat,
        rl_stepper=push(stage=lambda g: staged.append(("rl", g.copy())), name="rl"),
        distill_stepper=push(stage=lambda g: staged.append(("distill", g.copy())), name="distill"),
        explore_rng=np.random.default_rng(8),
        rl=rl,
        discount=GAMMA,
        gae_lambda=LAMBDA,
        value_coef=VALUE_COEF,
        entropy_coef=ENTROPY_COEF,
    )
    if double:
        agent.recurrent = agent._start = tuple(torch.zeros(1, HIDDEN, dtype=torch.float64) for _ in range(2))
        single = agent._obs
        agent._obs = lambda obs: single(obs).double()  # type: ignore[method-assign]
    return agent, staged


def rollout_of(agent: A3CAgent, length: int = 7, bootstrap: float = 0.5, spec: EnvSpec = SPEC) -> Rollout:
    """Experience out of nowhere; the recurrent state before it is not zero."""
    rng = np.random.default_rng(length)
    dtype = agent.flat.values.dtype
    start = tuple(torch.from_numpy(rng.normal(size=(1, HIDDEN)) / 2).to(dtype) for _ in range(2))
    obs = rng.normal(size=(length, *spec.obs_shape)).astype(np.float32)
    actions, rewards = rng.integers(spec.num_actions, size=length), rng.normal(size=length).astype(np.float32)
    return Rollout(obs, actions, rewards, start, bootstrap, False)


# Algorithm 1, lines 16 to 23, in numpy


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


class Naive:
    """MLP, LSTM and heads from a flat vector of parameters, one step at a time."""

    def __init__(self, agent: A3CAgent, values: np.ndarray) -> None:
        shapes = {name: tuple(p.shape) for name, p in agent.net.named_parameters()}
        self.p = {name: values[part].reshape(shapes[name]) for name, part in slices(agent.net).items()}

    def step(self, obs: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
        p = self.p
        x = p["torso.layers.0.weight"] @ (obs * np.asarray(SPEC.obs_scale)) + p["torso.layers.0.bias"]
        x = np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)
        gates = p["lstm.weight_ih_l0"] @ x + p["lstm.bias_ih_l0"] + p["lstm.weight_hh_l0"] @ h + p["lstm.bias_hh_l0"]
        i, f, g, o = gates.reshape(4, HIDDEN)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        value = float((p["value.weight"] @ h + p["value.bias"])[0])
        return p["policy.weight"] @ h + p["policy.bias"], value, h, c

    def outputs(self, rollout: Rollout) -> tuple[list[np.ndarray], list[float]]:
        h, c = (part.double().numpy()[0] for part in rollout.start)
        policies, values = [], []
        for obs in rollout.obs:
            logits, value, h, c = self.step(obs.astype(np.float64), h, c)
            exponentials = np.exp(logits - logits.max())
            policies.append(exponentials / exponentials.sum())
            values.append(value)
        return policies, values


def advantages_and_returns(rollout: Rollout, values: list[float]) -> tuple[list[float], list[float]]:
    """Lines 16 to 20, each from its own sum."""
    steps = len(values)
    r, v = rollout.rewards.astype(np.float64), [*values, rollout.bootstrap]
    deltas = [r[i] + GAMMA * v[i + 1] - v[i] for i in range(steps)]
    advantages = [sum((GAMMA * LAMBDA) ** (j - i) * deltas[j] for j in range(i, steps)) for i in range(steps)]
    returns = [
        sum(GAMMA ** (j - i) * r[j] for j in range(i, steps)) + GAMMA ** (steps - i) * rollout.bootstrap
        for i in range(steps)
    ]
    return advantages, returns


def loss_of(agent: A3CAgent, rollout: Rollout, at: np.ndarray) -> Callable[[np.ndarray], float]:
    """Lines 21 and 22 with section 3.2's entropy, as a function of the parameters; A and R are those at `at`."""
    advantages, returns = advantages_and_returns(rollout, Naive(agent, at).outputs(rollout)[1])

    def loss(values: np.ndarray) -> float:
        total = 0.0
        for pi, v, action, a, r in zip(
            *Naive(agent, values).outputs(rollout), rollout.actions, advantages, returns, strict=True
        ):
            entropy = -sum(p * math.log(p) for p in pi)
            total += -math.log(pi[action]) * a + VALUE_COEF * (r - v) ** 2 - ENTROPY_COEF * entropy
        return total

    return loss


def finite_differences(loss: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    gradient = np.empty_like(at)
    for i in range(len(at)):
        one, two = at.copy(), at.copy()
        one[i] += step
        two[i] -= step
        gradient[i] = (loss(one) - loss(two)) / (2 * step)
    return gradient


@pytest.mark.parametrize("bootstrap", [0.0, 0.75], ids=["a termination", "a value"])
def test_the_gradient_is_that_of_algorithm_1_by_finite_differences(bootstrap):
    agent, staged = build(double=True)
    rollout = rollout_of(agent, bootstrap=bootstrap)
    at = agent.flat.values.detach().numpy().copy()
    expected = finite_differences(loss_of(agent, rollout, at), at)

    told = agent.learn(rollout)
    ((kind, gradient),) = staged
    assert kind == "rl"
    np.testing.assert_allclose(gradient, expected, atol=1e-7 * np.abs(expected).max(), rtol=1e-5)
    assert told["rl_grad_norm"] == pytest.approx(np.linalg.norm(expected), rel=1e-6)
    distill = [part for name, part in slices(agent.net).items() if name.startswith("distill")]
    assert all((gradient[part] == 0).all() for part in distill)
    assert (agent.flat.values.detach().numpy() == at).all()  # it is pushed, not applied


def test_what_it_tells_of_a_rollout_is_the_mean_over_its_steps():
    agent, _ = build(double=True)
    rollout = rollout_of(agent)
    policies, values = Naive(agent, agent.flat.values.numpy()).outputs(rollout)
    advantages, returns = advantages_and_returns(rollout, values)
    told = agent.learn(rollout)
    surprise = [-math.log(pi[a]) * adv for pi, a, adv in zip(policies, rollout.actions, advantages, strict=True)]
    assert told["policy_loss"] == pytest.approx(np.mean(surprise), rel=1e-5)
    assert told["value_loss"] == pytest.approx(np.mean((np.array(returns) - values) ** 2), rel=1e-5)
    assert told["entropy"] == pytest.approx(np.mean([-(pi * np.log(pi)).sum() for pi in policies]), rel=1e-5)


def test_a_gradient_over_the_clip_is_shortened_and_keeps_its_direction():
    free, clipped = build(), build(grad_clip=0.5)
    for agent, _ in (free, clipped):
        agent.learn(rollout_of(agent))
    long, short = free[1][0][1], clipped[1][0][1]
    assert np.linalg.norm(long) > 1
    assert np.linalg.norm(short) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(short / 0.5, long / np.linalg.norm(long), atol=1e-6)


# Rollouts


class Path(gymnasium.Env):
    """Observations tell the seed (here: the episode) and the step; the lengths are as given, over and over."""

    observation_space = gymnasium.spaces.Box(-100, 100, (OBS,), np.float32)
    action_space = gymnasium.spaces.Discrete(ACTIONS)

    def __init__(self, lengths: list[int], truncated: bool) -> None:
        self.lengths, self.truncated = lengths, truncated

    def reset(self, *, seed=None, options=None):
        self.episode, self.at = seed, 0
        return self.look(), {}

    def step(self, action):
        self.at += 1
        over = self.at == self.lengths[self.episode % len(self.lengths)]
        return self.look(), float(action + 1), over and not self.truncated, over and self.truncated, {}

    def look(self):
        return np.array([self.episode, self.at, math.sin(self.at), 1], np.float32)


def play(
    agent: A3CAgent, lengths: list[int], truncated: bool, count: int, t_max: int = 4
) -> tuple[list[Rollout], list[int], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Rollouts of a path, the lengths of the episodes that ended, and the recurrent states before each rollout."""
    loop = EnvLoop(env=Path(lengths, truncated), seed_of=lambda episode: episode, discount=GAMMA)
    rollouts, ended, states = [], [], []
    for _ in range(count):
        states.append(agent.recurrent)
        rollout, episode = explore_rollout(loop, agent, t_max)
        rollouts.append(rollout)
        ended += [episode.length] if episode else []
    return rollouts, ended, states


def places(rollout: Rollout) -> list[tuple[int, int]]:
    return [(int(obs[0]), int(obs[1])) for obs in rollout.obs]


def value_at_end(agent: A3CAgent, rollout: Rollout, after: np.ndarray) -> float:
    """V of the state after a rollout, by walking the naive network along it."""
    naive = Naive(agent, agent.flat.values.double().numpy())
    h, c = (part.double().numpy()[0] for part in rollout.start)
    for obs in rollout.obs:
        _, _, h, c = naive.step(obs.astype(np.float64), h, c)
    return naive.step(after.astype(np.float64), h, c)[1]


def test_a_rollout_ends_with_its_episode_or_after_t_max_steps():
    agent, _ = build()
    rollouts, ended, _ = play(agent, [6, 4, 1], truncated=False, count=5)
    assert [places(r) for r in rollouts] == [
        [(0, 0), (0, 1), (0, 2), (0, 3)],
        [(0, 4), (0, 5)],
        [(1, 0), (1, 1), (1, 2), (1, 3)],
        [(2, 0)],
        [(3, 0), (3, 1), (3, 2), (3, 3)],
    ]
    assert [r.first for r in rollouts] == [True, False, True, True, True]
    assert ended == [6, 4, 1]
    assert [(r.rewards == r.actions + 1).all() for r in rollouts] == [True] * 5
    assert [r.rewards.dtype for r in rollouts] == [np.float32] * 5


def test_a_termination_is_worth_nothing_more_even_where_t_max_meets_it():
    agent, _ = build()
    rollouts, _, _ = play(agent, [6, 4], truncated=False, count=3)
    assert [r.bootstrap for r in rollouts[1:]] == [0.0, 0.0]
    assert rollouts[0].bootstrap == pytest.approx(value_at_end(agent, rollouts[0], np.array([0, 4, math.sin(4), 1])))
    assert rollouts[0].bootstrap != 0


def test_a_truncation_bootstraps_the_value_of_the_final_observation_and_closes_the_rollout():
    agent, _ = build()
    rollouts, ended, states = play(agent, [6, 4], truncated=True, count=4)
    assert [len(r.actions) for r in rollouts] == [4, 2, 4, 4]
    assert ended == [6, 4]
    for rollout, final in ((rollouts[1], [0, 6, math.sin(6), 1]), (rollouts[2], [1, 4, math.sin(4), 1])):
        assert rollout.bootstrap == pytest.approx(value_at_end(agent, rollout, np.array(final, np.float32)), rel=1e-4)
        assert rollout.bootstrap != 0
    assert [bool((h == 0).all() and (c == 0).all()) for h, c in states] == [True, False, True, True]


def test_the_recurrent_state_runs_through_the_rollouts_of_an_episode_and_starts_anew_with_the_next():
    agent, _ = build()
    rollouts, _, states = play(agent, [10, 3], truncated=False, count=5)
    naive = Naive(agent, agent.flat.values.double().numpy())
    h = c = np.zeros(HIDDEN)
    for rollout, state in zip(rollouts, states, strict=True):
        if rollout.first:
            h = c = np.zeros(HIDDEN)
        for mine, kept in ((rollout.start, state), ((h[None], c[None]), state)):
            np.testing.assert_allclose(np.stack([np.asarray(x) for x in mine]), np.stack(kept), atol=1e-6)
        for obs in rollout.obs:
            _, _, h, c = naive.step(obs.astype(np.float64), h, c)
    assert [r.first for r in rollouts] == [True, False, False, True, True]


def test_a_rollout_seen_again_at_once_gives_the_policies_with_which_it_was_played():
    agent, _ = build()
    played: list[np.ndarray] = []
    step = agent.net.step
    agent.net.step = lambda obs, state: played.append(step(obs, state)[0].policy[0].numpy()) or step(obs, state)  # type: ignore[method-assign, func-returns-value]
    rollouts, _, _ = play(agent, [9], truncated=False, count=3)
    again = np.concatenate([agent.outputs(rollout).policy.detach().numpy() for rollout in rollouts])
    bootstraps = {4, 9}  # the network was also asked for V after the first two rollouts
    acted = np.stack([logits for i, logits in enumerate(played) if i not in bootstraps])
    np.testing.assert_allclose(again, acted, atol=1e-6)
    assert np.abs(again).max() > 0.1


# Actions


def test_actions_are_drawn_as_often_as_the_softmax_says():
    logits = np.array([1.0, -0.5, 3.0, 0.2], np.float32)
    rng = np.random.default_rng(0)
    counts = np.bincount([draw(logits, rng) for _ in range(40_000)], minlength=4)
    masses = [math.exp(x) for x in logits.tolist()]
    assert stats.chisquare(counts, [40_000 * m / sum(masses) for m in masses]).pvalue > 0.01


@pytest.mark.parametrize(
    ("logits", "possible"),
    [([1e4, 0, 0], {0}), ([0, -1e30, 0], {0, 2}), ([-1e4, -1e4, 0], {2}), ([5, -math.inf, 5], {0, 2}), ([3], {0})],
    ids=str,
)
def test_logits_of_any_size_are_drawn_from(logits, possible):
    rng = np.random.default_rng(1)
    assert {draw(np.array(logits, np.float32), rng) for _ in range(200)} == possible


def test_the_largest_uniform_number_still_draws_an_action():
    class Edge:
        def random(self) -> float:
            return math.nextafter(1, 0)

    logits = np.random.default_rng(2).normal(size=1000).astype(np.float32)
    assert draw(logits, Edge()) < 1000  # type: ignore[arg-type]


def test_playing_draws_from_the_given_generator_and_leaves_the_recurrent_state_of_training_alone():
    agent, _ = build()
    play(agent, [50], truncated=False, count=3)
    before = agent.state()
    path = np.random.default_rng(5).normal(size=(12, OBS)).astype(np.float32)
    one, two = (agent.player(np.random.default_rng(9)) for _ in range(2))
    first = [one(obs) for obs in path]
    assert [two(obs) for obs in path] == first  # the second begins with zeros again
    assert differences(agent.state(), before) == []

    naive, rng = Naive(agent, agent.flat.values.double().numpy()), np.random.default_rng(9)
    h = c = np.zeros(HIDDEN)
    for obs, action in zip(path, first, strict=True):
        logits, _, h, c = naive.step(obs.astype(np.float64), h, c)
        assert draw(logits, rng) == action
    assert len(set(first)) > 1


# What a gradient moves on the server


def store_of(agent: A3CAgent, extra: int = 0) -> ParameterStore:
    values = np.concatenate([agent.flat.values.detach().numpy(), np.linspace(-1, 1, extra, dtype=np.float32)])
    sizes = [len(agent.flat.values)] + ([extra] if extra else [])
    return ParameterStore(values=values, sizes=sizes, lr=1e-2, eps=1e-8)


def moved(agent: A3CAgent, spec: EnvSpec, layer: str) -> set[str]:
    """First names of the parameters that one distillation step on the server changes, after one of RL."""
    store = store_of(agent)
    rollout = rollout_of(agent, spec=spec)
    agent.learn(rollout)
    staged = agent.rl_stepper.flat.grads.numpy().copy()  # type: ignore[attr-defined]
    store.apply("rl", staged)  # its momentum must not move heads in the steps that follow
    agent.load_weights(store.values)
    before = store.values.copy()
    aligned = torch.from_numpy(np.random.default_rng(4).normal(size=(7, spec.num_actions)).astype(np.float32) * 3)
    agent.mimic(rollout, aligned, 1.0, layer)
    store.apply("distill", agent.flat.grads.numpy())
    changed = {name for name, part in slices(agent.net).items() if (store.values[part] != before[part]).any()}
    assert all(
        (store.values[part] != before[part]).mean() > 0.5 for name, part in slices(agent.net).items() if name in changed
    )
    return {name.split(".")[0] for name in changed}


@pytest.mark.parametrize("spec", [SPEC, FRAMES], ids=["an MLP", "convolutions"])
def test_a_distillation_step_leaves_policy_and_value_heads_bit_identical(spec):
    agent, _ = build(spec)
    assert moved(agent, spec, "distill") == {"torso", "lstm", "distill"}


def test_distillation_into_the_policy_layer_moves_the_policy_head_and_not_the_two_others():
    agent, _ = build()
    assert moved(agent, SPEC, "policy") == {"torso", "lstm", "policy"}


def test_the_distillation_loss_is_equation_3_averaged_over_the_rollout():
    agent, staged = build()
    rollout = rollout_of(agent)
    aligned = torch.from_numpy(np.random.default_rng(4).normal(size=(7, ACTIONS)).astype(np.float32))
    student = agent.outputs(rollout).distill.detach().double().numpy()
    told = agent.mimic(rollout, aligned, 2.0, "distill")
    total = 0.0
    for z, zb in zip(aligned.double().numpy(), student, strict=True):
        p, q = np.exp(z / 2), np.exp(zb)
        p, q = p / p.sum(), q / q.sum()
        total += sum(p[a] * math.log(p[a] / q[a]) for a in range(ACTIONS))
    assert told["distill_loss"] == pytest.approx(total / 7, rel=1e-4)
    assert [kind for kind, _ in staged] == ["distill"]
    assert told["distill_grad_norm"] == pytest.approx(np.linalg.norm(staged[0][1]), rel=1e-5)


def test_an_alignment_step_on_the_server_changes_only_its_alignment_network():
    agent, _ = build()
    store = store_of(agent, extra=40)
    before = store.values.copy()
    store.apply("align0", np.ones(40, np.float32))
    network = len(agent.flat.values)
    assert (store.values[:network] == before[:network]).all()
    assert (store.values[network:] != before[network:]).all()
    assert {kind: adam.state()["steps"] for kind, adam in store.adams.items()} == {"rl": 0, "distill": 0, "align0": 1}


def test_each_kind_of_gradient_has_an_adam_of_its_own():
    """By Kingma and Ba's recursion, in float64."""
    agent, _ = build()
    store, rng = store_of(agent), np.random.default_rng(0)
    values = store.values.astype(np.float64)
    moments = {kind: [0, np.zeros(len(values)), np.zeros(len(values))] for kind in ("rl", "distill")}
    for kind in ("rl", "distill", "rl", "rl", "distill"):
        gradient = rng.normal(size=len(values)).astype(np.float32)
        store.apply(kind, gradient)
        state = moments[kind]
        state[0] += 1
        state[1] = 0.9 * state[1] + 0.1 * gradient.astype(np.float64)
        state[2] = 0.999 * state[2] + 0.001 * gradient.astype(np.float64) ** 2
        mean, square = state[1] / (1 - 0.9 ** state[0]), state[2] / (1 - 0.999 ** state[0])
        values = values - 1e-2 * mean / (np.sqrt(square) + 1e-8)
    np.testing.assert_allclose(store.values, values, atol=1e-5)


def test_without_rl_nothing_is_staged_for_it_but_distillation_goes_on():
    agent, staged = build(rl=False)
    rollout = rollout_of(agent)
    assert agent.learn(rollout) == {}
    assert staged == []
    agent.mimic(rollout, torch.zeros(7, ACTIONS), 1.0, "policy")
    assert [kind for kind, _ in staged] == ["distill"]


# Saved states


def test_a_saved_and_loaded_agent_goes_on_as_if_nothing_had_been(tmp_path):
    """Through a file, in the middle of an episode, into an agent of other experience."""
    lengths = [9, 5]
    agent, _ = build()
    loop = EnvLoop(env=Path(lengths, False), seed_of=lambda episode: episode, discount=GAMMA)
    for _ in range(2):
        explore_rollout(loop, agent, 4)
    checkpoint.write_file(tmp_path, "rank0000.h5", {"agent": agent.state(), "loop": loop.state()})

    other, _ = build()
    play(other, [3], truncated=False, count=5)
    saved = checkpoint.load_file(tmp_path / "rank0000.h5")
    other.load_state(saved["agent"])
    other.load_weights(agent.flat.values.numpy())
    resumed = EnvLoop(env=Path(lengths, False), seed_of=lambda episode: episode, discount=GAMMA)
    resumed.load_state(saved["loop"])
    assert not saved["agent"]["first"]

    for _ in range(6):
        one, ended = explore_rollout(loop, agent, 4)
        two, ended_too = explore_rollout(resumed, other, 4)
        for name in ("obs", "actions", "rewards"):
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
        assert [part.numpy().tobytes() for part in one.start] == [part.numpy().tobytes() for part in two.start]
        assert (one.bootstrap, one.first, ended) == (two.bootstrap, two.first, ended_too)
    assert differences(agent.state(), other.state()) == []


def test_a_state_is_a_copy_that_further_steps_do_not_touch():
    agent, _ = build()
    play(agent, [20], truncated=False, count=2)
    state = agent.state()
    kept = {name: np.copy(state[name]) for name in ("h", "c")}
    play(agent, [20], truncated=False, count=2)
    assert all((state[name] == kept[name]).all() for name in kept)


@pytest.mark.parametrize("length", [0, 1, 10_000])
def test_weights_of_another_network_are_refused(length):
    agent, _ = build()
    before = agent.flat.values.clone()
    with pytest.raises(ValueError, match=f"{length} parameters, this network has {len(before)}"):
        agent.load_weights(np.zeros(length, np.float32))
    assert (agent.flat.values == before).all()


def test_a_store_remembers_everything_and_refuses_the_state_of_other_networks():
    agent, _ = build()
    store, rng = store_of(agent, extra=5), np.random.default_rng(0)
    for kind in ("rl", "align0", "distill", "rl"):
        store.apply(kind, rng.normal(size=store.sizes[kind]).astype(np.float32))
    other = store_of(agent, extra=5)
    other.load_state(store.state())
    gradient = rng.normal(size=store.sizes["rl"]).astype(np.float32)
    for one in (store, other):
        one.apply("rl", gradient)
    assert differences(store.state(), other.state()) == []
    with pytest.raises(ValueError, match="parameters were saved"):
        store_of(agent).load_state(store.state())


# What is not finite


@pytest.mark.parametrize("reward", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_named_and_nothing_is_staged(reward):
    agent, staged = build()
    rollout = rollout_of(agent)
    rollout.rewards[3] = reward
    with pytest.raises(NonFiniteError, match="rl: the loss is"):
        agent.learn(rollout)
    assert staged == []


def test_a_distillation_from_logits_that_are_not_finite_stages_nothing():
    agent, staged = build()
    with pytest.raises(NonFiniteError, match="distill: the loss is"):
        agent.mimic(rollout_of(agent), torch.full((7, ACTIONS), math.nan), 1.0, "distill")
    assert staged == []


@pytest.mark.parametrize("poison", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_refused_by_the_store_before_it_is_applied(poison):
    agent, _ = build()
    store = store_of(agent)
    store.apply("rl", np.ones(store.sizes["rl"], np.float32))
    before = store.state()
    gradient = np.ones(store.sizes["rl"], np.float32)
    gradient[-1] = poison
    with pytest.raises(NonFiniteError, match="rl"):
        store.apply("rl", gradient)
    assert differences(store.state(), before) == []


def test_two_infinities_do_not_hide_each_other():
    agent, _ = build()
    gradient = np.zeros(len(agent.flat.values), np.float32)
    gradient[:2] = math.inf, -math.inf
    with pytest.raises(NonFiniteError):
        store_of(agent).apply("distill", gradient)


def test_the_loop_hands_each_step_to_the_agent_before_it_yields_it():
    agent, _ = build()
    loop = EnvLoop(env=Path([30], False), seed_of=lambda episode: episode, discount=GAMMA)
    steps: list[Transition] = [step.transition for step in islice(loop.steps(agent), 5)]
    rollout = agent.finish(over=False)
    assert rollout.obs.tobytes() == np.stack([step.obs for step in steps]).tobytes()
    assert agent.frames == 5
