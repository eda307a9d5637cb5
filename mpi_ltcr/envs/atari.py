"""Any Atari 2600 game, with the preprocessing of either paper.

`universe` (CDRL, by the OpenAI universe starter agent): RGB, cropped to rows 34:194, resized bilinearly to 80x80 and
from there to 42x42, averaged over the colours: (1, 42, 42) float32 in [0, 1]. No maximum over frames.
`dqn` (LTCR 4.1, by Mnih et al. 2015): maximum of the last two grey screens, averaged over areas to 84x84, the newest
four stacked: (4, 84, 84) uint8, oldest first. 1 to 30 no-ops after a reset.

Rewards are the game's own score, summed over the skipped frames. A lost life never ends an episode: it is told in
``info["life_lost"]``, and whoever trains makes a discount of 0 out of it.

One emulator in the calling thread, its screen read directly. Whole `dqn` steps of Zaxxon in a CPU-second, the bare
emulator being 1 (about 2000): this file 0.75, ale-py's AtariVectorEnv with one environment 0.65, Gymnasium's
AtariPreprocessing and FrameStackObservation 0.58.

Seeding. ``reset(seed=s)`` makes the episode a function of s and the actions, no-ops, random skips and sticky actions
included; a later ``reset()`` continues the same generator, so a whole sequence of episodes is one too. The emulator
itself draws nothing: its state right after loading is put back before each episode, in 0.2 ms, because a plain
``reset_game`` remembers the past in 19 of the 104 games, and loading the ROM again (what ale-py does for a seed) takes
0.13 s. Without sticky actions an episode is the one that ale-py's own environment plays with that seed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium.utils import seeding

from mpi_ltcr.envs.frames import UNIVERSE_SIZE, area_resizer, universe_resizer

Preprocessing = Literal["universe", "dqn"]

NOOP = 0
"""ALE's code for doing nothing, in every game."""
FULL_ACTION_SET = 18
"""Directions (9) x fire (2). Skiing and Lost Luggage have only half of them."""
TWO_PLAYER_GAMES = frozenset({"combat", "joust", "maze_craze", "warlords"})
"""ale-py ships them, but has no single-player mode for them and would end the process."""


class Settings(NamedTuple):
    """How a game is played."""

    frame_skip: int | Sequence[int]
    """Emulator frames in one step, or the numbers that are drawn from at each step, equally likely."""
    sticky: float
    """Probability that a frame repeats the previous frame's action instead of taking the new one."""
    max_steps: int
    """Agent steps after which an episode is truncated."""
    full_action_space: bool
    """All 18 actions, or only those that do something in the game."""
    frame_stack: int
    """Frames in one observation."""
    noop_max: int
    """A reset is followed by 1 to this many frames without action; 0: none."""


PONG_DETERMINISTIC = Settings(4, 0.0, 100_000, False, 1, 0)
"""Gym's `PongDeterministic-v3` of 2017, the first game of CDRL's code."""
BOWLING_V0 = Settings((2, 3, 4), 0.25, 10_000, False, 1, 0)
"""Gym's `Bowling-v0` of 2017, the second."""
DQN = Settings(4, 0.0, 27_000, True, 4, 30)
"""LTCR 4.1 names only 84x84 and 18 actions; the rest is what is usual: half an hour of play at 60 frames a second."""


def paper_settings(game: str, preprocessing: Preprocessing) -> Settings:
    """What the paper that belongs to `preprocessing` plays `game` with; other games of CDRL are played like Pong."""
    if preprocessing == "dqn":
        return DQN
    return BOWLING_V0 if rom_id(game) == "bowling" else PONG_DETERMINISTIC


def make_atari(
    *,
    game: str,
    preprocessing: Preprocessing = "universe",
    frame_skip: int | Sequence[int] | None = None,
    sticky: float | None = None,
    max_steps: int | None = None,
    full_action_space: bool | None = None,
    frame_stack: int | None = None,
    noop_max: int | None = None,
    episodic_life: bool = False,
) -> AtariEnv:
    """An environment of `game`, as in the paper wherever an argument is None (`paper_settings`).

    Args:
        game: any spelling of a game of ale-py: "MsPacman", "ms_pacman", "Ms. Pacman".
        preprocessing: "universe" (CDRL) or "dqn" (LTCR).
        episodic_life: report lost lives in ``info["life_lost"]``. The emulator goes on in either case.
    Others: see `Settings`.

    Raises:
        ValueError: no such game (the nearest names are in the text), a game without 18 actions where all are asked
            for, or a setting out of its range. One line that names the field.
    """
    if preprocessing not in ("universe", "dqn"):
        raise ValueError(f"preprocessing: {preprocessing!r} is not one of universe, dqn")
    asked = {
        "frame_skip": frame_skip,
        "sticky": sticky,
        "max_steps": max_steps,
        "full_action_space": full_action_space,
        "frame_stack": frame_stack,
        "noop_max": noop_max,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    settings = paper_settings(game, preprocessing)._replace(**given)
    return AtariEnv(game=game, preprocessing=preprocessing, settings=settings, episodic_life=episodic_life)


def rom_id(game: str) -> str:
    """The name of `game` in ale-py, e.g. "ms_pacman" for "MsPacman"; raises ValueError with the nearest ones."""
    from ale_py import roms

    known = {rom.replace("_", ""): rom for rom in roms.get_all_rom_ids() if rom not in TWO_PLAYER_GAMES}
    plain = re.sub("[^a-z0-9]", "", game.lower())
    if plain in known:
        return known[plain]
    if plain in {rom.replace("_", "") for rom in TWO_PLAYER_GAMES}:
        raise ValueError(f"game: {game!r} cannot be played alone; ale-py has only a mode for two players")
    near = [known[name] for name in difflib.get_close_matches(plain, known, n=3, cutoff=0.5)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"game: {game!r} is no Atari game of ale-py{hint}")


class AtariEnv(gymnasium.Env[np.ndarray, np.int64]):
    """One game, one emulator. `make_atari` fills in the papers' settings.

    ``info`` has ``lives`` (int, 0 in games without), ``life_lost`` (bool, see `make_atari`) and
    ``episode_frame_number`` (emulator frames since the reset, no-ops included).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}  # noqa: RUF012  as gymnasium.Env declares it

    def __init__(self, *, game: str, preprocessing: Preprocessing, settings: Settings, episodic_life: bool) -> None:
        self.settings = _checked(settings)
        self._rom = rom_id(game)
        self._ale = _emulator(self._rom)
        self._pristine = self._ale.cloneState()
        self._actions = _action_set(self._ale, self._rom, settings.full_action_space)
        skip = settings.frame_skip
        self._skips = (skip,) if isinstance(skip, int) else tuple(skip)
        self._screen: _Screen = (_UniverseScreen if preprocessing == "universe" else _GreyScreen)(self._ale)
        shape = (settings.frame_stack, *self._screen.shape)
        high = 255 if self._screen.dtype == np.uint8 else 1
        self.observation_space = gymnasium.spaces.Box(0, high, shape, self._screen.dtype.type)
        self.action_space = gymnasium.spaces.Discrete(len(self._actions))
        self.render_mode = "rgb_array"
        self._episodic_life = episodic_life
        self._playing = False

    @property
    def frames_per_step(self) -> int:
        """Emulator frames in one step, on average."""
        return round(sum(self._skips) / len(self._skips))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode: (first observation, info). `options` are ignored; without a seed the generator goes on."""
        super().reset(seed=seed)
        if seed is not None:  # as ale-py derives the generator of its own environment
            self._np_random, _ = seeding.np_random(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        self._restart()
        for _ in range(self.np_random.integers(1, self.settings.noop_max + 1) if self.settings.noop_max else 0):
            self._act(NOOP)
            if self._ale.game_over(with_truncation=False):
                self._restart()
        self._steps, self._lives, self._playing = 0, self._ale.lives(), True
        self._screen.restart()
        frame = self._screen.frame()
        self._stack = np.stack([frame] * self.settings.frame_stack)
        return self._stack, self._info(life_lost=False)

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeat the action over the frames of one step.

        Returns:
            A new array (to read: the next stack begins with it), the sum of raw rewards, terminated, truncated (never
            both), info.
        Raises:
            ValueError: an action that does not exist. RuntimeError: the episode is over.
        """
        index = int(action)
        if not 0 <= index < len(self._actions):
            raise ValueError(f"action: {index} is not in 0..{len(self._actions) - 1}")
        if not self._playing:
            raise RuntimeError("step() outside an episode: call reset() first")
        reward, terminated = self._repeat(self._actions[index])
        self._steps += 1
        truncated = not terminated and self._steps >= self.settings.max_steps
        self._playing = not (terminated or truncated)
        lives, before = self._ale.lives(), self._lives
        self._lives = lives
        self._stack = np.concatenate([self._stack[1:], self._screen.frame()[None]])
        return self._stack, reward, terminated, truncated, self._info(life_lost=lives < before)

    def get_action_meanings(self) -> list[str]:
        """Names of the actions, like those of ale-py's own environment: NOOP, FIRE, UP, ..."""
        import ale_py

        return [ale_py.Action(action).name for action in self._actions]

    def render(self) -> np.ndarray:
        """The screen as the emulator shows it, (height, width, 3) uint8."""
        screen: np.ndarray = self._ale.getScreenRGB()
        return screen

    def _restart(self) -> None:
        self._ale.restoreState(self._pristine)
        self._ale.reset_game()
        self._held = NOOP

    def _repeat(self, action: int) -> tuple[float, bool]:
        skip = self._skips[0] if len(self._skips) == 1 else self._skips[self.np_random.integers(len(self._skips))]
        reward = 0.0
        for left in reversed(range(skip)):
            reward += self._act(action)
            # A screen after the end is not looked at, like in AtariPreprocessing: nothing is learned from it.
            if self._ale.game_over(with_truncation=False):
                return reward, True
            self._screen.see(left)
        return reward, False

    def _act(self, action: int) -> int:
        """One frame, with sticky actions as ALE defines them (Machado et al. 2018, section 5)."""
        if self.settings.sticky and self.np_random.random() < self.settings.sticky:
            action = self._held
        self._held = action
        reward: int = self._ale.act(action)
        return reward

    def _info(self, *, life_lost: bool) -> dict[str, Any]:
        return {
            "lives": self._lives,
            "life_lost": life_lost and self._episodic_life,
            "episode_frame_number": self._ale.getEpisodeFrameNumber(),
        }


def _checked(settings: Settings) -> Settings:
    """`settings`, or a ValueError of one line that names the field."""
    skips = [settings.frame_skip] if isinstance(settings.frame_skip, int) else list(settings.frame_skip)
    if not skips or not all(isinstance(skip, int) and skip >= 1 for skip in skips):
        raise ValueError(f"frame_skip: {settings.frame_skip!r} must be at least 1, or a list of such numbers")
    if not 0 <= settings.sticky <= 1:
        raise ValueError(f"sticky: {settings.sticky} is not a probability")
    for name, least in (("max_steps", 1), ("frame_stack", 1), ("noop_max", 0)):
        if getattr(settings, name) < least:
            raise ValueError(f"{name}: {getattr(settings, name)} must be at least {least}")
    return settings


def _emulator(rom: str) -> Any:
    """An emulator with `rom` loaded, and nothing random or clipped in it."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.setInt("random_seed", 0)
    path = ale_py.roms.get_rom_path(rom)
    assert path is not None, rom  # rom_id() looked it up
    ale.loadROM(path)
    return ale


def _action_set(ale: Any, rom: str, full: bool) -> list[int]:
    actions = [action.value for action in (ale.getLegalActionSet() if full else ale.getMinimalActionSet())]
    if full and len(actions) != FULL_ACTION_SET:
        raise ValueError(f"full_action_space: {rom} has {len(actions)} actions, not {FULL_ACTION_SET}; set it to false")
    return actions


class _Screen(Protocol):
    """How emulator screens become a frame (height, width)."""

    shape: tuple[int, int]
    dtype: np.dtype

    def restart(self) -> None:
        """Look at the first screen of an episode."""

    def see(self, left: int) -> None:
        """A screen was drawn, `left` more will follow in this step."""

    def frame(self) -> np.ndarray:
        """The frame at the end of a step: a new array."""
        ...


class _UniverseScreen:
    """The last screen in CDRL's way."""

    shape, dtype = (UNIVERSE_SIZE, UNIVERSE_SIZE), np.dtype(np.float32)

    def __init__(self, ale: Any) -> None:
        self._ale = ale
        self._rgb = np.empty((*ale.getScreenDims(), 3), np.uint8)
        self._resize = universe_resizer()

    def restart(self) -> None: ...

    def see(self, left: int) -> None: ...

    def frame(self) -> np.ndarray:
        self._ale.getScreenRGB(self._rgb)
        return self._resize(self._rgb)


class _GreyScreen:
    """The maximum of the last two grey screens of a step (of one where it has only one), as 84x84."""

    shape, dtype = (84, 84), np.dtype(np.uint8)

    def __init__(self, ale: Any) -> None:
        self._ale = ale
        dims = ale.getScreenDims()
        self._last, self._before = np.zeros(dims, np.uint8), np.zeros(dims, np.uint8)
        self._resize = area_resizer(dims, self.shape)

    def restart(self) -> None:
        self._ale.getScreenGrayscale(self._last)

    def see(self, left: int) -> None:
        if left == 0:
            self._ale.getScreenGrayscale(self._last)
        elif left == 1:
            self._ale.getScreenGrayscale(self._before)

    def frame(self) -> np.ndarray:
        # In place, so that a game that ends before the last screen shows what AtariPreprocessing shows then.
        np.maximum(self._last, self._before, out=self._last)
        self._before.fill(0)
        return self._resize(self._last)
