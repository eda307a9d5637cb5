"""Playing with an agent of a finished or running run, or with its whole team."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from mpi_ltcr import assembly_ca3c as ca3c
from mpi_ltcr import envs, options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.regroup import config_file
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.assembly_agents import build_agent
from mpi_ltcr.comm.runtime import BAD_CHECKPOINT, IO, JobError
from mpi_ltcr.config import CA3CConfig, Config, ConfigError, EnvConfig, require
from mpi_ltcr.envs.space_battle_common import METADATA, drawing
from mpi_ltcr.envs.space_battle_world import World
from mpi_ltcr.interaction import evaluate
from mpi_ltcr.interfaces import Episode, Policy
from mpi_ltcr.programs.film import Film
from mpi_ltcr.programs.team import load_team
from mpi_ltcr.rivals import without_policies
from mpi_ltcr.seeds import SeedTree


class Asked(NamedTuple):
    """What `mpi-ltcr eval` was asked for."""

    run: Path
    agent: int | None = None
    """cA3C: the task. None: 0, or the whole team where it shares a game."""
    episodes: int = 10
    seed: int = 0
    enemies: str | None = None
    """Space Battle: whom the team meets; None: those it was trained against."""
    video: Path | None = None


class Guest(NamedTuple):
    """A trained agent that plays again, and the environment in which it learned."""

    name: str
    env: gymnasium.Env
    player: Callable[[np.random.Generator], Policy]
    number: int
    asked_env: EnvConfig
    """How to make another such environment, one that can be filmed."""


def evaluate_run(asked: Asked) -> Iterator[str]:
    """Lines that tell the return of each episode, then their mean.

    Raises:
        ConfigError: not a run, no such agent, or nothing that can be filmed.
        JobError: no usable checkpoint, or the film cannot be written.
    """
    if not (asked.run / "config.yaml").is_file():
        raise ConfigError(f"{asked.run}: not a run directory (no config.yaml)")
    config = options.load_file(config_file(asked.run))
    shared = isinstance(config, Config) and config.env.shared
    require(shared or asked.enemies is None, f"--enemies: {asked.run} has none; only teams that share a game do")
    require(config.program in GUESTS, f"{asked.run}: a run of program: {config.program} has nobody who plays")
    try:
        yield from _team(config, asked) if shared else _single(config, asked)
    except checkpoint.CheckpointError as error:
        raise JobError(str(error), BAD_CHECKPOINT) from None


def _single(config: Any, asked: Asked) -> Iterator[str]:
    """The episodes of one agent in an environment of its own."""
    guest = GUESTS[config.program](config, RunDirectory(asked.run), asked.agent or 0)
    env, film = guest.env, None
    if asked.video:
        env, fps = _filmed_env(guest)
        film = Film(asked.video, fps)

    def look() -> None:
        if film:
            film.add(_picture(env, guest.asked_env.id))

    seeds, values = SeedTree(asked.seed), []
    with _closing(film):
        for k in range(asked.episodes):
            policy = guest.player(seeds.generator(guest.number, "eval_policy", k))
            episode = evaluate(env, policy, seeds.integer(guest.number, "eval_env", k), look)
            values.append(episode.value)
            yield f"episode {k}: return {episode.value:g}, {episode.length} frames"
    yield _summary(guest.name, values)
    yield from _named(film)


def _team(config: Config, asked: Asked) -> Iterator[str]:
    """The games of a whole team."""
    require(asked.agent is None, f"--agent: the team of {asked.run} shares its games and plays whole; leave it out")
    team = load_team(config, RunDirectory(asked.run), asked.enemies)
    seeds, values, results = SeedTree(asked.seed), [], []
    film = Film(asked.video, METADATA["render_fps"]) if asked.video else None
    draw = drawing("rgb_array" if film else None)

    def look(world: World) -> None:
        if film and draw:
            film.add(draw(world))

    with _closing(film):
        for k in range(asked.episodes):
            played = team.play(seeds, k, look)
            values.append(played[0].value)
            results.append(played)
            yield f"game {k}: return {played[0].value:g}, {played[0].length} frames, {_deeds(played)}"
    yield _summary(team.name, values)
    yield _record(results)
    yield from _named(film)


def _summary(name: str, values: list[float]) -> str:
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{name}: mean return {np.mean(values):.2f}, sd {spread:.2f}, {len(values)} episodes"


def _deeds(played: list[Episode]) -> str:
    """The result of a game, and how often each ship shot and hit."""
    battles = [e.battle for e in played if e.battle]
    word = {1: "won", 0: "drawn", -1: "lost"}[battles[0].result]
    shots, hits = (" + ".join(str(getattr(b, name)) for b in battles) for name in ("shots", "enemy_hits"))
    return f"{word}, shots {shots}, hits {hits}"


def _record(games: list[list[Episode]]) -> str:
    """All games together, in means over games and ships."""
    battles = [e.battle for played in games for e in played if e.battle]
    results = [played[0].battle.result for played in games if played[0].battle]
    won, drawn, lost = (results.count(result) for result in (1, 0, -1))
    shots, hits, fire = (np.mean([getattr(b, n) for b in battles]) for n in ("shots", "enemy_hits", "fire_fraction"))
    return f"won {won}, drawn {drawn}, lost {lost}; a ship's game: {shots:.1f} shots, {hits:.1f} hits, {fire:.0%} fire"


# Filming


@contextlib.contextmanager
def _closing(film: Film | None) -> Iterator[None]:
    """Close the film also where the last episode was cut short; raise JobError where the disk does not take it."""
    try:
        yield
    finally:
        try:
            if film:
                film.close()
        except OSError as error:
            raise JobError(f"--video: {error}", IO) from None


def _named(film: Film | None) -> Iterator[str]:
    if film:
        yield f"film: {film.path}, {film.frames} frames"


def _filmed_env(guest: Guest) -> tuple[gymnasium.Env, float]:
    """An environment like the guest's that can be drawn, and its steps in a second."""
    env, env_id = guest.env, guest.asked_env.id
    if env.render_mode != "rgb_array":
        try:
            env = envs.make(env_id, {**without_policies(guest.asked_env), "render_mode": "rgb_array"})
        except envs.EnvError as error:
            raise ConfigError(f"--video: {env_id} cannot be drawn: {error}") from None
    return env, env.metadata.get("render_fps", 30) / getattr(env.unwrapped, "frames_per_step", 1)


def _picture(env: gymnasium.Env, env_id: str) -> np.ndarray:
    try:
        return np.asarray(env.render())
    except gymnasium.error.DependencyNotInstalled as error:
        raise ConfigError(f"--video: {env_id} cannot be drawn: {' '.join(str(error).split())}") from None


# Who plays


def _ltcr_guest(config: Config, run: RunDirectory, index: int) -> Guest:
    folder, _ = checkpoint.newest_whole(run.checkpoints)
    size = checkpoint.read_manifest(folder)["world_size"]
    _require_index(index, size, "agents")
    env = envs.make(config.env.id, config.env.kwargs)
    spec = envs.spec_of(config.env.id, env)
    agent = build_agent(config, spec, index, torch.device("cpu"), eval_epsilon=config.eval.epsilon)
    agent.load_weights(checkpoint.load_file(folder / checkpoint.rank_file(index))["agent"])
    return Guest(f"agent {index} at {folder.name}", env, agent.player, index, config.env)


def _ca3c_guest(config: CA3CConfig, run: RunDirectory, index: int) -> Guest:
    _require_index(index, len(config.tasks), "tasks")
    task = config.tasks[index]
    folder, _ = checkpoint.newest_whole(run.task_checkpoints(task.name))
    store = checkpoint.load_file(folder / ca3c.SERVER_FILE)["store"]
    env = envs.make(task.env.id, task.env.kwargs)
    agent = ca3c.build_agent(config, task, envs.spec_of(task.env.id, env), lambda kind, gradient: None, [])
    agent.load_weights(store["values"][: store["network"]])
    return Guest(f"{task.name} at {folder.name}", env, agent.player, index, task.env)


def _require_index(index: int, count: int, what: str) -> None:
    if not 0 <= index < count:
        raise ConfigError(f"--agent: {index} is not among these {count} {what}; take 0 to {count - 1}")


GUESTS: dict[str, Callable[[Any, RunDirectory, int], Guest]] = {"ltcr": _ltcr_guest, "ca3c": _ca3c_guest}
