"""What the tests of cA3C's agent share: a small agent, toy games, Algorithm 1 with its network written out in numpy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from ca3c_helpers import slices

from mpi_ltcr.agents.a3c import A3CAgent
from mpi_ltcr.interaction import EnvLoop
from mpi_ltcr.interfaces import EnvSpec, Rollout
from mpi_ltcr.nets.flat import flatten
from mpi_ltcr.nets.universe import MLPTorso, RecurrentActorCritic, UniverseTorso
from mpi_ltcr.steppers import PushStepper

ACTIONS, OBS, HIDDEN = 3, 4, 6
GAMMA, LAMBDA, VALUE_COEF, ENTROPY_COEF = 0.9, 0.7, 0.3, 0.02
SPEC = EnvSpec((OBS,), np.dtype(np.float32), ACTIONS, np.array([1, 2, 0.5, 1], np.float32))
FRAMES = EnvSpec((1, 42, 42), np.dtype(np.float32), ACTIONS)

Staged = list[tuple[str, np.ndarray]]


def build(
    spec: EnvSpec = SPEC,
    double: bool = False,
    grad_clip: float = 0.0,
    rl: bool = True,
    games: int = 1,
    kind: type[A3CAgent] = A3CAgent,
    seed: int = 8,
) -> tuple[A3CAgent, Staged]:
    """A small agent, and the gradients that it stages. Its games draw actions by `seed` and the numbers after it."""
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
    agent = kind(
        spec=spec,
        net=net,
        flat=flat,
        rl_stepper=push(stage=lambda g: staged.append(("rl", g.copy())), name="rl"),
        distill_stepper=push(stage=lambda g: staged.append(("distill", g.copy())), name="distill"),
        explore_rngs=[np.random.default_rng(seed + game) for game in range(games)],
        rl=rl,
        discount=GAMMA,
        gae_lambda=LAMBDA,
        value_coef=VALUE_COEF,
        entropy_coef=ENTROPY_COEF,
    )
    if double and kind is A3CAgent:
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
    return Rollout(obs, actions, rewards, (length,), start, (bootstrap,), (False,))


# Games


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


def path_loop(lengths: list[int], game: int, truncated: bool = False) -> EnvLoop:
    """A path whose episodes count on from the game's number."""
    return EnvLoop(env=Path(lengths, truncated), seed_of=lambda episode: episode + game, discount=GAMMA)


def alone(rollout: Rollout) -> list[Rollout]:
    """The rollouts of each game."""
    found, start = [], 0
    for game, length in enumerate(rollout.lengths):
        steps, mine = slice(start, start + length), slice(game, game + 1)
        h, c = rollout.start
        parts = rollout.obs[steps], rollout.actions[steps], rollout.rewards[steps], (length,)
        found.append(Rollout(*parts, (h[mine], c[mine]), rollout.bootstrap[mine], rollout.first[mine]))
        start += length
    return found


def places(rollout: Rollout) -> list[tuple[int, int]]:
    return [(int(obs[0]), int(obs[1])) for obs in rollout.obs]


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
    (bootstrap,) = rollout.bootstrap
    r, v = rollout.rewards.astype(np.float64), [*values, bootstrap]
    deltas = [r[i] + GAMMA * v[i + 1] - v[i] for i in range(steps)]
    advantages = [sum((GAMMA * LAMBDA) ** (j - i) * deltas[j] for j in range(i, steps)) for i in range(steps)]
    returns = [
        sum(GAMMA ** (j - i) * r[j] for j in range(i, steps)) + GAMMA ** (steps - i) * bootstrap for i in range(steps)
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


def value_at_end(agent: A3CAgent, rollout: Rollout, after: np.ndarray) -> float:
    """V of the state after a rollout, by walking the naive network along it."""
    naive = Naive(agent, agent.flat.values.double().numpy())
    h, c = (part.double().numpy()[0] for part in rollout.start)
    for obs in rollout.obs:
        _, _, h, c = naive.step(obs.astype(np.float64), h, c)
    return naive.step(after.astype(np.float64), h, c)[1]
