"""CartPole as in LTCR 4.1, against Gymnasium's stock game and its checker."""

from __future__ import annotations

import math
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mpi_ltcr import envs

ID = "mpi_ltcr/CartPole15-v0"


def make(**kwargs: float) -> gymnasium.Env:
    return envs.make(ID, kwargs)


def ends_at_degrees(env: gymnasium.Env, degrees: float) -> bool:
    """Whether a pole that stands still at this angle, and is pushed once, has ended the game."""
    env.reset(seed=0)
    env.unwrapped.state = np.array([0.0, 0.0, math.radians(degrees), 0.0])
    _, reward, terminated, truncated, _ = env.step(0)
    assert reward == 1.0
    assert not truncated
    return terminated


def balancing(obs: np.ndarray) -> int:
    """A hand-made policy that keeps the pole up."""
    return int(obs[2] + 0.3 * obs[3] + 0.05 * obs[0] + 0.1 * obs[1] > 0)


@pytest.mark.parametrize(
    ("degrees", "over"), [(13.0, False), (14.9, False), (15.1, True), (-14.9, False), (-15.1, True)]
)
def test_the_game_ends_beyond_fifteen_degrees(degrees, over):
    assert ends_at_degrees(make(), degrees) is over


@pytest.mark.parametrize(("degrees", "over"), [(11.9, False), (12.1, True), (13.0, True)])
def test_with_the_switch_it_ends_beyond_twelve(degrees, over):
    assert ends_at_degrees(make(angle_limit_deg=12), degrees) is over


def test_with_the_switch_at_twelve_it_is_the_stock_game_trajectory_for_trajectory():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls itself out of date
        stock = gymnasium.make("CartPole-v0")
    ours = make(angle_limit_deg=12)
    rng = np.random.default_rng(0)
    ends = []
    for episode in range(30):
        (a, _), (b, _) = stock.reset(seed=episode), ours.reset(seed=episode)
        assert (a == b).all()
        over = False
        while not over:
            action = int(rng.integers(2)) if episode % 2 else balancing(a)
            a, *rest_a, _ = stock.step(action)
            b, *rest_b, _ = ours.step(action)
            assert (a == b).all()
            assert rest_a == rest_b
            over = rest_a[1] or rest_a[2]
        ends.append(tuple(rest_a[1:]))
    assert {(True, False), (False, True)} <= set(ends)  # some fell, some were cut off by the clock


def test_two_hundred_frames_are_a_truncation_and_no_termination():
    env = make()
    obs, _ = env.reset(seed=1)
    for frame in range(1, 201):
        obs, reward, terminated, truncated, _ = env.step(balancing(obs))
        assert reward == 1.0
        assert not terminated
        assert truncated == (frame == 200)


@pytest.mark.parametrize("limit", [12, 15, 40])
def test_observations_of_the_last_frame_still_lie_in_the_observation_space(limit):
    env = make(angle_limit_deg=limit)
    for seed in range(20):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            obs, _, terminated, _, _ = env.step(1)
            assert env.observation_space.contains(obs)
    assert env.observation_space.high[2] == np.float32(2 * math.radians(limit))


def test_gymnasiums_own_checker_is_content():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make().unwrapped, skip_render_check=True)


def test_it_is_registered_with_its_time_limit_and_threshold():
    envs.register()
    envs.register()  # once more does no harm
    spec = gymnasium.spec(ID)
    assert (spec.max_episode_steps, spec.reward_threshold) == (200, 195.0)
    assert gymnasium.make(ID).unwrapped.theta_threshold_radians == pytest.approx(15 * math.pi / 180)


@pytest.mark.parametrize("limit", [0, -15, 90, float("nan")])
def test_a_limit_at_which_no_pole_can_fall_is_refused(limit):
    with pytest.raises(envs.EnvError, match=r"env\.kwargs.*angle_limit_deg"):
        make(angle_limit_deg=limit)


def test_inputs_are_scaled_by_the_limits_of_the_game():
    scale = envs.spec_of(ID, make()).obs_scale
    assert np.allclose(np.array([2.4, 5.0, math.radians(15), 2 * math.pi]) * scale, 1)
