"""Everything that can be asked for, as frozen dataclasses that check themselves (`options.py` reads them).

No torch and no MPI in here: a bad command line is refused in under a second, before anything is touched. Durations
are in `frames` (agent steps) unless named otherwise. Each field says its unit and where its default comes from
("LTCR 4.1" is a paper's section, "ref" means: the papers are silent, the value is ours).
"""

from __future__ import annotations

import dataclasses
import math
import os.path
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)


class ConfigError(ValueError):
    """Something that was asked for cannot be run. The text is one line that names the field and the right choices."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def check_numbers(section: Any, prefix: str = "") -> None:
    """Raise ConfigError for a number below `section` that is not finite, or that 64 bits do not hold."""
    for f in dataclasses.fields(section):
        value = getattr(section, f.name)
        if dataclasses.is_dataclass(value):
            check_numbers(value, f"{prefix}{f.name}.")
        for number in value if isinstance(value, (list, tuple)) else [value]:
            wide = isinstance(number, (int, float)) and not abs(number) < 2**63
            require(not wide, f"{prefix}{f.name}: {number} is out of range; take a finite number below 2^63")


def check_names(name: str, out: str | None) -> None:
    """Raise ConfigError unless both can name a run directory."""
    for field_, text in (("name", name), ("out", None if out is None else os.path.basename(os.path.normpath(out)))):
        sound = text is None or (re.fullmatch(r"[A-Za-z0-9._-]{1,90}", text) and text not in (".", ".."))
        require(bool(sound), f"{field_}: {text!r} is no name for a run; use up to 90 letters, digits, '.', '_', '-'")


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
    """Shared games side by side, so that one exchange of actions serves several."""


@dataclass(frozen=True)
class C51Config:
    """Categorical DQN (LTCR section 2)."""

    backend: Literal["eager", "fused"] = "eager"
    """`eager`: torch's autograd, any network and device; `fused`: by hand in numpy, an MLP on the CPU, faster."""
    torso: Literal["mlp", "linear"] = "mlp"
    """Layers between observation and atoms. `linear`: none, LTCR Eq. 5."""
    hidden: tuple[PositiveInt, ...] = (128, 128)
    """Widths of the MLP's layers (ref)."""
    atoms: PositiveInt = 51
    """K, atoms of the support (LTCR Fig. 5)."""
    vmin: float = -100.0
    """Lowest atom, in scaled reward (ref: r_max / (1 - discount))."""
    vmax: float = 100.0
    """Highest atom, in scaled reward (ref)."""
    discount: ClosedUnitInterval = 0.99
    """gamma (LTCR 4.1)."""
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
        require(
            self.torso == "linear" or len(self.hidden) > 0,
            "agent.hidden: an mlp has at least one layer; for none set agent.torso: linear",
        )


@dataclass(frozen=True)
class TransferConfig:
    """How teammates teach each other (LTCR section 3)."""

    method: Literal["public_memory", "none"] = "public_memory"
    """`public_memory` is LTCR through M0, `none` is learning independently."""
    revisit: NonNegativeInt = 9
    """First number of the ratio Revisit : Digest, 9 in 9-1-LTCR (LTCR 4.2)."""
    digest: NonNegativeInt = 1
    """Second number of the ratio, 1 in 9-1-LTCR (LTCR 4.2)."""
    cycle: PositiveInt = 10
    """Gradient slots, and so updates, in one round of the four phases (ref)."""
    demonstrations: PositiveInt = 32
    """N, vectors in the sample Phi_0 of a round (ref)."""
    upload_probability: ClosedUnitInterval = 1.0
    """Share of explored (s, a) that go to M0 (ref)."""
    memory_size: PositiveInt = 50_000
    """Feature vectors that M0 holds, the oldest leave (ref)."""
    subset: Literal["common", "per_teacher"] = "common"
    """`common`: one Phi_0 for all; `per_teacher`: each teacher draws its own (LTCR 3.1, literally)."""
    target: Literal["peer", "mean"] = "peer"
    """`peer`: Eq. 6 with every other agent; `mean`: the average of all agents' distributions (LTCR 3.2)."""
    speak_net: Literal["online", "target"] = "online"
    """The network that answers as a teacher (ref)."""
    start: NonNegativeInt = 500
    """Frames before the first exchange: explore first (ref: the agents' warm-up)."""

    def __post_init__(self) -> None:
        parts = self.revisit + self.digest
        require(parts > 0, "transfer.revisit: 0:0 leaves nothing to do; the paper's ratios are 9:1, 7:3 and 5:5")
        require(
            self.cycle * self.digest % parts == 0,
            f"transfer.cycle: {self.cycle} slots cannot be divided {self.revisit}:{self.digest}; "
            f"take a multiple of {parts // math.gcd(parts, self.digest)}",
        )
        require(
            not (self.subset == "per_teacher" and self.target == "mean"),
            "transfer.target: mean needs every teacher's answer on the same vectors: set transfer.subset: common",
        )
        require(
            self.method == "none" or self.digest > 0,
            "transfer.digest: 0 makes the exchange useless; to learn alone set transfer.method: none",
        )
        require(
            self.method == "public_memory" or self.digest == 0,
            f"transfer.digest: {self.digest} has no lessons with transfer.method: none; set transfer.digest: 0",
        )
        require(
            self.method == "none" or self.upload_probability > 0,
            "transfer.upload_probability: 0 leaves M0 empty; take a value in (0, 1]",
        )
        require(
            self.demonstrations <= self.memory_size,
            f"transfer.demonstrations: {self.demonstrations} is more than transfer.memory_size holds: "
            f"{self.memory_size}",
        )

    @property
    def digest_slots(self) -> int:
        """Digest updates in one round."""
        return self.cycle * self.digest // (self.revisit + self.digest)

    @property
    def revisit_slots(self) -> int:
        """Revisit updates in one round."""
        return self.cycle - self.digest_slots


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
    """Seconds between republished logs."""
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
    threads: PositiveInt = 1
    """Torch threads of each rank."""
    patience_s: PositiveFloat = 600.0
    """Seconds that a rank waits for another one before it ends the job."""


@dataclass(frozen=True)
class Config:
    """One LTCR run, whole."""

    program: Literal["ltcr"] = "ltcr"
    """Which of the two papers."""
    name: str = "ltcr"
    """The start of the run directory's name, and the method's name in figures."""
    frames: PositiveInt = 100_000
    """Agent steps of each agent (LTCR 4.2: 100 000 for CartPole)."""
    seed: NonNegativeInt = 1
    """The seed from which every generator of the run is grown."""
    out: str | None = None
    """The run directory; a new name under runs/ where none is given."""
    env: EnvConfig = EnvConfig()
    agent: C51Config = C51Config()
    agents: list[dict[str, Any]] = field(default_factory=list)
    """For unlike agents: one mapping per rank of what differs from `agent`, e.g. `[{}, {hidden: [64]}]`."""
    transfer: TransferConfig = TransferConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def __post_init__(self) -> None:
        check_numbers(self)
        check_names(self.name, self.out)
        everyone = range(max(1, len(self.agents)))
        for index in everyone:
            self.agent_of(index)
        shared = ["update_period", "reward_scale", "discount"]
        if self.transfer.method != "none":
            shared += ["atoms", "vmin", "vmax"]
        for name in shared:
            values = [getattr(self.agent_of(index), name) for index in everyone]
            require(
                len(set(values)) == 1,
                f"agents: agent.{name} must be the same for all who teach each other, got {values}; "
                "set it once, under agent",
            )
        frames = self.round_frames
        require(self.env.shared or self.env.copies == 1, "env.copies: several games need env.shared: true")
        require(
            frames % self.env.copies == 0,
            f"env.copies: {self.env.copies} does not divide a round of {frames} frames (transfer.cycle x "
            "agent.update_period)",
        )
        for name, value in (
            ("frames", self.frames),
            ("eval.every", self.eval.every),
            ("log.probe_every", self.log.probe_every),
            ("checkpoint.every", self.checkpoint.every),
            *(("log.distributions_at", at) for at in self.log.distributions_at),
        ):
            near = max(frames, round(value / frames) * frames)
            require(
                value % frames == 0,
                f"{name}: {value} is not a whole number of rounds of {frames} frames "
                f"(transfer.cycle x agent.update_period); the nearest is {near}",
            )

    @property
    def round_frames(self) -> int:
        """Frames that each agent explores in one round of the four phases."""
        return self.transfer.cycle * self.agent.update_period

    def agent_of(self, index: int) -> C51Config:
        """The settings of one agent: `agent` with that rank's entry of `agents` over it."""
        if not self.agents:
            return self.agent
        try:
            return dataclasses.replace(self.agent, **self.agents[index])
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"agents[{index}]: {error}") from None

    def environments(self) -> list[EnvConfig]:
        """Every environment that the run will make."""
        return [self.env]

    def check_team(self, size: int) -> None:
        """Raise ConfigError unless this many ranks can run it."""
        if self.agents and len(self.agents) != size:
            raise ConfigError(f"agents: lists {len(self.agents)}, {size} started; use mpirun -n {len(self.agents)}")
        if self.env.shared:
            team = int(self.env.kwargs.get("rules", {}).get("team_size", 2))
            require(
                size == team,
                f"env.kwargs.rules.team_size: a team of {team} shares the game, {size} started; use mpirun -n {team}",
            )
        if self.transfer.method != "none" and size < 2:
            raise ConfigError(
                f"transfer.method: {self.transfer.method} needs teammates, 1 rank started; "
                f"use mpirun -n 2 mpi-ltcr ..., or learn alone: ltcr-cartpole-alone"
            )
