"""What agents compute, beside the bare network: forward, and forward and backward, of the same shapes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from importlib.util import find_spec
from itertools import cycle, islice, pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from mpi_ltcr import assembly_c51, assembly_ca3c, envs, options
from mpi_ltcr.agents.a3c import A3CAgent
from mpi_ltcr.bench.env import Wanderer
from mpi_ltcr.bench.measuring import Asked, Bench, Piece, measure, table
from mpi_ltcr.config import C51Config, ConfigError
from mpi_ltcr.interaction import EnvLoop, explore, explore_rollout
from mpi_ltcr.interfaces import EnvSpec, Features, Lesson, Rollout
from mpi_ltcr.seeds import SeedTree

BACKENDS = ("eager", "fused", *(["compiled"] if find_spec("numba") else []))
"""Of C51, those that can run here."""
PRESET, ACTOR_CRITIC = "ltcr-cartpole-9-1", "small-a3c-pong"
"""What is measured unless asked otherwise."""
GAMES = 8
"""Side by side in one worker of cA3C."""


def times(action: Callable[[], object]) -> Callable[[int], None]:
    """An action as work of n units."""

    def work(n: int) -> None:
        for _ in range(n):
            action()

    return work


def measured(comm: Any, asked: Asked, signals: Any) -> list[Bench]:
    """C51 of a preset on every backend that can run it, and A3C on Pong."""
    torch.set_num_threads(1)
    pieces = c51_pieces(asked.preset or PRESET)
    tables = [table(f"learn: C51 of {asked.preset or PRESET}", pieces, measure(pieces, asked))]
    if asked.preset is None:
        pieces = _a3c_pieces()
        tables.append(
            table(f"learn: A3C of {ACTOR_CRITIC}, rollouts of 20 steps of each game", pieces, measure(pieces, asked))
        )
    return tables


def c51_pieces(preset: str) -> list[Piece]:
    """Floors first, then each backend's share of a frame; and what a round of LTCR adds."""
    config, _ = options.load([preset])
    env = envs.make(config.env.id, config.env.kwargs)
    spec, settings = envs.spec_of(config.env.id, env), config.agent
    met, _ = explore(EnvLoop(env=env, seed_of=int, discount=0.99), Wanderer(spec.num_actions), 4000)
    batch, asked = settings.batch, config.transfer.demonstrations
    acting, learning = "network forward, 1 state", f"network forward and backward, {batch} states"
    pieces = list(_bare_network(settings, spec, met, acting, learning))
    for backend in BACKENDS:
        try:
            agent = assembly_c51.build_c51(
                _with(settings, backend), spec, SeedTree(1), 0, torch.device("cpu"), 0.0, config.transfer
            )
        except ConfigError:  # the other one can do it
            continue
        pieces += _of_agent(agent, env, met, batch, asked, backend, acting, learning)
    return pieces


def _with(settings: C51Config, backend: Any) -> C51Config:
    """The same agent on another backend, ready to learn at once and always greedy."""
    return dataclasses.replace(settings, backend=backend, warmup=0, epsilon_start=0.0, epsilon_end=0.0)


def _bare_network(settings: C51Config, spec: EnvSpec, met: Features, acting: str, learning: str) -> tuple[Piece, Piece]:
    """An MLP as torch's users write it: no target, no projection, no optimiser, no replay."""
    sizes = [int(np.prod(spec.obs_shape)), *(settings.hidden if settings.torso == "mlp" else ())]
    layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(sizes[-1], spec.num_actions * settings.atoms))
    obs = torch.from_numpy(met.obs.reshape(len(met.obs), -1).astype(np.float32))
    one, many = obs[:1], obs[: settings.batch]

    def forward() -> None:
        with torch.no_grad():
            net(one)

    def backward() -> None:
        net.zero_grad()
        net(many).sum().backward()

    return Piece(acting, "passes", times(forward)), Piece(learning, "passes", times(backward))


def _of_agent(
    agent: Any, env: Any, met: Features, batch: int, asked: int, backend: str, acting: str, learning: str
) -> list[Piece]:
    loop = EnvLoop(env=env, seed_of=int, discount=0.99)
    explore(loop, agent, max(1000, 2 * batch))
    steps = cycle([step.transition for step in islice(loop.steps(agent), 256)])
    states = cycle(met.obs[:256])
    features = Features(met.obs[:asked], met.action[:asked])
    lesson = Lesson(features, agent.answer(features), np.zeros(asked, np.int64))
    frame = f"{backend}: a frame"
    return [
        Piece(f"{backend}: act", "states", times(lambda: agent.act(next(states))), acting, frame),
        Piece(f"{backend}: observe", "steps", times(lambda: agent.observe(next(steps))), "", frame),
        Piece(f"{backend}: revisit, batch {batch}", "updates", times(agent.revisit), learning, frame),
        Piece(f"{backend}: answer {asked}", "answers", times(lambda: agent.answer(features))),
        Piece(f"{backend}: mimic {asked}", "updates", times(lambda: agent.mimic(lesson)), learning),
    ]


def _a3c_pieces() -> list[Piece]:
    """The bare network by autograd, then each backend's share of the steps of one game or of several.

    The gradient of `fused` has no way forward of its own: what acting has computed is kept.
    """
    pieces: list[Piece] = []
    for backend, games in (("eager", 1), ("fused", 1), ("fused", GAMES)):
        tasks = f"[{{env: {{copies: {games}}}}}]"
        config, _ = options.load([ACTOR_CRITIC, "--agent.backend", backend, "--tasks", tasks])
        worker = assembly_ca3c.build_worker(config, config.tasks[0], 0, [], [], lambda kind, gradient: None, int)
        agent = worker.agent
        play = functools.partial(explore_rollout, worker.games, agent, worker.rollout_length)
        rollout, _ = play()
        floor = f"network forward and backward, {len(rollout.actions)} states"
        if floor not in [piece.name for piece in pieces]:
            pieces.append(Piece(floor, "rollouts", times(functools.partial(_backward, agent, rollout))))
        learn = functools.partial(agent.learn, rollout)
        whole = backend if games == 1 else f"{backend}, {games} games"
        pieces.append(Piece(f"{whole}: act and play", "rollouts", times(play), "", f"{whole}: a rollout"))
        pieces.append(Piece(f"{whole}: gradient", "rollouts", times(learn), floor, f"{whole}: a rollout"))
    return pieces


def _backward(agent: Any, rollout: Rollout) -> None:
    agent.flat.grads.zero_()
    A3CAgent.outputs(agent, rollout).policy.sum().backward()
