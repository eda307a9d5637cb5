"""What can be asked of a Categorical DQN agent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from mpi_ltcr.config.checks import check_layers, check_numbers, check_sight, require


@dataclass(frozen=True)
class C51Config:
    """Categorical DQN (LTCR section 2)."""

    backend: Literal["eager", "fused", "compiled"] = "eager"
    """`eager`: torch's autograd, any network and device; `fused`: by hand in numpy, an MLP on the CPU, faster;
    `compiled`: the same by numba, an extra to be installed, fastest."""
    returns: Literal["atoms", "quantiles"] = "atoms"
    """`atoms`: masses of the support, as the paper; `quantiles`: QR-DQN (Dabney et al. 2018), which teaches atoms."""
    quantiles: PositiveInt = 51
    """N, quantiles of each distribution where `returns` are such (ref)."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Of this agent alone; None: as `runtime.device` says for all."""
    torso: Literal["mlp", "linear", "nature"] = "mlp"
    """Layers between observation and atoms. `linear`: none, LTCR Eq. 5; `nature`: the CNN for pictures (ref)."""
    hidden: tuple[PositiveInt, ...] = (128, 128)
    """Widths of the MLP's layers (ref)."""
    atoms: PositiveInt = 51
    """K, atoms of the support (LTCR Fig. 5)."""
    vmin: float = -100.0
    """Lowest atom, in scaled reward (ref: r_max / (1 - discount))."""
    vmax: float = 100.0
    """Highest atom, in scaled reward (ref)."""
    double: bool = False
    """The online network chooses the action that the target network evaluates (van Hasselt et al. 2016)."""
    dueling: bool = False
    """Value and advantages in streams of their own, joined for each atom before the softmax (Wang et al. 2016)."""
    noisy: NonNegativeFloat = 0.0
    """sigma_0 of noisy layers that explore instead of random actions, 0 = none; Rainbow has 0.5 (Fortunato et al.)."""
    discount: ClosedUnitInterval = 0.99
    """gamma (LTCR 4.1)."""
    n_step: PositiveInt = 1
    """Steps of reward in a target before the target network takes over; Rainbow has 3."""
    lr: PositiveFloat = 1e-4
    """Adam's step size alpha (LTCR 4.1)."""
    adam_eps: PositiveFloat = 3.125e-4
    """Adam's epsilon: 0.01 / 32 (ref)."""
    grad_clip: NonNegativeFloat = 0.0
    """Largest global gradient norm, 0 = never clipped (ref)."""
    batch: PositiveInt = 32
    """Transitions in one Revisit update (ref)."""
    replay_capacity: PositiveInt = 50_000
    """Transitions in the private experience buffer (ref)."""
    warmup: NonNegativeInt = 500
    """Frames before the first Revisit update (ref)."""
    prioritised: bool = False
    """Transitions that can teach more are replayed more often (Schaul et al. 2016), by the KL of their last update."""
    priority_omega: ClosedUnitInterval = 0.5
    """omega, exponent of the priorities (Rainbow); 0 is uniform."""
    beta_start: ClosedUnitInterval = 0.4
    """beta, exponent of the importance weights, at the first transition (Rainbow)."""
    beta_frames: PositiveInt = 100_000
    """Transitions of beta's linear way to 1 (ref: CartPole's whole run, as in Rainbow)."""
    update_period: PositiveInt = 1
    """Frames for each gradient slot (ref)."""
    target_period: PositiveInt = 100
    """Frames between hard copies into the target network (ref: the value that gives Fig. 5)."""
    epsilon_start: ClosedUnitInterval = 1.0
    """Share of random actions at frame 0 (LTCR 4.1)."""
    epsilon_end: ClosedUnitInterval = 0.01
    """Share of random actions after `epsilon_frames` (LTCR 4.1)."""
    epsilon_frames: PositiveInt = 10_000
    """Frames of the linear way from start to end (ref: a tenth of the run)."""
    reward_scale: PositiveFloat = 1.0
    """The learner sees reward * reward_scale; logs hold the environment's own (ref)."""
    reward_clip: NonNegativeFloat = 0.0
    """Scaled rewards are cut to +- this for the learner, 0 = never (ref: 1 for Atari)."""

    def __post_init__(self) -> None:
        check_numbers(self, "agent.")
        require(self.atoms >= 2, f"agent.atoms: {self.atoms} cannot span a support; take at least 2, the paper has 51")
        require(self.vmin < self.vmax, f"agent.vmin: {self.vmin} must lie below agent.vmax: {self.vmax}")
        require(
            self.batch <= self.replay_capacity,
            f"agent.batch: {self.batch} is more than agent.replay_capacity holds: {self.replay_capacity}",
        )
        require(
            self.warmup <= self.replay_capacity,
            f"agent.warmup: {self.warmup} is more than agent.replay_capacity holds: {self.replay_capacity}",
        )
        check_layers(self.torso, self.hidden)
        require(
            self.backend == "eager" or self.torso != "nature",
            f"agent.backend: {self.backend} has no convolutions; for agent.torso: nature set agent.backend: eager",
        )
        require(
            self.backend == "eager" or self.returns == "atoms",
            f"agent.returns: the {self.backend} backend computes atoms only; set agent.backend: eager",
        )
        for name in ("dueling", "noisy"):
            require(
                self.backend == "eager" or not getattr(self, name),
                f"agent.{name}: the {self.backend} backend computes plain layers only; set agent.backend: eager",
            )

    def check_sight(self, obs_shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless the network can see observations of this shape."""
        check_sight(self.torso, obs_shape)
