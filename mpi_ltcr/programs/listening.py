"""Trained networks that look on while one of them plays: what each of them says of every state, as logits.

Of offline alignment (CDRL 5.3, `programs/align.py`) and of distributions over actions (CDRL Fig. 5,
`programs/actions.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mpi_ltcr import assembly_ca3c as assembly
from mpi_ltcr import envs
from mpi_ltcr.interaction import EnvLoop
from mpi_ltcr.interfaces import EnvSpec, Transition
from mpi_ltcr.nets.flat import flatten
from mpi_ltcr.nets.universe import RecurrentActorCritic
from mpi_ltcr.seeds import SeedTree


class Expert(NamedTuple):
    """A trained network, its task, and the environment in which it was trained."""

    task: str
    net: RecurrentActorCritic
    env: Any
    spec: EnvSpec


def load_expert(run: Path, task: str, field: str) -> Expert:
    """The network of a trained task of a run, at its newest checkpoint. Raises ConfigError, naming the field."""
    source, weights = assembly.certificate(run, task, field)
    env = next(t.env for t in source.tasks if t.name == task)
    spec = assembly.spec_of(env)
    net = assembly.build_network(source.agent, spec, torch.Generator())
    flatten(net).values.copy_(torch.from_numpy(weights))
    return Expert(task, net, env, spec)


class _Audience:
    """The first network plays; all see every state, each in its own scale and with its own recurrent state."""

    def __init__(self, experts: Sequence[Expert], rng: np.random.Generator) -> None:
        self.nets = [expert.net for expert in experts]
        self.scales = [torch.as_tensor(expert.spec.obs_scale, dtype=torch.float32) for expert in experts]
        self.rng = rng
        self.heard: list[list[np.ndarray]] = [[] for _ in experts]
        self.begin()

    def begin(self) -> None:
        self.states = [net.initial_state() for net in self.nets]

    @torch.no_grad()
    def act(self, obs: np.ndarray) -> int:
        """Sample from the player's policy, and note down what all say."""
        for i, net in enumerate(self.nets):
            scaled = torch.from_numpy(obs).float() * self.scales[i]
            out, self.states[i] = net.step(scaled.reshape(1, *net.torso.obs_shape), self.states[i])
            self.heard[i].append(out.policy[0].numpy())
        logits = self.heard[0][-1].astype(np.float64)
        masses = np.exp(logits - logits.max())
        return int(self.rng.choice(len(masses), p=masses / masses.sum()))

    def observe(self, transition: Transition) -> None:
        """Nothing is learned from the rewards."""


def listen(
    player: Expert, others: Sequence[Expert], count: int, seeds: SeedTree, heed: Callable[[], object] = lambda: None
) -> list[np.ndarray]:
    """Policy logits, (count, A) float32 of the player and of each other one, on `count` states of the player's play.

    Args:
        heed: called after each state; it may raise.
    """
    env = envs.make(player.env.id, player.env.kwargs)
    audience = _Audience([player, *others], seeds.generator(0, "explore"))
    loop = EnvLoop(env=env, seed_of=functools.partial(seeds.integer, 0, "env"), discount=1.0, after_step=heed)
    for step in loop.steps(audience):
        if step.ended:
            audience.begin()
        if len(audience.heard[0]) == count:
            break
    env.close()
    return [np.stack(logits) for logits in audience.heard]
