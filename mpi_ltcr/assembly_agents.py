"""The composition root's part for LTCR's teammates of any kind: settings -> network, agent."""

from __future__ import annotations

import torch
from torch import nn

from mpi_ltcr import assembly_c51
from mpi_ltcr.agents.actor_critic import ActorCriticAgent
from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.assembly_c51 import HIDDEN, TORSOS
from mpi_ltcr.config import ActorCriticConfig, AgentConfig, Config, TransferConfig
from mpi_ltcr.interfaces import EnvSpec
from mpi_ltcr.nets.flat import count, flatten
from mpi_ltcr.nets.policy import PolicyNetwork
from mpi_ltcr.seeds import SeedTree

TeamAgent = C51Agent | ActorCriticAgent


def build_agent(
    config: Config,
    spec: EnvSpec,
    index: int,
    device: torch.device,
    *,
    eval_epsilon: float,
    precision: str = "fp32",
) -> TeamAgent:
    """Agent number `index` of a team, with weights drawn from its own branch of the seed tree.

    Args:
        eval_epsilon: share of random actions of its evaluated policy, where that is a greedy one.
        precision: of its arithmetic, "fp32" or "bf16".
    """
    settings, seeds, transfer = config.agent_of(index), SeedTree(config.seed), config.transfer
    if isinstance(settings, ActorCriticConfig):
        return build_actor_critic(settings, spec, seeds, index, device, transfer, rollout=config.round_frames)
    return assembly_c51.build_c51(settings, spec, seeds, index, device, eval_epsilon, transfer, precision)


def build_actor_critic(
    settings: ActorCriticConfig,
    spec: EnvSpec,
    seeds: SeedTree,
    index: int,
    device: torch.device,
    transfer: TransferConfig,
    *,
    rollout: int,
) -> ActorCriticAgent:
    """Agent number `index`, an actor-critic that learns from `rollout` steps at once."""
    net = build_policy_net(settings, spec, torch.Generator().manual_seed(seeds.integer(index, "weights"))).to(device)
    flat = flatten(net)
    revisit_stepper, digest_stepper = assembly_c51.build_steppers(flat, settings, transfer)
    return ActorCriticAgent(
        spec=spec,
        net=net,
        flat=flat,
        revisit_stepper=revisit_stepper,
        digest_stepper=digest_stepper,
        explore_rng=seeds.generator(index, "explore"),
        rollout=rollout,
        discount=settings.discount,
        gae_lambda=settings.gae_lambda,
        value_coef=settings.value_coef,
        entropy_coef=settings.entropy_coef,
    )


def build_net(settings: AgentConfig, spec: EnvSpec, generator: torch.Generator) -> nn.Module:
    """The network of one agent of any kind."""
    if isinstance(settings, ActorCriticConfig):
        return build_policy_net(settings, spec, generator)
    return assembly_c51.build_net(settings, spec, generator)


def parameters_of(settings: AgentConfig, spec: EnvSpec) -> int:
    """How many the network of one agent has; it is not made."""
    return count(lambda generator: build_net(settings, spec, generator))


def build_policy_net(settings: ActorCriticConfig, spec: EnvSpec, generator: torch.Generator) -> PolicyNetwork:
    """Policy and value over one torso."""
    torso = TORSOS[settings.torso](spec, HIDDEN[settings.torso](settings), generator)
    return PolicyNetwork(torso=torso, features=torso.features, actions=spec.num_actions, generator=generator)
