"""Pictures of Space Battle: what is in the game can be seen."""

from __future__ import annotations

import numpy as np
import pytest
from space_battle_scenes import CCW, FIRE, play, scene

from mpi_ltcr.envs.space_battle import parallel_env
from mpi_ltcr.envs.space_battle_render import HEADER, MARGIN, PALE, SIDE, TEAM, WRECK, draw

SHIPS = (100, 100, 0), (250, 400, 5), (400, 100, 10), (400, 400, 15)


def pixel(x, y):
    """Row and column of a point of the arena."""
    return round(HEADER + MARGIN + (500 - y) * SIDE / 500), round(MARGIN + x * SIDE / 500)


def shows(picture, colour, x, y, reach=2):
    """Is this colour within a few pixels of the point?"""
    row, column = pixel(x, y)
    patch = picture[row - reach : row + reach + 1, column - reach : column + reach + 1].astype(int)
    return bool((abs(patch - colour).max(axis=2) < 25).any())


def amount(picture, colour):
    return int((abs(picture.astype(int) - colour).max(axis=2) < 25).sum())


def test_a_picture_is_an_image_of_fixed_size_made_anew():
    world = scene(*SHIPS)
    picture = draw(world)
    assert picture.shape == (HEADER + SIDE + 2 * MARGIN, SIDE + 2 * MARGIN, 3)
    assert picture.dtype == np.uint8
    picture[:] = 0
    assert draw(world).any()


def test_ships_stand_where_they_are_in_their_teams_colours():
    picture = draw(scene(*SHIPS))
    for ship, (x, y, _) in enumerate(SHIPS):
        assert shows(picture, PALE[ship // 2], x - 9, y + 9)
        assert shows(picture, TEAM[ship // 2], x, y + 19.5)
    assert not shows(picture, PALE[1], 91, 109)


@pytest.mark.parametrize("heading", range(0, 20, 3))
def test_the_nose_points_along_the_heading(heading):
    picture = draw(scene((250, 250, heading), (100, 450, 0)))
    for k in range(20):
        x, y = 250 + 26 * np.cos(k * np.pi / 10), 250 + 26 * np.sin(k * np.pi / 10)
        distance = min((k - heading) % 20, (heading - k) % 20)
        if distance == 0:
            assert shows(picture, TEAM[0], x, y, reach=1)
        elif distance > 2 and abs(k - 5) > 2:  # the health bar is above
            assert not shows(picture, TEAM[0], x, y, reach=1)


def test_missiles_are_seen_in_flight():
    world = scene(*SHIPS)
    play(world, [FIRE, CCW, CCW, CCW], [CCW] * 4)
    assert shows(draw(world), TEAM[0], 194, 100)
    assert not shows(draw(scene(*SHIPS)), TEAM[0], 194, 100)


def test_health_bars_shrink_with_health():
    full, half = draw(scene(*SHIPS)), draw(scene(*SHIPS, health=[255, 255, 128, 255]))
    right, left = (410, 135), (386, 135)
    assert shows(full, TEAM[1], *right)
    assert not shows(half, TEAM[1], *right)
    assert shows(half, TEAM[1], *left)


def test_the_dead_are_grey_and_headless():
    picture = draw(scene(*SHIPS, health=[255, 255, 0, 255]))
    assert shows(picture, WRECK, 400, 119)
    assert shows(draw(scene(*SHIPS)), PALE[1], 383, 100)
    assert not shows(picture, PALE[1], 383, 100)
    assert amount(picture, WRECK) > amount(draw(scene(*SHIPS)), WRECK)


def test_time_and_score_are_written_above():
    world = scene(*SHIPS)
    before = draw(world)[:HEADER]
    play(world, [CCW] * 4)
    middle = slice(250, 370)
    assert (draw(world)[:HEADER, middle] != before[:, middle]).any()
    hurt = draw(scene(*SHIPS, health=[200, 255, 255, 255]))[:HEADER]
    assert (hurt[:, : MARGIN + 200] != before[:, : MARGIN + 200]).any()
    assert (hurt[:, -200:] != before[:, -200:]).any()


def test_ships_at_the_edge_and_any_team_size_can_be_drawn():
    picture = draw(scene((20, 480, 5), (480, 20, 15)))
    assert shows(picture, TEAM[0], 20, 445)  # no room above: the bar is below
    draw(scene(*[(20 + 30 * ship, 20 + 30 * ship, ship) for ship in range(12)]))


def test_render_draws_only_where_it_was_asked_for():
    env = parallel_env(render_mode="rgb_array")
    env.reset(seed=0)
    assert (env.render() == draw(env.world)).all()
    silent = parallel_env()
    silent.reset(seed=0)
    with pytest.raises(RuntimeError, match='render_mode="rgb_array"'):
        silent.render()
