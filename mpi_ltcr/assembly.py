"""The composition root: configuration and role -> the things that one rank owns. Everything is wired here, once."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import NamedTuple

import gymnasium
import numpy as np
import torch

from mpi_ltcr import __version__, envs
from mpi_ltcr.assembly_agents import TeamAgent, build_agent
from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.comm.roles import Role
from mpi_ltcr.config import AgentConfig, C51Config, Config, ConfigError
from mpi_ltcr.envs.lockstep import TeamGames, TeamLoop, play_episode
from mpi_ltcr.envs.opponents import Opponent, Snapshots, make_opponent
from mpi_ltcr.envs.space_battle_solo import SpaceBattleSolo
from mpi_ltcr.interaction import EnvLoop, evaluate, random_features
from mpi_ltcr.interfaces import EnvSpec, Episode, Features, Loop, Policy
from mpi_ltcr.memory import dense, public
from mpi_ltcr.memory.frame_ring import ring_bytes
from mpi_ltcr.memory.public import PublicMemory
from mpi_ltcr.rivals import Rivals, without_policies
from mpi_ltcr.seeds import TEAM, SeedTree
from mpi_ltcr.transfer.none import NoTransfer
from mpi_ltcr.transfer.public_memory import PublicMemoryTransfer
from mpi_ltcr.transfer.topology import Topology

PROBE_STATES = 9
"""States whose whole distributions are written: the zero observation and eight of random play (Fig. 5)."""


class Member(NamedTuple):
    """What one rank of a team owns."""

    role: Role
    spec: EnvSpec
    agent: TeamAgent
    loop: Loop
    evaluate: Callable[[Policy, int, int], Episode]
    """(policy, number of the evaluation, of the episode) -> it, elsewhere. Collective where games are shared."""
    transfer: NoTransfer | PublicMemoryTransfer
    memory: PublicMemory | None
    """M0, on the rank that keeps it (`role.keeps_memory`); of stacked frames every rank has a copy."""
    probe: Features
    """The fixed set on which teammates are compared."""
    probe_states: np.ndarray


def build_member(
    config: Config, role: Role, service: Service, device: torch.device, rivals: Rivals | None = None
) -> Member:
    """Everything of one rank of an LTCR team, in its first state; `rivals` play the enemies that need policies."""
    seeds = SeedTree(config.seed)
    env, probe_env = (envs.make(config.env.id, without_policies(config.env)) for _ in range(2))
    spec = envs.spec_of(config.env.id, env)
    settings = config.agent_of(role.agent)
    epsilon, precision = config.eval.epsilon, config.runtime.precision
    agent = build_agent(config, spec, role.agent, device, eval_epsilon=epsilon, precision=precision)
    if config.env.shared:
        snapshots = build_snapshots(rivals, spec, role.agent, agent.weights) if rivals else None
        loop, evaluate_episode = _shared_loop(config, settings, role, service, env, seeds, snapshots)
    else:
        loop, evaluate_episode = _own_loop(config, settings, role, env, seeds)
    probe_rng = seeds.generator(TEAM, "probe")
    states = random_features(probe_env, probe_rng, PROBE_STATES).obs
    states[0] = 0
    memory = None
    if (role.keeps_memory or spec.stacked) and config.transfer.method == "public_memory":
        memory = PublicMemory(capacity=config.transfer.memory_size, spec=spec, rng=seeds.generator(TEAM, "subset"))
    return Member(
        role=role,
        spec=spec,
        agent=agent,
        loop=loop,
        evaluate=evaluate_episode,
        transfer=_build_transfer(config, role, service, spec, memory, seeds),
        memory=memory,
        probe=random_features(probe_env, probe_rng, max(1, config.log.probe_size)),
        probe_states=states,
    )


def _own_loop(
    config: Config, settings: AgentConfig, role: Role, env: gymnasium.Env, seeds: SeedTree
) -> tuple[Loop, Callable[[Policy, int, int], Episode]]:
    """An environment of its own for each agent, and another one to be evaluated in."""
    loop = EnvLoop(
        env=env,
        seed_of=functools.partial(seeds.integer, role.agent, "env"),
        discount=settings.discount,
        reward_scale=settings.reward_scale,
        reward_clip=settings.reward_clip,
    )
    eval_env = envs.make(config.env.id, config.env.kwargs)

    def evaluate_episode(policy: Policy, number: int, episode: int) -> Episode:
        return evaluate(eval_env, policy, seeds.integer(role.agent, "eval_env", number, episode))

    return loop, evaluate_episode


def _shared_loop(
    config: Config,
    settings: AgentConfig,
    role: Role,
    service: Service,
    env: gymnasium.Env,
    seeds: SeedTree,
    snapshots: Snapshots | None,
) -> tuple[Loop, Callable[[Policy, int, int], Episode]]:
    """Replicas of one team's games on all ranks (LTCR 4.1, multi-player mode). Collective."""
    if not isinstance(env.unwrapped, SpaceBattleSolo):
        raise ConfigError(f"env.shared: {config.env.id} is played alone; use mpi_ltcr/SpaceBattle-v0")
    rules, enemies = env.unwrapped.rules, str(config.env.kwargs.get("enemies", "random"))

    def opponent() -> Opponent:
        if snapshots is None:
            return make_opponent(enemies, rules=rules)
        return make_opponent("selfplay", policies=snapshots)  # a frozen team: of one snapshot, which no other joins

    def games(purpose: str, count: int, *number: int) -> TeamGames:
        return TeamGames(
            rules=rules,
            ship=role.agent,
            opponents=[opponent() for _ in range(count)],
            rng_of=lambda game, episode: seeds.generator(TEAM, purpose, *number, game, episode),
            exchange=service.allgather,
            piloted=snapshots is not None,
        )

    def evaluate_episode(policy: Policy, number: int, episode: int) -> Episode:
        return play_episode(games("eval_env", 1, number, episode), policy)

    loop = TeamLoop(
        games=games("env", config.env.copies),
        discount=settings.discount,
        reward_scale=settings.reward_scale,
        reward_clip=settings.reward_clip,
        snapshots=snapshots,
    )
    return loop, evaluate_episode


def build_snapshots(rivals: Rivals, spec: EnvSpec, ship: int, own_weights: Callable[[], np.ndarray]) -> Snapshots:
    """Whom the enemy of number `ship` plays: a frozen agent for ever, or past selves of the own one.

    Raises:
        CheckpointError: the frozen agent's file is damaged. ValueError: it does not fit its own configuration.
    """
    index = ship if rivals.folder is None or rivals.size > 1 else 0
    revive = functools.partial(build_guest, rivals.config, spec, index)
    take = own_weights if rivals.folder is None else lambda: np.asarray(rivals.state_of(ship)["weights"])
    snapshots = Snapshots(take=take, revive=revive, every=rivals.every)
    snapshots[0]  # fits, or is refused
    return snapshots


def build_guest(config: Config, spec: EnvSpec, index: int, weights: np.ndarray) -> Policy:
    """The policy (greedy, where it has values) of agent number `index` of a run, with these weights (P,), on the CPU.

    Raises:
        ValueError: weights of another network.
    """
    agent = build_agent(config, spec, index, torch.device("cpu"), eval_epsilon=0.0)
    agent.load_weights({"weights": weights, "target_weights": weights})
    return agent.player(np.random.default_rng(0))


def _build_transfer(
    config: Config, role: Role, service: Service, spec: EnvSpec, memory: PublicMemory | None, seeds: SeedTree
) -> NoTransfer | PublicMemoryTransfer:
    if config.transfer.method == "none":
        return NoTransfer()
    return PublicMemoryTransfer(
        service=service,
        memory=memory,
        spec=spec,
        upload_rng=seeds.generator(role.agent, "upload"),
        round_frames=config.round_frames,
        demonstrations=config.transfer.demonstrations,
        upload_probability=config.transfer.upload_probability,
        subset=config.transfer.subset,
        target=config.transfer.target,
        topology=Topology(
            name=config.transfer.topology,
            size=service.size,
            k=config.transfer.k,
            rng=seeds.generator(TEAM, "topology"),
        ),
        summed=config.transfer.exchange == "allreduce",
        start=config.transfer.start // config.round_frames,
    )


def memory_need(config: Config, spec: EnvSpec, role: Role) -> int:
    """Bytes that this rank's memories come to when they are full."""
    settings, need = config.agent_of(role.agent), 0
    if isinstance(settings, C51Config):
        need = ring_bytes(capacity=settings.replay_capacity, columns=dense.columns_of(spec), spec=spec)
    if (role.keeps_memory or spec.stacked) and config.transfer.method == "public_memory":
        need += ring_bytes(capacity=config.transfer.memory_size, columns=public.columns_of(spec), spec=spec)
    return need


def memory_problem(config: Config, need: int, agents: int, available: int | None) -> str:
    """Why the memories of a node's `agents`, `need` bytes together, do not fit; empty if they do, or nobody knows."""
    if available is None or need <= available:
        return ""
    team = (config.agent_of(index) for index in range(max(1, len(config.agents))))
    largest = max((one.replay_capacity for one in team if isinstance(one, C51Config)), default=0)
    fitting = int(0.9 * largest * available / need)
    return (
        f"agent.replay_capacity: {largest} transitions (and M0) come to {need} bytes for {agents} agent(s) on this "
        f"node, {available} are available; take at most {fitting}, or fewer agents on a node"
    )


def fingerprint(config: Config, spec: EnvSpec, agent: int) -> str:
    """What must be equal on all ranks of a team, as JSON: its lessons, and the course of its rounds."""
    settings, told = config.agent_of(agent), config.transfer.lesson == "values"
    compared = told and (config.transfer.method != "none" or config.log.probe_size)
    support = {f"agent.{name}": getattr(settings, name) for name in ("atoms", "vmin", "vmax") if compared}
    game = {f"env.{name}": value if config.env.shared else None for name, value in vars(config.env).items()}
    return json.dumps(
        {
            "version": __version__,
            **support,
            "env.shared": config.env.shared,  # first of those of the game that all are in
            **game,
            "env.observation": [list(spec.obs_shape), str(spec.obs_dtype)],
            "env.actions": spec.num_actions,
            "frames": config.frames,
            "seed": config.seed,
            "round_frames": config.round_frames,
            "transfer": vars(config.transfer),
            "eval.every": config.eval.every,
            "log.probe_every": config.log.probe_every,
            "log.probe_size": config.log.probe_size,
            "checkpoint.every": config.checkpoint.every,
        }
    )


def disagreement(fingerprints: list[str]) -> str | None:
    """The first field on which agents differ and who has what, as one line; None if all agree."""
    facts = [json.loads(text) for text in fingerprints]
    for field, value in facts[0].items():
        for agent, other in enumerate(facts[1:], start=1):
            if other[field] != value:
                return f"{field}: agent 0 has {value}, agent {agent} has {other[field]}; start all with the same"
    return None
