"""The sections that every program has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class EnvConfig:
    """The environment of every agent."""

    id: str = "mpi_ltcr/CartPole15-v0"
    """Any registered Gymnasium id with a Box observation and Discrete actions."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor, e.g. `--env.kwargs.angle_limit_deg 12`."""
    shared: bool = False
    """Multi-player mode: all ranks are ships of one team in the same game (Space Battle only)."""
    copies: PositiveInt = 1
    """Games side by side: shared ones, which one exchange of actions serves; or those of each worker of cA3C."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation in an environment of its own; its frames are not counted."""

    every: PositiveInt = 100
    """Frames between evaluations (LTCR 4.2)."""
    episodes: PositiveInt = 1
    """Episodes in one evaluation (ref)."""
    epsilon: ClosedUnitInterval = 0.001
    """Share of random actions (LTCR 4.2)."""


@dataclass(frozen=True)
class LogConfig:
    """What is written besides returns and losses, and how often."""

    publish_s: PositiveFloat = 30.0
    """Seconds between republished logs; more where one takes long to write: a tenth of the time at most goes there."""
    probe_size: NonNegativeInt = 512
    """(s, a) pairs of the fixed set on which KL between teammates is traced (Fig. 2); 0 = no probe."""
    probe_every: PositiveInt = 500
    """Frames between such traces."""
    distributions_at: tuple[PositiveInt, ...] = (20_000, 21_000, 40_000, 41_000)
    """Frames at which whole value distributions are written (Fig. 5)."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When state is saved, and how much of it is kept."""

    every: PositiveInt = 10_000
    """Frames between checkpoints; one more is written at the end."""
    keep: PositiveInt = 2
    """Newest checkpoints that are kept."""


@dataclass(frozen=True)
class RuntimeConfig:
    """Where the work is done."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU of the rank's number on its node where there is one, the CPU otherwise."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of LTCR's networks; `bf16`: products of half the size, where the device has them (ref)."""
    threads: PositiveInt = 1
    """Torch threads of each rank."""
    patience_s: PositiveFloat = 600.0
    """Seconds that a rank waits for another one before it ends the job."""
