"""Environments as the agents meet them, beside the environment alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from mpi_ltcr import envs
from mpi_ltcr.bench.measuring import Asked, Bench, Piece, measure, table
from mpi_ltcr.envs.lockstep import TeamGames, TeamLoop
from mpi_ltcr.envs.opponents import make_opponent
from mpi_ltcr.envs.space_battle_rules import Rules
from mpi_ltcr.envs.space_battle_world import World
from mpi_ltcr.interaction import EnvLoop
from mpi_ltcr.interfaces import Loop, Transition

GAMES = 8
"""Games of Space Battle side by side."""
GAME, FRAME_SKIP = "pong", 4
"""The Atari game, and emulator frames of one agent step."""


class Wanderer:
    """Acts at random and remembers nothing: costs nothing beside any environment."""

    def __init__(self, actions: int) -> None:
        self.drawn = cycle(np.random.default_rng(1).integers(actions, size=1 << 16).tolist())

    def act(self, obs: np.ndarray) -> int:
        """A drawn action."""
        return next(self.drawn)

    def observe(self, transition: Transition) -> None:
        """Forget it."""


def walk(loop: Loop, actions: int) -> Callable[[int], None]:
    """n agent steps through the program's own loop."""
    wanderer = Wanderer(actions)

    def work(n: int) -> None:
        for _ in islice(loop.steps(wanderer), n):
            pass

    return work


def bare(env: gymnasium.Env) -> Callable[[int], None]:
    """n steps of an environment, with resets and nothing else."""
    actions = cycle(np.random.default_rng(1).integers(env.action_space.n, size=1 << 16).tolist())  # type: ignore[attr-defined]
    env.reset(seed=1)

    def work(n: int) -> None:
        for action in islice(actions, n):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return work


def own_loop(env_id: str, **kwargs: Any) -> Callable[[int], None]:
    """n steps of one of our environments as an agent meets it."""
    env = envs.make(env_id, kwargs)
    loop = EnvLoop(env=env, seed_of=lambda episode: episode, discount=0.99)
    return walk(loop, int(env.action_space.n))  # type: ignore[attr-defined]


def measured(comm: Any, asked: Asked, signals: Any) -> list[Bench]:
    """CartPole, Space Battle and Atari."""
    floor = "CartPole: environment alone"
    pieces = [
        Piece(floor, "steps", bare(envs.make("mpi_ltcr/CartPole15-v0", {}).unwrapped)),
        Piece("CartPole: the agents' loop", "steps", own_loop("mpi_ltcr/CartPole15-v0"), floor),
        *_space_battle(),
        *_atari(),
    ]
    return [table("env: random play", pieces, measure(pieces, asked))]


def _space_battle() -> list[Piece]:
    floor = "Space Battle 2v2: world alone"
    return [
        Piece(floor, "game steps", _bare_world(Rules())),
        Piece("Space Battle 2v2: a single game", "game steps", own_loop("mpi_ltcr/SpaceBattle-v0"), floor),
        Piece(f"Space Battle 2v2: {GAMES} side by side", "game steps", _side_by_side(Rules()), floor),
    ]


def _bare_world(rules: Rules) -> Callable[[int], None]:
    rng = np.random.default_rng(1)
    world = World(rules=rules, rngs=[rng])
    world.reset(rngs=[rng])
    acts = cycle(rng.integers(4, size=(1 << 14, 1, rules.ships)))

    def work(n: int) -> None:
        for actions in islice(acts, n):
            if world.step(actions).over[0]:
                world.reset(rngs=[rng])

    return work


def _side_by_side(rules: Rules) -> Callable[[int], None]:
    """The loop of shared games, its teammate's actions being one's own."""
    games = TeamGames(
        rules=rules,
        ship=0,
        opponents=[make_opponent("random", rules=rules) for _ in range(GAMES)],
        rng_of=lambda game, episode: np.random.default_rng([game, episode]),
        exchange=lambda mine: np.stack([mine] * rules.team_size),
    )
    loop = walk(TeamLoop(games=games, discount=0.99, reward_scale=1.0), 4)
    return lambda n: loop(max(1, round(n / GAMES)) * GAMES)


def _atari() -> list[Piece]:
    """Both preprocessings, the emulator alone, and what ale-py and Gymnasium offer for the same frames."""
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.loadROM(Path(str(roms.get_rom_path(GAME))))
    legal = ale.getLegalActionSet()
    drawn = cycle([legal[i] for i in np.random.default_rng(1).integers(len(legal), size=1 << 14)])

    def emulate(n: int) -> None:
        for action in islice(drawn, n):
            for _ in range(FRAME_SKIP):
                ale.act(action)
            if ale.game_over():
                ale.reset_game()

    floor = "Pong: emulator alone"
    stacked = {"game": GAME, "preprocessing": "dqn"}
    rivals = [
        Piece(f"Pong 84x84x4: {name}", "steps", work, floor)
        for name, make in {"ale-py's vector environment": _vectorised, "Gymnasium's wrappers": _wrapped}.items()
        if (work := make()) is not None
    ]
    return [
        Piece(floor, "steps", emulate),
        Piece("Pong 84x84x4: the agents' loop", "steps", own_loop("mpi_ltcr/Atari-v0", **stacked), floor),
        *rivals,
        Piece("Pong 42x42: the agents' loop", "steps", own_loop("mpi_ltcr/Atari-v0", game=GAME), floor),
    ]


def _vectorised() -> Callable[[int], None] | None:
    """Preprocessing and stacking in C++; None where this ale-py has none."""
    try:
        from ale_py.vector_env import AtariVectorEnv
    except ImportError:
        return None
    env = AtariVectorEnv(GAME, num_envs=1, num_threads=1, full_action_space=True)
    env.reset(seed=1)
    actions = cycle(np.random.default_rng(1).integers(18, size=(1 << 14, 1)))

    def work(n: int) -> None:
        for action in islice(actions, n):
            env.step(action)

    return work


def _wrapped() -> Callable[[int], None] | None:
    """AtariPreprocessing and FrameStackObservation; None without the image library that they need."""
    import ale_py
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    gymnasium.register_envs(ale_py)
    settings: dict[str, Any] = {"frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": True}
    try:
        env = AtariPreprocessing(gymnasium.make("ALE/Pong-v5", **settings), noop_max=30, frame_skip=FRAME_SKIP)
    except gymnasium.error.DependencyNotInstalled:
        return None
    return bare(FrameStackObservation(env, 4))
