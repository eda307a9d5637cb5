"""What can be asked of LTCR."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from mpi_ltcr.config.actor_critic import ActorCriticConfig
from mpi_ltcr.config.c51 import C51Config
from mpi_ltcr.config.checks import ConfigError, check_names, check_numbers, require
from mpi_ltcr.config.common import CheckpointConfig, EnvConfig, EvalConfig, LogConfig, RuntimeConfig
from mpi_ltcr.config.transfer import TransferConfig

AgentConfig = C51Config | ActorCriticConfig

KINDS: dict[str, type[AgentConfig]] = {"c51": C51Config, "actor_critic": ActorCriticConfig}
"""`kind` of an entry in `agents` -> its settings."""


def kind_of(entry: dict[str, Any]) -> type[AgentConfig]:
    """Of an entry in `agents`; raises ConfigError for an unknown kind."""
    kind = entry.get("kind", "c51")
    require(kind in KINDS, f"kind: {kind!r} is none of {', '.join(KINDS)}")
    return KINDS[kind]


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
    """For unlike agents: one mapping per rank of what differs from `agent`, e.g. `[{}, {n_step: 3, device: cpu}]`;
    `{kind: actor_critic, lr: 0.001}` is an actor-critic instead, with settings of its own (`ActorCriticConfig`)."""
    transfer: TransferConfig = TransferConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    def __post_init__(self) -> None:
        check_numbers(self)
        check_names(self.name, self.out)
        self._check_agents()
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

    def _check_agents(self) -> None:
        """What unlike agents must have in common. All else is free: networks, extensions, steps, devices, ..."""
        team = [self.agent_of(index) for index in range(max(1, len(self.agents)))]
        valued = [settings for settings in team if isinstance(settings, C51Config)]
        for index, settings in enumerate(team):
            if not isinstance(settings, C51Config):
                self._check_actor_critic(f"agents[{index}].kind: an actor-critic")
        require(
            self.runtime.precision == "fp32" or all(settings.backend == "eager" for settings in valued),
            f"runtime.precision: {self.runtime.precision} needs agent.backend: eager; the others compute in fp32",
        )
        for name, because in self._common().items():
            values = [getattr(settings, name) for settings in valued]
            require(
                len(set(values)) <= 1,
                f"agents: agent.{name} must be the same for all, got {values}: {because}; set it once, under agent",
            )

    def _common(self) -> dict[str, str]:
        """Settings of Categorical DQN agents that must agree -> why."""
        teach = self.transfer.method != "none"
        common = {"update_period": "rounds go in step for all"}
        if self.transfer.lesson == "policy":
            return common  # actions are the same for all, whatever returns and atoms are
        if teach or self.log.probe_size:
            because = "lessons are masses of the same atoms" if teach else "log.probe_size compares them, 0 does not"
            common |= dict.fromkeys(("atoms", "vmin", "vmax"), because)
        if teach:  # a lesson is the distribution of the student's own return, too
            common |= dict.fromkeys(("discount", "reward_scale", "reward_clip"), "lessons are of the same returns")
        return common

    def _check_actor_critic(self, who: str) -> None:
        """Raise ConfigError, its text beginning with `who`, unless a team can have an actor-critic."""
        t = self.transfer
        require(
            t.lesson == "policy" or (t.method == "none" and not self.log.probe_size),
            f"{who} has no value distribution to tell or to compare; set transfer.lesson: policy",
        )
        require(t.speak_net == "online", f"{who} has no target network; set transfer.speak_net: online")
        require(self.runtime.precision == "fp32", f"{who} computes in fp32; set runtime.precision: fp32")

    def device_of(self, index: int) -> str:
        """Where one agent computes: auto, cpu or cuda."""
        return self.agent_of(index).device or self.runtime.device

    @property
    def round_frames(self) -> int:
        """Frames that each agent explores in one round of the four phases."""
        return self.transfer.cycle * self.agent.update_period

    def agent_of(self, index: int) -> AgentConfig:
        """The settings of one agent: `agent`, or its kind's defaults, with that rank's entry of `agents` over it."""
        if not self.agents:
            return self.agent
        entry = self.agents[index]
        changes = {name: value for name, value in entry.items() if name != "kind"}
        try:
            kind = kind_of(entry)
            return dataclasses.replace(self.agent if kind is C51Config else kind(), **changes)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"agents[{index}]: {error}") from None

    def check_sight(self, obs_shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless every agent can see the environment's observations."""
        for index in range(max(1, len(self.agents))):
            self.agent_of(index).check_sight(obs_shape)

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
        t = self.transfer
        if t.method != "none" and t.topology in ("random-k", "best-k") and t.k >= size:
            raise ConfigError(
                f"transfer.k: {t.k} teachers of each, but {size} agents have {size - 1} teammates each; "
                f"take at most {size - 1}, or transfer.topology: all"
            )
