"""Who plays the ships that do not learn."""

from __future__ import annotations

import numpy as np
import pytest
from space_battle_scenes import CCW, CW, FIRE, MOVE, scene

from mpi_ltcr.envs.opponents import (
    OPPONENTS,
    Frozen,
    Random,
    Scripted,
    SelfPlay,
    Snapshots,
    Stationary,
    make_opponent,
    parse_opponent,
)
from mpi_ltcr.envs.space_battle_rules import Rules

FAR = (20.0, 480.0, 10)
SEEN = np.zeros((3, 26), dtype=np.float32)


def always(action):
    return lambda seen: action


def every_opponent():
    handed = {"frozen": always(1), "selfplay": [always(0), always(1), always(2)]}
    return [(name, make_opponent(name, policies=handed.get(name))) for name in OPPONENTS]


@pytest.mark.parametrize(("name", "opponent"), every_opponent())
def test_every_opponent_chooses_one_legal_action_per_ship_and_knows_its_place_again(name, opponent):
    for team_size in (1, 2, 4):
        if name == "scripted":
            opponent = make_opponent(name, rules=Rules(team_size=team_size))
        seen = np.random.default_rng(0).random((team_size, 6 + 4 * (2 * team_size - 1))).astype(np.float32)
        opponent.reset(np.random.default_rng(3))
        opponent.act(seen)
        saved = opponent.state()
        expected = [opponent.act(seen).tolist() for _ in range(20)]
        assert np.shape(expected) == (20, team_size)
        assert set(np.ravel(expected)) <= {0, 1, 2, 3}
        opponent.reset(np.random.default_rng(4))
        opponent.load_state(saved)
        assert [opponent.act(seen).tolist() for _ in range(20)] == expected
        assert opponent.act(seen[:0]).shape == (0,)


def test_random_plays_all_four_equally_and_only_from_its_generator():
    opponent = Random()
    with pytest.raises(RuntimeError, match="reset"):
        opponent.act(SEEN)
    opponent.reset(np.random.default_rng(0))
    actions = np.concatenate([opponent.act(SEEN) for _ in range(2000)])
    assert (abs(np.bincount(actions, minlength=4) / actions.size - 0.25) < 0.02).all()
    opponent.reset(np.random.default_rng(0))
    assert (np.concatenate([opponent.act(SEEN) for _ in range(2000)]) == actions).all()


def test_restoring_does_not_reach_into_a_generator_held_by_others():
    mine = np.random.default_rng(0)
    opponent = Random()
    opponent.reset(mine)
    saved = opponent.state()
    mine.random(5)
    before = mine.bit_generator.state
    opponent.load_state(saved)
    opponent.act(SEEN)
    assert mine.bit_generator.state == before


def test_an_opponent_that_was_never_reset_is_saved_as_such():
    opponent = Random()
    opponent.load_state(Random().state())
    with pytest.raises(RuntimeError, match="reset"):
        opponent.act(SEEN)


def test_stationary_never_moves_nor_fires():
    assert Stationary().act(SEEN).tolist() == [CCW] * 3


@pytest.mark.parametrize(
    ("ships", "action"),
    [
        (((100, 100, 0), (180, 100, 0)), FIRE),
        (((100, 100, 0), (180, 140, 0)), CCW),
        (((100, 100, 0), (180, 60, 0)), CW),
        (((100, 100, 10), (180, 105, 0)), CW),  # behind, a little to the right
        (((100, 100, 0), (450, 145, 0)), MOVE),  # as well aimed as the headings allow, but too far
        (((480, 100, 0), (470, 480, 0)), CCW),
    ],
)
def test_scripted_turns_to_the_enemy_fires_where_it_hits_and_comes_closer_where_not(ships, action):
    world = scene(*ships)
    assert Scripted(rules=world.rules).act(world.observe()[0, :1]).tolist() == [action]


def test_scripted_refuses_observations_of_another_team_size():
    with pytest.raises(ValueError, match=r"reads 18 numbers for teams of 2, got shape \(3, 26\)"):
        Scripted().act(SEEN)


def test_what_scripted_fires_hits():
    rng = np.random.default_rng(0)
    shots = 0
    while shots < 60:
        x, y, a, b = rng.uniform(20, 480, size=4)
        world = scene((x, y, int(rng.integers(20))), (a, b, 0))
        if np.hypot(x - a, y - b) > 40 and Scripted(rules=world.rules).act(world.observe()[0, :1])[0] == FIRE:
            shots += 1
            world.step(np.array([[FIRE, CCW]]))
            for _ in range(20):
                world.step(np.array([[CCW, CCW]]))
            assert world.health[0, 1] == 250


def test_scripted_spares_a_mate_in_the_line_and_aims_at_the_nearest_that_lives():
    def first_ship(*ships, **numbers):
        world = scene(*ships, **numbers)
        return Scripted(rules=world.rules).act(world.observe()[0, :2])[0]

    assert first_ship((100, 100, 0), (150, 100, 0), (250, 100, 0), FAR) == MOVE
    assert first_ship((100, 100, 0), (350, 100, 0), (250, 100, 0), FAR) == FIRE
    assert first_ship((100, 100, 0), (150, 100, 0), (250, 100, 0), FAR, health=[255, 0, 255, 255]) == FIRE
    assert first_ship((100, 100, 0), FAR, (100, 180, 0), (250, 100, 0)) == CCW
    assert first_ship((100, 100, 0), FAR, (100, 180, 0), (250, 100, 0), health=[255, 255, 0, 255]) == FIRE
    # in a heap of ships it is the muzzle that counts: the mate is nearer to it than the enemy
    assert first_ship((108, 297, 5), (105, 312, 10), (108, 299, 0), FAR) == MOVE
    assert first_ship((108, 297, 5), (108, 299, 10), (105, 312, 0), FAR) == FIRE


def test_scripted_without_missiles_rams():
    world = scene((100, 100, 0), (180, 100, 0), missiles=[0, 100])
    assert Scripted(rules=world.rules).act(world.observe()[0, :1])[0] == MOVE


def test_scripted_at_the_wall_finds_every_enemy():
    """A move that the wall refuses must not leave it waiting for ever."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        here, there = rng.choice([20.0, 21, 240, 479, 480], size=(2, 2))
        if np.hypot(*(here - there)) < 40:
            continue
        world = scene((*here, int(rng.integers(20))), (*there, int(rng.integers(20))))
        scripted = Scripted(rules=world.rules)
        while not world.over[0]:
            world.step(np.array([[scripted.act(world.observe()[0, :1])[0], CCW]]))
        assert world.health[0].tolist()[1] == 0


@pytest.mark.parametrize("theta", ["bearing", "heading"])
def test_scripted_does_not_depend_on_the_reading_of_relative_theta(theta):
    rng = np.random.default_rng(1)
    for _ in range(30):
        ships = [(*rng.uniform(20, 480, size=2), int(rng.integers(20))) for _ in range(4)]
        actions = [
            Scripted(rules=world.rules).act(world.observe()[0, :2]).tolist()
            for world in (scene(*ships), scene(*ships, relative_theta=theta))
        ]
        assert actions[0] == actions[1]


def test_frozen_asks_one_policy_for_all_or_one_each():
    seen = np.arange(6.0).reshape(3, 2)
    assert Frozen(policies=lambda row: int(row[0]) // 2).act(seen).tolist() == [0, 1, 2]
    assert Frozen(policies=[always(2), always(0), always(3)]).act(seen).tolist() == [2, 0, 3]
    with pytest.raises(ValueError, match="a crew of 2 policies cannot play 3 ships"):
        Frozen(policies=[always(2), always(0)]).act(seen)


def test_selfplay_draws_one_snapshot_for_each_episode_also_of_those_that_joined_later():
    snapshots = [always(0)]
    opponent = SelfPlay(policies=snapshots)
    snapshots += [always(1), [always(2), always(3), always(2)]]
    assert opponent.act(SEEN).tolist() == [0, 0, 0]
    rng = np.random.default_rng(0)
    played = []
    for _ in range(300):
        opponent.reset(rng)
        first = opponent.act(SEEN).tolist()
        assert opponent.act(SEEN).tolist() == first
        played.append(tuple(first))
    counts = [played.count(crew) for crew in ((0, 0, 0), (1, 1, 1), (2, 3, 2))]
    assert sum(counts) == 300
    assert min(counts) > 70


def test_selfplay_remembers_which_snapshot_played_and_refuses_one_it_was_not_given():
    opponent = SelfPlay(policies=[always(0), always(1), always(2)])
    while opponent.playing != 1:
        opponent.reset(np.random.default_rng(opponent.playing + 10))
    other = SelfPlay(policies=[always(0), always(1), always(2)])
    other.load_state(opponent.state())
    assert other.act(SEEN).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="snapshot 1 was playing when this was saved, here are 1"):
        SelfPlay(policies=[always(0)]).load_state(opponent.state())


def learner():
    """A learner whose weight is the number of the frame; who plays it always does that number modulo 4."""
    weights = np.zeros(1)
    every_third = Snapshots(take=weights.copy, revive=lambda saved: always(int(saved[0]) % 4), every=3)
    for frame in range(1, 11):
        weights[:] = frame
        every_third.look(frame)
    return every_third


def test_snapshots_are_taken_at_their_cadence_from_frame_0_and_saved_whole():
    snapshots = learner()
    assert [policy(SEEN) for policy in snapshots] == [0, 3, 6 % 4, 9 % 4]
    saved = snapshots.state()
    assert saved["weights"].tolist() == [[0], [3], [6], [9]]
    other = Snapshots(take=lambda: np.zeros(1), revive=lambda saved: always(int(saved[0]) % 4), every=3)
    other.load_state(saved)
    assert [policy(SEEN) for policy in other] == [policy(SEEN) for policy in snapshots]
    wrong = Snapshots(take=lambda: np.zeros(2), revive=lambda saved: always(0), every=3)
    with pytest.raises(ValueError, match=r"snapshots of shape \(4, 1\) were saved"):
        wrong.load_state(saved)


def test_a_frozen_learner_has_one_snapshot_for_ever():
    snapshots = Snapshots(take=lambda: np.zeros(1), revive=lambda saved: always(0), every=0)
    for frame in range(1, 50):
        snapshots.look(frame)
    assert len(snapshots) == 1


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("random", ("random", "")),
        ("frozen:runs/a:b", ("frozen", "runs/a:b")),
        ("selfplay", ("selfplay", "10000")),
        ("selfplay:500", ("selfplay", "500")),
        ("scripted:3", ("scripted:3", "")),  # unknown, as it stands
    ],
)
def test_opponents_are_named_with_an_argument_on_the_command_line(text, parsed):
    assert parse_opponent(text) == parsed


@pytest.mark.parametrize("text", ["frozen", "frozen:", "selfplay:", "selfplay:0", "selfplay:-5", "selfplay:often"])
def test_an_argument_that_cannot_be_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"e\.g\. (frozen:runs/a|selfplay:10000)"):
        parse_opponent(text)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"name": "rnadom"}, "unknown opponent 'rnadom'; there are random, scripted, stationary, frozen, selfplay"),
        ({"name": "frozen"}, "the frozen opponent needs policies"),
        ({"name": "selfplay"}, "the selfplay opponent needs policies"),
        ({"name": "random", "policies": always(0)}, "the random opponent takes no policies"),
        ({"name": "frozen", "policies": []}, "needs a policy, got none"),
        ({"name": "selfplay", "policies": []}, "a list of at least one snapshot"),
        ({"name": "selfplay", "policies": always(0)}, "a list of at least one snapshot"),
    ],
)
def test_an_opponent_that_cannot_play_is_refused(arguments, why):
    with pytest.raises(ValueError, match=why):
        make_opponent(**arguments)
