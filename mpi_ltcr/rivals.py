"""Teams that play the enemies of a shared game: what `env.kwargs.enemies` asks for, checked before anything is made.

`frozen:RUN` and `selfplay` need policies, which the environment cannot make: it knows neither runs nor agents. They
play where all ranks share a game; each rank then steers the enemy of its own number (see `envs/lockstep.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mpi_ltcr import options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.config import Config, ConfigError, EnvConfig, require
from mpi_ltcr.envs.opponents import parse_opponent
from mpi_ltcr.envs.space_battle_rules import Rules, rules_from
from mpi_ltcr.envs.space_battle_solo import ENV_ID
from mpi_ltcr.interfaces import State

FIELD = "env.kwargs.enemies"
MAX_SNAPSHOTS = 200
"""Past selves that one run may keep; each is the size of the network, in memory and in every checkpoint."""


class Rivals(NamedTuple):
    """Who plays the enemies, where those need policies."""

    every: int
    """Frames between two snapshots of the own team; 0 for a frozen team."""
    config: Config
    """Of the run whose agents play."""
    folder: Path | None = None
    """The checkpoint of a frozen team."""
    size: int = 0
    """Agents in it."""
    refused: tuple[str, ...] = ()
    """Why newer checkpoints are not taken."""

    def state_of(self, ship: int) -> State:
        """The saved agent that plays this ship of a frozen team: that of its number, or the only one.

        Raises:
            CheckpointError: the file is damaged.
        """
        assert self.folder is not None
        index = ship if self.size > 1 else 0
        agent: State = checkpoint.load_file(self.folder / checkpoint.rank_file(index))["agent"]
        return agent


def without_policies(env: EnvConfig) -> dict[str, Any]:
    """The arguments of an environment that looks and is played alike, but in which nobody needs a policy."""
    if env.id == ENV_ID and _names(env.kwargs.get("enemies"))[0] in ("frozen", "selfplay"):
        return {**env.kwargs, "enemies": "random"}
    return env.kwargs


def find(config: Config) -> Rivals | None:
    """Who plays the enemies of this run; None where they need no policies, or play elsewhere than in Space Battle.

    Raises:
        ConfigError: in one line, whatever keeps them from playing: no shared game, no run, a run of other observations
            or another team size, no whole checkpoint.
    """
    if config.env.id != ENV_ID:
        return None
    name, argument = _names(config.env.kwargs.get("enemies"))
    if name not in ("frozen", "selfplay"):
        return None
    require(config.env.shared, f"{FIELD}: {name} plays where all ranks share a game; set env.shared: true")
    return _selfplay(config, int(argument)) if name == "selfplay" else _frozen(config, Path(argument))


def _names(asked: Any) -> tuple[str, str]:
    """Name and argument; two empty ones for what is no name."""
    if not isinstance(asked, str):
        return "", ""
    try:
        return parse_opponent(asked)
    except ValueError as error:
        raise ConfigError(f"{FIELD}: {error}") from None


def _selfplay(config: Config, every: int) -> Rivals:
    frames = config.round_frames
    near = max(frames, round(every / frames) * frames)
    require(
        every % frames == 0,
        f"{FIELD}: selfplay:{every} is not a whole number of rounds of {frames} frames; the nearest is {near}",
    )
    count = config.frames // every + 1
    require(
        count <= MAX_SNAPSHOTS,
        f"{FIELD}: selfplay:{every} would keep {count} snapshots, at most {MAX_SNAPSHOTS} are kept; take them rarer",
    )
    return Rivals(every=every, config=config)


def _frozen(config: Config, run: Path) -> Rivals:
    require((run / "config.yaml").is_file(), f"{FIELD}: {run} is not a run directory (no config.yaml)")
    theirs = options.load_file(run / "config.yaml")
    where = f"{FIELD}: {run}"
    require(isinstance(theirs, Config), f"{where} is a run of {theirs.program}; only teams of ltcr can play")
    require(theirs.env.id == ENV_ID, f"{where} was trained in {theirs.env.id}, not in {ENV_ID}")
    mine, other = (_rules_of(c.env, w) for c, w in ((config, "env.kwargs.rules"), (theirs, where)))
    for rule in ("team_size", "relative_theta"):  # what an observation is; all the rest are fractions of full values
        here, there = getattr(mine, rule), getattr(other, rule)
        require(here == there, f"{where} plays with rules.{rule} {there}, this game has {here}")
    try:
        folder, refused = checkpoint.newest_whole(RunDirectory(run).checkpoints)
        size = checkpoint.read_manifest(folder)["world_size"]
    except checkpoint.CheckpointError as error:
        raise ConfigError(f"{FIELD}: {error}") from None
    require(size in (1, mine.team_size), f"{where} has {size} agents, a team of {mine.team_size} needs as many, or one")
    return Rivals(every=0, config=theirs, folder=folder, size=size, refused=tuple(refused))


def _rules_of(env: EnvConfig, where: str) -> Rules:
    try:
        return rules_from(env.kwargs.get("rules"))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None
