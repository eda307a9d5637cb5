"""The composition root's part for Categorical DQN: settings -> network, replay, agent."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from mpi_ltcr.agents import AGENTS, OPTIMISERS
from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.agents.c51_compiled import kernels
from mpi_ltcr.config import AgentConfig, C51Config, ConfigError, TransferConfig
from mpi_ltcr.formulas import categorical, schedules
from mpi_ltcr.interfaces import EnvSpec
from mpi_ltcr.memory.dense import DenseStore
from mpi_ltcr.memory.n_step import NStep
from mpi_ltcr.memory.prioritised import PrioritisedOrder
from mpi_ltcr.memory.replay import Order, Replay
from mpi_ltcr.memory.uniform import UniformOrder
from mpi_ltcr.nets.atoms import AtomNetwork
from mpi_ltcr.nets.flat import FlatParameters, flatten
from mpi_ltcr.nets.heads import Dueling, Layer, Stream
from mpi_ltcr.nets.noisy import Noise, NoisyLinear
from mpi_ltcr.nets.torsos import MLP, NATURE_FEATURES, Identity, Nature, linear
from mpi_ltcr.seeds import SeedTree
from mpi_ltcr.steppers import FlatAdam, LocalAdam


def build_c51(
    settings: C51Config,
    spec: EnvSpec,
    seeds: SeedTree,
    index: int,
    device: torch.device,
    eval_epsilon: float,
    transfer: TransferConfig,
    precision: str = "fp32",
) -> C51Agent:
    """Agent number `index`, with weights drawn from its own branch of the seed tree; it computes in `precision`."""
    agent = _c51_class(settings, spec, device)
    generator = torch.Generator().manual_seed(seeds.integer(index, "weights"))
    net, target_net = (build_net(settings, spec, generator).to(device) for _ in range(2))
    net.bf16 = target_net.bf16 = precision == "bf16"
    flat, target_flat = flatten(net), flatten(target_net)
    noise_rng = seeds.generator(index, "noise")
    revisit_stepper, digest_stepper = build_steppers(flat, settings, transfer, OPTIMISERS[settings.backend])
    return agent(
        spec=spec,
        net=net,
        target_net=target_net,
        flat=flat,
        target_flat=target_flat,
        support=categorical.support(settings.vmin, settings.vmax, settings.atoms, device=device),
        replay=build_replay(settings, spec, seeds.generator(index, "replay")),
        revisit_stepper=revisit_stepper,
        digest_stepper=digest_stepper,
        explore_rng=seeds.generator(index, "explore"),
        noise=Noise(net=net, rng=noise_rng),
        target_noise=Noise(net=target_net, rng=noise_rng),
        double=settings.double,
        batch=settings.batch,
        warmup=settings.warmup,
        target_period=settings.target_period,
        epsilon_start=settings.epsilon_start,
        epsilon_end=settings.epsilon_end,
        epsilon_frames=settings.epsilon_frames,
        eval_epsilon=eval_epsilon,
        speak_net=transfer.speak_net,
        temperature=float(transfer.temperature) if transfer.lesson == "policy" else None,
    )


def build_steppers(
    flat: FlatParameters, settings: AgentConfig, transfer: TransferConfig, optimiser: type[LocalAdam] = LocalAdam
) -> tuple[LocalAdam, LocalAdam]:
    """What Revisit and what Digest drive the weights with."""
    new_adam = functools.partial(FlatAdam, values=flat.values, lr=settings.lr, eps=settings.adam_eps)
    stepper = functools.partial(optimiser, flat=flat, grad_clip=settings.grad_clip)
    revisit = stepper(adam=new_adam(), name="revisit")
    return revisit, stepper(adam=revisit.adam if transfer.digest_adam == "shared" else new_adam(), name="digest")


def _c51_class(settings: C51Config, spec: EnvSpec, device: torch.device) -> Callable[..., C51Agent]:
    """The agent that computes as `returns` and `backend` say; raises ConfigError where it cannot."""
    agent: Callable[..., C51Agent] = AGENTS[settings.returns, settings.backend]
    if settings.backend == "eager":
        return agent
    if device.type != "cpu":
        choice = "set agent.device: cpu, or agent.backend: eager"
        raise ConfigError(f"agent.backend: {settings.backend} computes on the CPU; {choice}")
    if settings.backend == "compiled":
        _require_compiler()
    widths = settings.hidden if settings.torso == "mlp" else ()
    return functools.partial(agent, sizes=[int(np.prod(spec.obs_shape)), *widths, spec.num_actions * settings.atoms])


def _require_compiler() -> None:
    """Raise ConfigError unless numba is there, and has a place for what it compiles."""
    try:
        kernels()
    except ImportError:
        choice = "pip install mpi-ltcr[compiled], or set agent.backend: fused"
        raise ConfigError(f"agent.backend: compiled needs numba; {choice}") from None
    except RuntimeError as error:
        choice = "set NUMBA_CACHE_DIR to a folder that can be written"
        raise ConfigError(f"agent.backend: compiled cannot keep its machine code ({error}); {choice}") from None


def build_net(settings: C51Config, spec: EnvSpec, generator: torch.Generator) -> AtomNetwork:
    """The value network of one agent.

    In dueling and noisy networks the last hidden layer belongs to the head: each stream has one of its own, and it is
    noisy like the layer after it. What lies before it, convolutions above all, is neither.
    """
    hidden = HIDDEN[settings.torso](settings)
    own = hidden[-1:] if settings.dueling or settings.noisy else ()
    torso = TORSOS[settings.torso](spec, hidden[: len(hidden) - len(own)], generator)
    atoms = settings.quantiles if settings.returns == "quantiles" else settings.atoms
    head = _build_head(settings, torso.features, sum(own), spec.num_actions, atoms, generator)
    return AtomNetwork(torso=torso, head=head, actions=spec.num_actions, atoms=atoms)


def _build_head(
    settings: C51Config, features: int, hidden: int, actions: int, atoms: int, generator: torch.Generator
) -> nn.Module:
    layer: Layer = functools.partial(linear, generator=generator)
    if settings.noisy:
        layer = functools.partial(NoisyLinear, sigma0=settings.noisy, generator=generator)
    if settings.dueling:
        return Dueling(features=features, hidden=hidden, actions=actions, atoms=atoms, layer=layer)
    if settings.noisy:
        return Stream(features=features, hidden=hidden, outputs=actions * atoms, layer=layer)
    return layer(features, actions * atoms)


def _mlp(spec: EnvSpec, widths: tuple[int, ...], generator: torch.Generator) -> MLP:
    return MLP(inputs=int(np.prod(spec.obs_shape)), widths=widths, generator=generator)


def _linear(spec: EnvSpec, widths: tuple[int, ...], generator: torch.Generator) -> Identity:
    return Identity(inputs=int(np.prod(spec.obs_shape)))


def _nature(spec: EnvSpec, widths: tuple[int, ...], generator: torch.Generator) -> Nature:
    return Nature(obs_shape=spec.obs_shape, dense=bool(widths), generator=generator)


TORSOS: dict[str, Callable[[EnvSpec, tuple[int, ...], torch.Generator], MLP | Identity | Nature]] = {
    "mlp": _mlp,
    "linear": _linear,
    "nature": _nature,
}
"""Layers between observation and atoms, by the name in the configuration."""

HIDDEN: dict[str, Callable[[AgentConfig], tuple[int, ...]]] = {
    "mlp": lambda settings: settings.hidden,
    "linear": lambda settings: (),
    "nature": lambda settings: (NATURE_FEATURES,),
}
"""Widths of the fully connected hidden layers of each."""


def build_replay(settings: C51Config, spec: EnvSpec, rng: np.random.Generator) -> Replay:
    """The private memory of one agent."""
    return Replay(
        store=DenseStore(capacity=settings.replay_capacity, spec=spec),
        order=_build_order(settings, rng),
        n_step=NStep(steps=settings.n_step),
    )


def _build_order(settings: C51Config, rng: np.random.Generator) -> Order:
    if not settings.prioritised:
        return UniformOrder(rng=rng)
    return PrioritisedOrder(
        capacity=settings.replay_capacity,
        omega=settings.priority_omega,
        beta_of=functools.partial(schedules.linear, start=settings.beta_start, end=1.0, duration=settings.beta_frames),
        rng=rng,
    )
