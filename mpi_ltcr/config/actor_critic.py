"""What can be asked of an actor-critic agent among LTCR's teammates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt

from mpi_ltcr.config.checks import check_layers, check_numbers, check_sight


@dataclass(frozen=True)
class ActorCriticConfig:
    """Advantage actor-critic without memory (A2C): it teaches and learns policies, `transfer.lesson: policy`.

    Its rollout is what it has explored in the round; the round's first Revisit slot learns from it, the others are left
    empty, since experience of another policy than its own is of no use to it.
    """

    device: Literal["auto", "cpu", "cuda"] | None = None
    """Of this agent alone; None: as `runtime.device` says for all."""
    torso: Literal["mlp", "linear", "nature"] = "mlp"
    """Layers between observation and heads, which policy and value share."""
    hidden: tuple[PositiveInt, ...] = (128, 128)
    """Widths of the MLP's layers (as C51's)."""
    discount: ClosedUnitInterval = 0.99
    """gamma (LTCR 4.1)."""
    gae_lambda: ClosedUnitInterval = 0.95
    """lambda of GAE."""
    lr: PositiveFloat = 1e-3
    """Adam's step size."""
    adam_eps: PositiveFloat = 1e-5
    """Adam's epsilon."""
    grad_clip: NonNegativeFloat = 0.5
    """Largest global gradient norm, 0 = never clipped."""
    value_coef: NonNegativeFloat = 0.5
    """Weight of the squared value error."""
    entropy_coef: NonNegativeFloat = 0.01
    """Weight of the entropy bonus (CDRL 3.2, code)."""
    reward_scale: PositiveFloat = 1.0
    """The learner sees reward * reward_scale; logs hold the environment's own (ref)."""
    reward_clip: NonNegativeFloat = 0.0
    """Scaled rewards are cut to +- this for the learner, 0 = never (ref: 1 for Atari)."""

    def __post_init__(self) -> None:
        check_numbers(self, "agent.")
        check_layers(self.torso, self.hidden)

    def check_sight(self, obs_shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless the network can see observations of this shape."""
        check_sight(self.torso, obs_shape)
