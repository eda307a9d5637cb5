"""The dynamics of Space Battle, scene by scene."""

from __future__ import annotations

import math

import numpy as np
import pytest
from space_battle_scenes import CCW, CW, FIRE, MOVE, count, new_world, play, scene

from mpi_ltcr.envs.space_battle_rules import Rules, rules_from
from mpi_ltcr.envs.space_battle_world import World

FAR = (20.0, 480.0, 10)  # a corner, looking away from the middle
OTHER = (480.0, 480.0, 0)


# Rules ---------------------------------------------------------------------------------------------------------------


def test_the_number_of_states_is_the_papers_to_three_digits():
    assert f"{Rules().state_cardinality():.2e}" == "2.19e+13"
    assert Rules().state_cardinality() == 460 * 460 * 20 * 101 * 201 * 255
    assert f"{Rules(missiles=1000).state_cardinality():.2e}" != "2.19e+13"


def test_the_default_constants_are_those_of_the_reference():
    rules = Rules()
    assert (rules.arena, rules.ship_radius, rules.headings, rules.move) == (500, 20, 20, 25)
    assert (rules.missile_speed, rules.missile_radius, rules.missiles) == (35, 4, 100)
    assert (rules.health, rules.missile_damage, rules.ram_damage) == (255, 5, 10)
    assert (rules.fuel, rules.fuel_per_step, rules.steps) == (1000, 5, 200)
    assert rules.friendly_fire
    assert not rules.missile_cancel


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"team_size": 0}, "team_size must be an integer of at least 1, got 0"),
        ({"team_size": -1}, "team_size"),
        ({"team_size": 2.0}, "team_size"),
        ({"team_size": True}, "team_size"),
        ({"arena": float("nan")}, "arena"),
        ({"arena": 60.0}, "four ship radii"),
        ({"missile_speed": 0.0}, "missile_speed"),
        ({"move": -1.0}, "move"),
        ({"missiles": -1}, "missiles"),
        ({"fuel_per_step": 0}, "fuel_per_step"),
        ({"relative_theta": "angle"}, "relative_theta must be one of bearing, heading, got 'angle'"),
        ({"spawn": "left"}, "spawn must be one of uniform, halves"),
        ({"friendly_fire": "no"}, "friendly_fire must be True or False"),
        ({"team_sise": 2}, "no rule 'team_sise'; it has team_size"),
    ],
)
def test_a_game_that_cannot_be_played_is_refused_by_name(wrong, named):
    with pytest.raises(ValueError, match=named) as refusal:
        rules_from(wrong)
    assert "\n" not in str(refusal.value)


def test_directions_are_unit_vectors_and_a_quarter_turn_is_exact():
    unit = Rules().directions()
    angles = np.arange(20) * math.pi / 10
    np.testing.assert_allclose(unit, [np.cos(angles), np.sin(angles)], atol=1e-12)
    assert unit[:, [0, 5, 10, 15]].T.tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1]]


def test_the_learner_counts_one_hit_as_one():
    spec = Rules(team_size=3).env_spec()
    assert spec.obs_shape == (6 + 4 * 5,)
    assert (spec.num_actions, spec.reward_scale * 5) == (4, 1.0)


# Beginning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("team_size", [1, 2, 4, 12])
def test_ships_begin_apart_inside_the_arena_and_fully_stocked(team_size):
    world = new_world(games=30, team_size=team_size)
    x, y = world.position
    apart = np.hypot(x[:, :, None] - x[:, None], y[:, :, None] - y[:, None])
    assert apart[:, ~np.eye(2 * team_size, dtype=bool)].min() > 40
    assert world.position.min() >= 20
    assert world.position.max() <= 480
    assert x.max() - x.min() > 0.8 * 460
    assert set(np.unique(world.heading)) <= set(range(20))
    assert (world.health == 255).all()
    assert (world.missiles == 100).all()
    assert (world.fuel == 1000).all()


def test_halves_keep_the_teams_on_their_sides():
    world = new_world(games=40, team_size=3, spawn="halves")
    assert world.position[0, :, :3].max() <= 250 <= world.position[0, :, 3:].min()
    assert world.position[0, :, 3:].max() <= 480
    uniform = new_world(games=40, team_size=3)
    assert uniform.position[0, :, :3].max() > 400


def test_more_ships_than_find_a_place_are_refused():
    with pytest.raises(ValueError, match=r"no place for ship \d+ of 400: take a smaller team_size"):
        new_world(team_size=200)


def test_some_games_can_begin_anew_while_others_go_on():
    world = new_world(games=3)
    world.step(np.full((3, 4), FIRE))
    before = world.state()
    world.reset([1])
    assert world.time.tolist() == [1, 0, 1]
    assert (world.position[:, [0, 2]] == before["position"][:, [0, 2]]).all()
    assert (world.position[:, 1] != before["position"][:, 1]).all()
    assert world.missile_live[[0, 2]].sum() == before["missile_live"][[0, 2]].sum() > 0
    assert not world.missile_live[1].any()
    assert not world.tally[1].any()


# Moving --------------------------------------------------------------------------------------------------------------


def test_a_turn_is_a_twentieth_and_wraps_around():
    world = scene((100, 100, 19), (300, 300, 0))
    play(world, [CCW, CW])
    assert world.heading.tolist() == [[0, 19]]


def test_a_move_goes_25_along_the_heading():
    world = scene((100, 100, 1), (300, 300, 5))
    play(world, [MOVE, MOVE])
    expected = [100 + 25 * math.cos(math.pi / 10), 100 + 25 * math.sin(math.pi / 10)]
    np.testing.assert_allclose(world.position[:, 0, 0], expected, atol=1e-9)
    assert world.position[:, 0, 1].tolist() == [300, 325]


@pytest.mark.parametrize(
    ("ship", "moved_to"),
    [
        ((455.0, 100, 0), [480, 100]),
        ((455.1, 100, 0), None),
        ((45.0, 100, 10), [20, 100]),
        ((44.9, 100, 10), None),
        ((100, 455.0, 5), [100, 480]),
        ((100, 456.0, 5), None),
        ((100, 44.0, 15), None),
    ],
)
def test_a_move_out_of_the_arena_is_refused_not_shortened(ship, moved_to):
    world = scene(ship, (300, 300, 0))
    play(world, [MOVE, CCW])
    assert world.position[:, 0, 0].tolist() == (moved_to or list(ship[:2]))
    assert count(world, 0, "refused") == (moved_to is None)
    assert count(world, 0, "move") == 1


def test_without_fuel_a_ship_turns_and_fires_but_does_not_move():
    world = scene((100, 100, 0), (300, 300, 0), fuel=[0, 1000])
    play(world, [MOVE, MOVE], [CCW, CCW], [FIRE, CCW])
    assert world.position[:, 0].T.tolist() == [[100, 100], [325, 300]]
    assert world.heading[0].tolist() == [1, 2]
    assert world.missiles[0, 0] == 99
    assert world.fuel[0].tolist() == [0, 985]


def test_fuel_lasts_exactly_200_steps_and_then_time_is_up():
    world = new_world()
    for step in range(200):
        assert not world.over[0]
        outcome = world.step(np.full((1, 4), CCW))
        assert world.fuel.max() == 1000 - 5 * (step + 1)
        assert outcome.truncated.all() == outcome.over.all() == (step == 199)
    assert not outcome.terminated.any()
    with pytest.raises(RuntimeError, match=r"game 0 is over .* call reset"):
        world.step(np.full((1, 4), CCW))


# Missiles ------------------------------------------------------------------------------------------------------------


def test_a_missile_starts_24_ahead_and_flies_35_in_each_step():
    world = scene((100, 100, 0), FAR)
    play(world, [FIRE, CCW])
    for flown in (1, 2, 3):
        assert world.missile_position[:, world.missile_live].T.tolist() == [[124 + 35 * flown, 100]]
        play(world, [CCW, CCW])  # turning changes nothing for what is in the air
    assert world.missiles[0].tolist() == [99, 100]


def test_an_empty_ship_fires_nothing():
    world = scene((100, 100, 0), (200, 100, 0), missiles=[1, 100])
    play(world, [FIRE, CCW], [FIRE, CCW])
    assert count(world, 0, "shots") == 1
    assert count(world, 0, "fire") == 2
    assert world.missiles[0, 0] == 0


def test_a_missile_leaves_the_game_with_the_arena():
    world = scene((400, 100, 0), FAR)
    play(world, [FIRE, CCW], [CCW, CCW])
    assert world.missile_live.sum() == 1  # at 494
    play(world, [CCW, CCW])
    assert world.missile_live.sum() == 0


def test_a_hit_costs_five_and_pays_the_other_team_five():
    world = scene((100, 100, 0), (180, 100, 0))
    outcome = play(world, [FIRE, CCW])
    assert world.health[0].tolist() == [255, 250]
    assert outcome.team_reward.tolist() == [[5, -5]]
    assert not world.missile_live.any()
    assert (count(world, 0, "enemy_hits"), count(world, 1, "hits_taken")) == (1, 1)


@pytest.mark.parametrize(("aside", "hits"), [(23.99, 1), (24.0, 0), (24.01, 0)])
def test_a_missile_strikes_what_it_passes_closer_than_24(aside, hits):
    world = scene((100, 100, 0), (141.5, 100 + aside, 0))  # half-way along its first flight, and then behind it
    play(world, [FIRE, CCW], [CCW, CCW])
    assert count(world, 1, "hits_taken") == hits


def test_only_the_first_ship_in_the_line_is_struck():
    world = scene((100, 100, 0), (100, 300, 0), (185, 105, 0), (150, 100, 0))
    play(world, [FIRE, CCW, CCW, CCW])
    assert world.health[0].tolist() == [255, 255, 255, 250]


def test_point_blank_where_a_flight_begins_inside_two_ships_the_nearer_is_struck():
    for mate, enemy, struck in ((115, 130, 2), (120, 135, 1)):  # the muzzle is at 124
        world = scene((100, 100, 0), (mate, 100, 0), (enemy, 100, 0), FAR)
        play(world, [FIRE, CCW, CCW, CCW])
        assert [ship for ship in range(4) if count(world, ship, "hits_taken")] == [struck]


def test_a_tie_goes_to_the_enemy_and_between_mates_never_by_index():
    shooter, above, below = (100, 100, 0), (150, 110, 0), (150, 90, 0)
    for first, second, struck in ((above, below, 3), (below, above, 2)):  # the lower y, whoever that is
        world = scene(shooter, FAR, first, second)
        play(world, [FIRE, CCW, CCW, CCW])
        assert [ship for ship in range(4) if count(world, ship, "hits_taken")] == [struck]
    world = scene(shooter, below, above, FAR)
    play(world, [FIRE, CCW, CCW, CCW])
    assert [ship for ship in range(4) if count(world, ship, "hits_taken")] == [2]


def test_friendly_fire_strikes_mates_and_can_be_switched_off():
    ships = (100, 100, 0), (160, 100, 0), FAR, OTHER
    world = scene(*ships)
    outcome = play(world, [FIRE, CCW, CCW, CCW])
    assert world.health[0].tolist() == [255, 250, 255, 255]
    assert outcome.team_reward.tolist() == [[-5, 5]]
    assert count(world, 0, "friend_hits") == 1
    spared = scene(*ships, friendly_fire=False)
    play(spared, [FIRE, CCW, CCW, CCW])
    assert spared.health.min() == 255
    assert spared.missile_live.sum() == 1


def test_no_ship_ever_strikes_itself():
    for heading in range(20):
        for x in np.random.default_rng(heading).uniform(200, 300, size=5):
            world = scene((x, 500 - x, heading), FAR)
            play(world, [FIRE, CCW], [MOVE, CCW], [MOVE, CCW])
            assert count(world, 0, "hits_taken") == 0


def test_a_missile_outlives_its_ship():
    world = scene((100, 100, 0), (480, 20, 0), (300, 100, 0), (100, 200, 15), health=[5, 255, 255, 255])
    play(world, [FIRE, CCW, CCW, FIRE], [CCW] * 4)
    assert world.health[0].tolist() == [0, 255, 255, 255]
    play(world, [CCW] * 4, [CCW] * 4, [CCW] * 4)
    assert world.health[0].tolist() == [0, 255, 250, 255]
    assert count(world, 0, "enemy_hits") == 1


def test_the_dead_stop_no_missiles_and_do_nothing():
    ships = (100, 100, 0), FAR, (150, 100, 0), (200, 100, 0)
    world = scene(*ships, health=[255, 255, 0, 255])
    outcome = play(world, [FIRE, CCW, FIRE, CCW], [CCW, CCW, MOVE, CCW])
    assert world.health[0].tolist() == [255, 255, 0, 250]
    assert world.position[:, 0, 2].tolist() == [150, 100]
    assert world.missiles[0, 2] == 100
    assert world.fuel[0].tolist() == [990, 990, 1000, 990]
    assert not outcome.terminated.any()
    assert not world.tally[0, 2].any()


def test_as_many_missiles_as_can_be_in_the_air_are_all_kept():
    rules = {"headings": 8, "ship_radius": 1.0, "missile_radius": 1.0, "missiles": 60}
    world = scene((1, 1, 1), (1, 499, 4), **rules)  # along the diagonal, the longest way there is
    step = math.sqrt(0.5)
    for shot in range(1, 60):
        play(world, [FIRE, CCW])
        flown = 35.0 * np.arange(1, shot + 1) + 2
        expected = 1 + step * flown[1 + step * flown <= 500]
        x, y = world.missile_position[:, world.missile_live]
        np.testing.assert_allclose(np.sort(x), expected, atol=1e-8)
        np.testing.assert_allclose(np.sort(y), expected, atol=1e-8)
    assert world.missile_live.sum() == world.rules.missile_slots - 1


def test_missiles_pass_each_other_unless_the_rule_says_otherwise():
    ships = (100, 100, 0), (305, 103, 10)
    world = scene(*ships)
    play(world, [FIRE, FIRE], *[[CCW, CCW]] * 4)
    assert world.health[0].tolist() == [250, 250]
    world = scene(*ships, missile_cancel=True)
    play(world, [FIRE, FIRE])
    assert world.missile_live.sum() == 2
    play(world, *[[CCW, CCW]] * 4)
    assert world.missile_live.sum() == 0
    assert world.health[0].tolist() == [255, 255]


def test_cancelled_missiles_belong_to_one_game_and_need_to_come_within_eight():
    for gap, left in ((7.9, 0), (8.1, 2)):
        world = scene((100, 100, 0), (305, 100 + gap, 10), missile_cancel=True)
        play(world, [FIRE, FIRE], [CCW, CCW], [CCW, CCW])
        assert world.missile_live.sum() == left
        assert world.health.min() == 255
    world = new_world(games=2, team_size=1, missile_cancel=True)
    state = world.state()
    state["position"][0] = [[100, 480], [305, 480]]  # the same two shooters, but not in the same game
    state["position"][1] = [[100, 480], [100, 480]]
    state["heading"][:, 0] = [0, 10]
    world.load_state(state)
    for action in (FIRE, CCW, CCW):
        world.step(np.array([[action, CCW]] * 2))
    assert world.missile_live.sum() == 2


# Ramming -------------------------------------------------------------------------------------------------------------


def test_ramming_costs_both_ten_once_per_contact():
    world = scene((100, 100, 0), (160, 100, 10))
    outcome = play(world, [MOVE, CCW])  # 35 apart
    assert world.health[0].tolist() == [245, 245]
    assert outcome.team_reward.tolist() == [[0, 0]]
    play(world, [MOVE, CCW], *[[CCW, CW]] * 20, [MOVE, CCW])  # 10 apart, then 15: still the same contact
    assert world.health[0].tolist() == [245, 245]


def test_a_new_contact_after_parting_counts_again():
    world = scene((100, 100, 0), (160, 100, 5))
    for rams, steps in ((1, [[MOVE, CCW]]), (1, [[CCW, CCW]] * 10), (1, [[MOVE, CCW]]), (1, [[CCW, CCW]] * 10)):
        play(world, *steps)
        assert count(world, 0, "rams") == count(world, 1, "rams") == rams
    play(world, [MOVE, CCW])
    assert count(world, 0, "rams") == count(world, 1, "rams") == 2
    assert world.health[0].tolist() == [235, 235]


@pytest.mark.parametrize(("distance", "rams"), [(64.99, 1), (65.0, 0)])
def test_contact_is_closer_than_40(distance, rams):
    world = scene((100, 100, 0), (100 + distance, 100, 5))
    play(world, [MOVE, CCW])
    assert count(world, 0, "rams") == rams


def test_mates_pass_through_each_other_unharmed():
    world = scene((100, 100, 0), (160, 100, 10), FAR, OTHER)
    play(world, *[[MOVE, MOVE, CCW, CCW]] * 4)
    assert world.health.min() == 255


def test_one_ship_can_ram_two_and_the_dead_ram_nobody():
    ships = (200, 100, 0), FAR, (250, 115, 0), (250, 85, 0)
    world = scene(*ships)
    play(world, [MOVE, CCW, CCW, CCW])
    assert world.health[0].tolist() == [235, 255, 245, 245]
    world = scene(*ships, health=[255, 255, 0, 255])
    play(world, [MOVE, CCW, CCW, CCW])
    assert world.health[0].tolist() == [245, 255, 0, 245]


# Damage and ends -----------------------------------------------------------------------------------------------------


def test_two_ships_can_kill_each_other_in_one_step():
    world = scene((100, 100, 0), (170, 100, 10), health=[5, 5])
    outcome = play(world, [FIRE, FIRE])
    assert world.health[0].tolist() == [0, 0]
    assert outcome.terminated.tolist() == [[True, True]]
    assert outcome.team_reward.tolist() == [[0, 0]]
    assert outcome.over.tolist() == [True]


def test_all_blows_of_a_step_count_and_health_stops_at_zero():
    # A missile (5) and a contact (10) in the same step: 15 together, of which 12 are left to lose.
    world = scene((100, 100, 0), (160, 180, 15), (160, 100, 5), OTHER, health=[255, 255, 12, 255])
    outcome = play(world, [MOVE, FIRE, CCW, CCW])
    assert world.health[0].tolist() == [245, 255, 0, 255]
    assert outcome.team_reward.tolist() == [[12 - 10, 10 - 12]]
    assert outcome.terminated[0].tolist() == [False, False, True, False]


def test_a_dead_ship_terminates_once_and_its_team_plays_on():
    world = scene((100, 100, 0), FAR, (180, 100, 0), OTHER, health=[255, 255, 5, 255])
    outcome = play(world, [FIRE, CCW, CCW, CCW])
    assert outcome.terminated[0].tolist() == [False, False, True, False]
    assert not outcome.over[0]
    outcome = play(world, [CCW, CCW, CCW, CCW])
    assert not outcome.terminated.any()


def test_when_a_team_is_dead_everybody_alive_terminates():
    world = scene((100, 100, 0), FAR, (180, 100, 0), OTHER, health=[255, 255, 5, 0])
    outcome = play(world, [FIRE, CCW, CCW, CCW])
    assert outcome.terminated[0].tolist() == [True, True, True, False]
    assert not outcome.truncated.any()
    assert outcome.over[0]


def test_a_death_in_the_last_step_is_a_termination_and_the_others_are_truncated():
    world = scene((100, 100, 0), FAR, (180, 100, 0), OTHER, health=[255, 255, 5, 255])
    state = world.state()
    state["time"][:] = 199
    world.load_state(state)
    outcome = play(world, [FIRE, CCW, CCW, CCW])
    assert outcome.terminated[0].tolist() == [False, False, True, False]
    assert outcome.truncated[0].tolist() == [True, True, False, True]


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "why"),
    [
        ([[0, 4, 0, 0]], "ship 1 of game 0: action 4 is none of 0 ccw, 1 cw, 2 move, 3 fire"),
        ([[0, 0, 0, -1]], "ship 3 of game 0: action -1"),
        ([0, 0, 0, 0], r"shape \(1, 4\)"),
        ([[0, 0, 0]], r"shape \(1, 4\)"),
        ([[0.0, 1.0, 2.0, 3.0]], "integers"),
        ([[True, False, True, False]], "integers"),
    ],
)
def test_actions_outside_the_space_are_refused_and_change_nothing(actions, why):
    world = new_world()
    before = world.digest()
    with pytest.raises(ValueError, match=why):
        world.step(np.array(actions))
    assert world.digest() == before


def test_what_a_dead_ship_is_told_does_not_matter():
    world = scene((100, 100, 0), FAR, (180, 100, 0), OTHER, health=[255, 0, 255, 255])
    play(world, [CCW, 77, CCW, CCW], [CCW, -1, CCW, CCW])
    assert world.time[0] == 2


def test_a_world_that_was_never_begun_is_refused():
    world = World(rules=Rules(), rngs=[np.random.default_rng(0)])
    with pytest.raises(RuntimeError, match="call reset"):
        world.step(np.zeros((1, 4), int))
    with pytest.raises(ValueError, match="at least one game"):
        World(rules=Rules(), rngs=[])
