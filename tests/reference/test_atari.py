"""envs/atari.py and envs/frames.py against OpenCV, Gymnasium's wrappers, ale-py's own environment and plain loops."""

from __future__ import annotations

import itertools
import warnings
from fractions import Fraction
from typing import Any

import ale_py
import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from mpi_ltcr.envs.atari import BOWLING_V0, DQN, PONG_DETERMINISTIC, make_atari, paper_settings, rom_id
from mpi_ltcr.envs.frames import area_resizer, universe_resizer


def gymnasium_env(game: str, **kwargs: Any) -> gymnasium.Env:
    gymnasium.register_envs(ale_py)
    kwargs = {"repeat_action_probability": 0.0, "disable_env_checker": True, **kwargs}
    return gymnasium.make(f"ALE/{game}-v5", **kwargs)


def play(env: gymnasium.Env, actions: np.ndarray, *, seed: int | None) -> list[tuple]:
    """(obs, reward, terminated, truncated, info) from the reset to the end of the episode or of the actions."""
    obs, info = env.reset(seed=seed)
    tape = [(obs, 0.0, False, False, info)]
    for action in actions:
        tape.append(env.step(int(action)))
        if tape[-1][2] or tape[-1][3]:
            break
    return tape


def assert_same(ours: list[tuple], theirs: list[tuple]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]
        assert a[4]["lives"] == b[4]["lives"]
        assert a[4]["episode_frame_number"] == b[4]["episode_frame_number"]


def random_actions(env: gymnasium.Env, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(env.action_space.n, size=count)


# Frames


def cv2_universe(rgb: np.ndarray) -> np.ndarray:
    frame = cv2.resize(cv2.resize(rgb[34:194, :160], (80, 80)), (42, 42))
    return frame.mean(2).astype(np.float32) / 255


def naive_area(screen: np.ndarray, height: int, width: int) -> list[list[Fraction]]:
    """The mean over the covered area, by a loop over every pair of a source and a target pixel, without rounding."""
    rows, columns = screen.shape

    def cover(target: int, source: int, scale: Fraction) -> Fraction:
        return max(Fraction(0), min(Fraction(source + 1), (target + 1) * scale) - max(Fraction(source), target * scale))

    y_scale, x_scale = Fraction(rows, height), Fraction(columns, width)
    return [
        [
            sum(
                cover(y, j, y_scale) * cover(x, i, x_scale) * int(screen[j, i])
                for j in range(rows)
                for i in range(columns)
            )
            / (y_scale * x_scale)
            for x in range(width)
        ]
        for y in range(height)
    ]


def test_the_area_resize_is_the_mean_of_the_covered_area_rounded_to_the_nearest_level():
    screen = np.random.default_rng(0).integers(0, 256, (21, 16), dtype=np.uint8)
    exact = naive_area(screen, 9, 7)
    got = area_resizer((21, 16), (9, 7))(screen)
    assert all(abs(Fraction(int(got[y, x])) - exact[y][x]) <= Fraction(1, 2) for y in range(9) for x in range(7))


@pytest.mark.parametrize("levels", [256, 3])  # few levels: many averages are exactly one half
@pytest.mark.parametrize("height", [210, 220, 250])  # NTSC games, Pooyan, PAL games
def test_the_area_resize_is_opencvs_inter_area_pixel_for_pixel(height, levels):
    resize = area_resizer((height, 160), (84, 84))
    for seed in range(20):
        screen = (np.random.default_rng(seed).integers(0, levels, (height, 160)) * (255 // (levels - 1))).astype(
            np.uint8
        )
        np.testing.assert_array_equal(resize(screen), cv2.resize(screen, (84, 84), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("game", ["pong", "bowling"])
def test_a_universe_frame_is_opencvs_two_step_resize_of_the_real_screen(game):
    env = make_atari(game=game)
    obs, _ = env.reset(seed=3)
    for action in random_actions(env, 200):
        np.testing.assert_allclose(obs[0], cv2_universe(env.render()), atol=1e-6)  # one grey level is 4e-3
        obs = env.step(action)[0]
    assert obs.std() > 0.01  # not a blank screen


def test_a_universe_frame_of_noise_is_opencvs_too():
    resize = universe_resizer()
    for seed in range(20):
        rgb = np.random.default_rng(seed).integers(0, 256, (210, 160, 3), dtype=np.uint8)
        np.testing.assert_allclose(resize(rgb), cv2_universe(rgb), atol=1e-6)


# Whole episodes against other people's environments


@pytest.mark.parametrize("game", ["Zaxxon", "Phoenix"])
def test_dqn_episodes_equal_gymnasiums_atari_preprocessing_and_frame_stack(game):
    ours = make_atari(game=game, preprocessing="dqn")
    theirs = FrameStackObservation(AtariPreprocessing(gymnasium_env(game, frameskip=1, full_action_space=True)), 4)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space.n == theirs.action_space.n == 18
    for episode, seed in enumerate([7, None]):  # the second one continues the generator of the first
        actions = random_actions(ours, 27_000, seed=episode)
        tape = play(ours, actions, seed=seed)
        assert tape[-1][2], "the episode did not reach its end"
        assert_same(tape, play(theirs, actions, seed=seed))


@pytest.mark.parametrize("noop_max", [0, 30])
@pytest.mark.parametrize("frame_skip", [1, 2])
def test_dqn_frames_equal_gymnasiums_at_other_skips_too(frame_skip, noop_max):
    ours = make_atari(game="phoenix", preprocessing="dqn", frame_skip=frame_skip, noop_max=noop_max, frame_stack=2)
    single = gymnasium_env("Phoenix", frameskip=1, full_action_space=True)
    theirs = FrameStackObservation(AtariPreprocessing(single, frame_skip=frame_skip, noop_max=noop_max), 2)
    actions = random_actions(ours, 100)
    assert_same(play(ours, actions, seed=1), play(theirs, actions, seed=1))


def test_a_step_of_one_frame_shows_that_frame_alone_and_longer_ones_the_maximum_of_their_last_two():
    ours = make_atari(game="phoenix", preprocessing="dqn", frame_skip=(1, 2, 3), frame_stack=1, noop_max=0)
    screens = gymnasium_env("Phoenix", frameskip=1, full_action_space=True, obs_type="grayscale")
    _, info = ours.reset(seed=0)
    screens.reset(seed=0)
    skips = set()
    for action in random_actions(ours, 150):
        before = info["episode_frame_number"]
        obs, *_, info = ours.step(action)
        seen = [screens.step(action)[0] for _ in range(info["episode_frame_number"] - before)]
        expected = cv2.resize(np.max(seen[-2:], axis=0), (84, 84), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(obs[0], expected)
        skips.add(len(seen))
    assert skips == {1, 2, 3}


@pytest.mark.parametrize(("game", "skip", "theirs"), [("Pong", 4, 4), ("Bowling", (2, 3, 4), (2, 5))])
def test_screens_and_rewards_equal_ale_pys_environment_with_its_fixed_or_random_skip(game, skip, theirs):
    ours = make_atari(game=game, frame_skip=skip, sticky=0.0)
    reference = gymnasium_env(game, frameskip=theirs)
    assert ours.action_space.n == reference.action_space.n == 6
    ours.reset(seed=11)
    screen, _ = reference.reset(seed=11)
    total = 0.0
    for action in random_actions(ours, 600):
        np.testing.assert_array_equal(ours.render(), screen)
        _, reward, *ends, info = ours.step(action)
        screen, expected, *their_ends, their_info = reference.step(action)
        assert (reward, ends) == (expected, their_ends)
        assert info["episode_frame_number"] == their_info["episode_frame_number"]
        total += abs(reward)
    assert total > 0, "nothing was scored, so rewards were not compared"


# Seeding


@pytest.mark.parametrize(
    "kwargs",
    [
        {"game": "bowling"},  # random skips and sticky actions
        {"game": "zaxxon", "preprocessing": "dqn"},  # no-ops
        {"game": "assault", "sticky": 0.25},  # a plain reset of this emulator remembers the episode before
    ],
    ids=lambda kwargs: kwargs["game"],
)
def test_a_seed_and_the_actions_determine_the_next_episodes_bit_for_bit_whatever_went_before(kwargs):
    env = make_atari(**kwargs)
    actions = random_actions(env, 150)

    def two_episodes() -> list[tuple]:
        return play(env, actions, seed=42) + play(env, actions, seed=None)

    first = two_episodes()
    play(env, random_actions(env, 211, seed=1), seed=5)
    assert_same(two_episodes(), first)
    env = make_atari(**kwargs)
    assert_same(two_episodes(), first)


def test_other_seeds_give_other_no_ops_and_other_skips():
    zaxxon = make_atari(game="zaxxon", preprocessing="dqn")
    no_ops = {zaxxon.reset(seed=seed)[1]["episode_frame_number"] for seed in range(60)}
    assert min(no_ops) >= 1
    assert max(no_ops) <= 30
    assert len(no_ops) > 15
    bowling = make_atari(game="bowling")
    ends = {play(bowling, np.zeros(50), seed=seed)[-1][4]["episode_frame_number"] for seed in range(5)}
    assert len(ends) > 1


def test_random_skips_are_uniform_over_what_was_asked_for():
    env = make_atari(game="bowling", frame_skip=[2, 3, 4])  # a list, as a YAML file gives it
    tape = play(env, np.zeros(900), seed=0)
    frames = np.diff([step[4]["episode_frame_number"] for step in tape])
    values, counts = np.unique(frames, return_counts=True)
    assert list(values) == [2, 3, 4]
    assert np.all(np.abs(counts - 300) < 4 * np.sqrt(900 * 2 / 9))
    assert env.frames_per_step == 3


def test_sticky_actions_delay_a_new_action_by_a_geometric_number_of_frames():
    """Of 6 frames of a new action the first d still do nothing, P(d) = 0.75 * 0.25^d, and the screen shows d."""
    skip, still, trials, up = 6, 24, 240, 2
    steady = make_atari(game="pong", frame_skip=1)
    screens = []
    for delay in range(5):  # from 5 on the screens are the same: Pong answers a frame late
        play(steady, np.array([0] * (still + delay) + [up] * (skip - delay)), seed=0)
        screens.append(steady.render().tobytes())
    assert len(set(screens)) == 5
    sticky = make_atari(game="pong", frame_skip=skip, sticky=0.25)
    counts = dict.fromkeys(screens, 0)
    for seed in range(trials):
        play(sticky, np.array([0] * (still // skip) + [up]), seed=seed)
        seen = sticky.render().tobytes()
        counts[seen] = counts.get(seen, 0) + 1
    share = np.array([0.75 * 0.25**delay for delay in range(5)])
    got = np.array([counts[screen] for screen in screens])
    assert np.all(np.abs(got - trials * share) < 4 * np.sqrt(trials * share * (1 - share)))
    assert trials - got.sum() <= 3  # expected: 0.25 ** 5 of them


def test_an_action_that_always_sticks_is_the_no_op_of_the_reset():
    sticky = make_atari(game="pong", sticky=1.0)
    free = make_atari(game="pong")
    assert_same(play(sticky, random_actions(sticky, 40), seed=0), play(free, np.zeros(40), seed=0))


# Ends, lives and the interface


def test_a_lost_life_is_reported_and_the_game_goes_on():
    env = make_atari(game="phoenix", preprocessing="dqn", episodic_life=True)
    tape = play(env, random_actions(env, 27_000), seed=0)
    silent = make_atari(game="phoenix", preprocessing="dqn")
    assert_same(tape, play(silent, random_actions(env, 27_000), seed=0))
    lives = [step[4]["lives"] for step in tape]
    lost = [step[4]["life_lost"] for step in tape]
    assert sum(lost) == lives[0] - lives[-1] >= 4
    assert [False] + [after < before for before, after in itertools.pairwise(lives)] == lost
    assert not any(step[2] or step[3] for step in tape[:-1])
    frames = [step[4]["episode_frame_number"] for step in tape]
    assert all(after > before for before, after in itertools.pairwise(frames))


def test_lost_lives_are_not_reported_unless_asked_for():
    env = make_atari(game="phoenix", preprocessing="dqn")
    tape = play(env, random_actions(env, 27_000), seed=0)
    assert tape[-1][4]["lives"] == 0
    assert not any(step[4]["life_lost"] for step in tape)


def test_the_step_limit_truncates_and_does_not_terminate():
    env = make_atari(game="pong", max_steps=5)
    tape = play(env, np.zeros(9), seed=0)
    assert [step[2:4] for step in tape] == [(False, False)] * 5 + [(False, True)]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(0)
    env.reset()
    assert not env.step(0)[3]


def test_no_step_before_the_first_reset():
    with pytest.raises(RuntimeError, match="call reset"):
        make_atari(game="pong").step(0)


@pytest.mark.parametrize("action", [-1, 6])
def test_an_action_outside_the_set_is_refused_instead_of_wrapped(action):
    env = make_atari(game="pong")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"action: {action} is not in 0\.\.5"):
        env.step(action)


def test_the_newest_frame_is_last_in_the_stack_and_alone_without_one():
    stacked = make_atari(game="zaxxon", preprocessing="dqn")
    single = make_atari(game="zaxxon", preprocessing="dqn", frame_stack=1)
    actions = random_actions(stacked, 30)
    many, one = play(stacked, actions, seed=0), play(single, actions, seed=0)
    assert one[0][0].shape == (1, 84, 84)
    for t, (a, b) in enumerate(zip(many, one, strict=True)):
        np.testing.assert_array_equal(a[0][-1:], b[0])
        np.testing.assert_array_equal(a[0][0], one[max(t - 3, 0)][0][0])


def test_an_observation_does_not_change_when_the_game_goes_on():
    for preprocessing in ("universe", "dqn"):
        env = make_atari(game="zaxxon", preprocessing=preprocessing)
        obs, _ = env.reset(seed=0)
        kept = obs.copy()
        for action in random_actions(env, 10):
            env.step(action)
        np.testing.assert_array_equal(obs, kept)


@pytest.mark.parametrize("kwargs", [{"game": "bowling"}, {"game": "zaxxon", "preprocessing": "dqn"}])
def test_gymnasiums_own_checker_finds_nothing(kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not instantiated through.*|.*no spec.*|.*`render_mode`.*")
        check_env(make_atari(**kwargs), skip_render_check=True)


@pytest.mark.parametrize(
    ("preprocessing", "shape", "dtype"), [("universe", (1, 42, 42), np.float32), ("dqn", (4, 84, 84), np.uint8)]
)
def test_observations_have_the_papers_shapes(preprocessing, shape, dtype):
    env = make_atari(game="pong", preprocessing=preprocessing)
    obs, _ = env.reset(seed=0)
    assert (env.observation_space.shape, env.observation_space.dtype) == (shape, dtype)
    assert obs in env.observation_space
    assert env.render().shape == (210, 160, 3)


def test_the_papers_settings_of_each_game():
    assert paper_settings("Pong", "universe") == PONG_DETERMINISTIC
    assert PONG_DETERMINISTIC[:4] == (4, 0.0, 100_000, False)
    assert paper_settings("Bowling", "universe") == BOWLING_V0
    assert BOWLING_V0[:4] == ((2, 3, 4), 0.25, 10_000, False)
    assert paper_settings("Zaxxon", "dqn") == DQN == (4, 0.0, 27_000, True, 4, 30)
    assert make_atari(game="bowling", sticky=0.5).settings == BOWLING_V0._replace(sticky=0.5)
    assert make_atari(game="phoenix", preprocessing="dqn", full_action_space=False).action_space.n == 8


# Bad input


@pytest.mark.parametrize("spelling", ["MsPacman", "ms_pacman", "Ms. Pacman", "ms-pacman", "MSPACMAN"])
def test_a_game_is_found_by_any_spelling(spelling):
    assert rom_id(spelling) == "ms_pacman"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"game": "Zaxon"}, "game: 'Zaxon' is no Atari game of ale-py; did you mean zaxxon"),
        ({"game": "1234"}, "game: '1234' is no Atari game of ale-py$"),
        ({"game": "Combat"}, "game: 'Combat' cannot be played alone"),
        ({"game": "Maze Craze"}, "game: 'Maze Craze' cannot be played alone"),
        ({"game": "skiing", "full_action_space": True}, "full_action_space: skiing has 9 actions, not 18"),
        ({"game": "pong", "preprocessing": "atari"}, "preprocessing: 'atari' is not one of universe, dqn"),
        ({"game": "pong", "frame_skip": 0}, "frame_skip: 0 must be at least 1"),
        ({"game": "pong", "frame_skip": (2, 0)}, r"frame_skip: \(2, 0\) must be at least 1"),
        ({"game": "pong", "frame_skip": ()}, r"frame_skip: \(\) must be at least 1"),
        ({"game": "pong", "frame_skip": "four"}, "frame_skip: 'four' must be at least 1"),
        ({"game": "pong", "sticky": 1.5}, "sticky: 1.5 is not a probability"),
        ({"game": "pong", "max_steps": 0}, "max_steps: 0 must be at least 1"),
        ({"game": "pong", "frame_stack": 0}, "frame_stack: 0 must be at least 1"),
        ({"game": "pong", "noop_max": -1}, "noop_max: -1 must be at least 0"),
    ],
)
def test_bad_input_is_one_line_that_names_the_field(kwargs, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        make_atari(**kwargs)
    assert "\n" not in str(error.value)


def test_the_games_refused_for_two_players_are_exactly_those_that_ale_py_cannot_load():
    roms = list(ale_py.roms.get_all_rom_ids())
    unloadable = {rom for rom in roms if ale_py.ALEInterface.isSupportedROM(ale_py.roms.get_rom_path(rom)) is None}
    refused = set()
    for rom in roms:
        try:
            assert rom_id(rom) == rom
        except ValueError:
            refused.add(rom)
    assert refused == unloadable
