"""What can be asked of LTCR."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from mpi_ltcr.config.c51 import C51Config
from mpi_ltcr.config.checks import ConfigError, check_names, check_numbers, require
from mpi_ltcr.config.common import CheckpointConfig, EnvConfig, EvalConfig, LogConfig, RuntimeConfig
from mpi_ltcr.config.transfer import TransferConfig


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
    """For unlike agents: one mapping per rank of what differs from `agent`, e.g. `[{}, {n_step: 3, device: cpu}]`."""
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
        require(
            self.runtime.precision == "fp32" or all(settings.backend == "eager" for settings in team),
            f"runtime.precision: {self.runtime.precision} needs agent.backend: eager; fused computes in fp32",
        )
        teach = self.transfer.method != "none"
        common = {"update_period": "rounds go in step for all"}
        if teach or self.log.probe_size:
            because = "lessons are masses of the same atoms" if teach else "log.probe_size compares them, 0 does not"
            common |= dict.fromkeys(("atoms", "vmin", "vmax"), because)
        if teach:  # a lesson is the distribution of the student's own return, too
            common |= dict.fromkeys(("discount", "reward_scale", "reward_clip"), "lessons are of the same returns")
        for name, because in common.items():
            values = [getattr(settings, name) for settings in team]
            require(
                len(set(values)) == 1,
                f"agents: agent.{name} must be the same for all, got {values}: {because}; set it once, under agent",
            )

    def device_of(self, index: int) -> str:
        """Where one agent computes: auto, cpu or cuda."""
        return self.agent_of(index).device or self.runtime.device

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
