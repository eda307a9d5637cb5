"""Space Battle as others meet it: PettingZoo, Gymnasium, observations, infos and refusals."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import parallel_api_test, parallel_seed_test
from space_battle_scenes import CCW, FIRE, new_world, play, scene

from mpi_ltcr.envs.opponents import OPPONENTS, make_opponent
from mpi_ltcr.envs.space_battle import SpaceBattle, parallel_env
from mpi_ltcr.envs.space_battle_solo import ENV_ID, SpaceBattleSolo, register

FRAGILE = {"arena": 150.0, "health": 10}


# PettingZoo ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constants", [{}, {"team_size": 1}, {"team_size": 4}, {"team_size": 3, **FRAGILE}])
def test_pettingzoos_own_checks_pass(constants):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(parallel_env(**constants), num_cycles=300)
        parallel_seed_test(lambda: parallel_env(**constants), num_cycles=100)


def test_agents_are_named_by_team_and_each_has_its_own_spaces():
    env = parallel_env(team_size=2)
    assert env.possible_agents == ["team0_0", "team0_1", "team1_0", "team1_1"]
    assert env.max_num_agents == 4
    spaces = [env.action_space(agent) for agent in env.possible_agents]
    assert len({id(space) for space in spaces}) == 4
    assert all(space.n == 4 for space in spaces)
    assert env.observation_space("team1_0").shape == (18,)
    assert f"{env.state_cardinality():.2e}" == "2.19e+13"


def duel(env, actions):
    """Play the same actions until the end; yields what each step returned."""
    while env.agents:
        yield env.step({agent: actions[agent] for agent in env.agents})


def placed(**constants):
    """A team game in which team0_0 faces team1_0 (5 health points left) and team1_1 stands apart."""
    env = parallel_env(team_size=2, **constants)
    env.reset(seed=1)
    hand_made = scene((100, 100, 0), (20, 480, 10), (180, 100, 0), (480, 480, 0), health=[255, 255, 5, 255])
    env.world.load_state(hand_made.state())
    return env


def test_a_ship_that_dies_terminates_leaves_and_its_mates_reward_goes_on():
    env = placed()
    _, rewards, terminated, truncated, _ = env.step({"team0_0": 3, "team0_1": 0, "team1_0": 0, "team1_1": 0})
    assert rewards == {"team0_0": 5, "team0_1": 5, "team1_0": -5, "team1_1": -5}
    assert terminated == {"team0_0": False, "team0_1": False, "team1_0": True, "team1_1": False}
    assert not any(truncated.values())
    assert env.agents == ["team0_0", "team0_1", "team1_1"]
    observations, rewards, *_ = env.step({"team0_0": 0, "team0_1": 0, "team1_1": 0, "team1_0": 3})
    assert list(observations) == list(rewards) == ["team0_0", "team0_1", "team1_1"]


def test_the_end_of_a_team_terminates_all_and_the_infos_tell_the_result():
    env = placed()
    state = env.world.state()
    state["health"][0, 3] = 0
    env.world.load_state(state)
    env.agents.remove("team1_1")
    *_, terminated, truncated, infos = env.step({"team0_0": 3, "team0_1": 0, "team1_0": 0})
    assert terminated == {"team0_0": True, "team0_1": True, "team1_0": True}
    assert not any(truncated.values())
    assert env.agents == []
    assert [infos[agent]["result"] for agent in infos] == ["win", "win", "loss"]
    assert [infos[agent]["score"] for agent in infos] == [510, 510, -510]
    assert infos["team0_0"]["enemy_hits"] == infos["team1_0"]["hits_taken"] == infos["team0_0"]["fire"] == 1


def test_after_200_steps_everybody_is_truncated():
    env = parallel_env()
    env.reset(seed=0)
    steps = list(duel(env, dict.fromkeys(env.possible_agents, CCW)))
    assert len(steps) == 200
    *_, terminated, truncated, infos = steps[-1]
    assert not any(terminated.values())
    assert all(truncated.values())
    assert {info["result"] for info in infos.values()} == {"draw"}
    assert "result" not in steps[-2][-1]["team0_0"]


def test_only_a_seed_makes_the_generator_anew():
    env = parallel_env()
    first, _ = env.reset(seed=4)
    second, _ = env.reset()
    again, _ = env.reset(seed=4)
    after, _ = env.reset(options={"unused": 1})
    assert all((first[agent] == again[agent]).all() for agent in env.agents)
    assert all((second[agent] == after[agent]).all() for agent in env.agents)
    assert (first["team0_0"] != second["team0_0"]).any()
    before = env.np_random.bit_generator.state
    env.step(dict.fromkeys(env.agents, FIRE))
    assert env.np_random.bit_generator.state == before


def test_a_team_game_is_restored_exactly():
    env = parallel_env(**FRAGILE)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    while len(env.agents) != 3:  # one ship is dead
        env.step({agent: int(rng.integers(4)) for agent in env.agents})
        if not env.agents:
            env.reset()
    other = parallel_env(**FRAGILE)
    other.load_state(env.state())
    assert other.agents == env.agents
    for one, two in zip(
        duel(env, dict.fromkeys(env.possible_agents, 3)),
        duel(other, dict.fromkeys(env.possible_agents, 3)),
        strict=True,
    ):
        assert one[1:] == two[1:]
    assert (env.reset()[0]["team0_0"] == other.reset()[0]["team0_0"]).all()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"team0_0": 4}, "team0_0: action 4 is none of 0 ccw, 1 cw, 2 move, 3 fire"),
        ({"team1_1": -1}, "team1_1: action -1"),
        ({"team1_0": 1.0}, "team1_0: action 1.0"),
        ({"team1_0": None}, "team1_0: action None"),
        ({"team2_0": 0}, "no agent 'team2_0'; there are team0_0, team0_1, team1_0, team1_1"),
    ],
)
def test_wrong_actions_are_refused_by_the_agents_name(wrong, why):
    env = parallel_env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=why):
        env.step({**dict.fromkeys(env.agents, 0), **wrong})
    assert env.world.time[0] == 0


def test_a_missing_action_and_a_step_after_the_end_are_refused():
    env = parallel_env()
    with pytest.raises(RuntimeError, match="call reset"):
        env.step({})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="missing for team0_1, team1_1"):
        env.step({"team0_0": 0, "team1_0": 0})
    list(duel(env, dict.fromkeys(env.possible_agents, CCW)))
    with pytest.raises(RuntimeError, match="over or was never begun: call reset"):
        env.step(dict.fromkeys(env.possible_agents, 0))


@pytest.mark.parametrize("kind", [SpaceBattle, SpaceBattleSolo])
def test_wrong_arguments_are_refused(kind):
    with pytest.raises(ValueError, match="team_size must be an integer of at least 1, got 0"):
        kind(rules={"team_size": 0})
    with pytest.raises(ValueError, match="no rule 'teamsize'; it has team_size"):
        kind(rules={"teamsize": 2})
    with pytest.raises(ValueError, match="render_mode must be one of rgb_array or None, got 'human'"):
        kind(render_mode="human")


# Observations --------------------------------------------------------------------------------------------------------

BOARD = ((100, 100, 0), (200, 100, 5), (100, 300, 15), (400, 400, 10))


def test_an_observation_is_the_own_six_then_mates_then_enemies():
    world = scene(*BOARD, health=[51, 255, 0, 102], missiles=[7, 0, 100, 50], fuel=[10, 1000, 1000, 500])
    seen = world.observe()[0]
    mate = [200 / 500, 100 / 500, 0.0, 1]  # dead ahead
    dead = [0, 0, 0, 0]
    enemy = [400 / 500, 400 / 500, 0.25, 1]  # 45 degrees to the left
    np.testing.assert_allclose(seen[0], [0.2, 0.2, 0, 0.07, 0.01, 0.2, *mate, *dead, *enemy], atol=1e-6)
    # team 1's second ship: first its dead mate, then team 0, seen from (400, 400) heading to the left
    first = [0.2, 0.2, 0.25, 1]
    second = [0.4, 0.2, (math.atan2(-300, -200) / math.pi) % 2 - 1, 1]
    np.testing.assert_allclose(seen[3], [0.8, 0.8, 0.5, 0.5, 0.5, 0.4, *dead, *first, *second], atol=1e-6)
    assert seen.dtype == np.float32


def test_relative_theta_can_be_the_difference_of_headings():
    seen = scene(*BOARD, relative_theta="heading").observe()[0]
    assert seen[0, [8, 12, 16]].tolist() == [0.5, -0.5, -1.0]
    assert seen[3, [8, 12, 16]].tolist() == [0.5, -1.0, -0.5]
    bearing = scene(*BOARD).observe()[0]
    rest = [column for column in range(18) if column not in (8, 12, 16)]
    assert (seen[:, rest] == bearing[:, rest]).all()


def test_firing_at_zero_bearing_hits():
    for heading in range(20):
        angle = heading * math.pi / 10
        enemy = (250 + 150 * math.cos(angle), 250 + 150 * math.sin(angle), 3)
        world = scene((250, 250, heading), enemy)
        assert abs(world.observe()[0, 0, 8]) < 1e-6
        play(world, [FIRE, CCW], *[[CCW, CCW]] * 4)
        assert world.health[0, 1] == 250


@pytest.mark.parametrize("theta", ["bearing", "heading"])
def test_observations_always_lie_in_their_space(theta):
    env = parallel_env(team_size=3, relative_theta=theta, **FRAGILE)
    rng = np.random.default_rng(0)
    for seed in range(20):
        seen, _ = env.reset(seed=seed)
        while env.agents:
            assert all(env.observation_space(agent).contains(seen[agent]) for agent in seen)
            seen, *_ = env.step({agent: int(rng.integers(4)) for agent in env.agents})
    space = env.observation_space("team0_0")
    assert space.low.tolist() == [0] * 6 + [0, 0, -1, 0] * 5
    assert space.high.tolist() == [1] * 26


# Gymnasium -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constants", [{}, {"team_size": 1}, {"team_size": 4}])
def test_gymnasiums_own_check_passes(constants):
    register()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ENV_ID, rules=constants, render_mode="rgb_array").unwrapped)


def test_registering_twice_is_harmless():
    register()
    register()
    assert gymnasium.spec(ENV_ID).entry_point == "mpi_ltcr.envs.space_battle_solo:SpaceBattleSolo"


def test_the_solo_game_is_the_team_game_seen_by_one_ship():
    solo = SpaceBattleSolo(mates="scripted", enemies="stationary", rules={"team_size": 3})
    team = parallel_env(team_size=3)
    mates, enemies = make_opponent("scripted", rules=team.rules), make_opponent("stationary")
    for opponent in (mates, enemies):
        opponent.reset(np.random.default_rng(0))
    one, _ = solo.reset(seed=11)
    all_seen, _ = team.reset(seed=11)
    assert one.base is None  # a copy: what the learner does to it stays with the learner
    rng = np.random.default_rng(3)
    done = False
    while not done:
        assert (one == all_seen["team0_0"]).all()
        rows = np.zeros((6, 26), dtype=np.float32)
        for agent, seen in all_seen.items():
            rows[team.possible_agents.index(agent)] = seen
        actions = [int(rng.integers(4)), *mates.act(rows[1:3]).tolist(), *enemies.act(rows[3:]).tolist()]
        one, reward, terminated, truncated, info = solo.step(actions[0])
        all_seen, rewards, terminations, truncations, infos = team.step(
            {a: actions[team.possible_agents.index(a)] for a in team.agents}
        )
        assert reward == rewards["team0_0"]
        assert info == infos["team0_0"]
        assert (terminated, truncated) == (terminations["team0_0"], truncations["team0_0"])
        done = terminated or truncated
    assert info["result"] == "win"
    with pytest.raises(RuntimeError, match="call reset"):
        solo.step(0)


def test_a_solo_game_is_restored_exactly_opponents_included():
    def rest(env):
        """Returns of the rest of this game and of one more."""
        rewards = []
        for _ in range(2):
            done = False
            while not done:
                _, reward, terminated, truncated, _ = env.step(len(rewards) % 4)
                rewards.append(reward)
                done = terminated or truncated
            env.reset()
        return rewards, env.world.digest()

    env = SpaceBattleSolo(rules={"team_size": 2, **FRAGILE, "health": 100})
    env.reset(seed=5)
    for _ in range(7):
        env.step(FIRE)
    saved = env.state()
    expected = rest(env)
    other = SpaceBattleSolo(rules={"team_size": 2, **FRAGILE, "health": 100})
    other.load_state(saved)
    assert rest(other) == expected
    assert any(expected[0])


def test_a_solo_player_that_dies_terminates_though_its_mate_plays_on():
    env = SpaceBattleSolo(mates="stationary", enemies="stationary")
    env.reset(seed=0)
    hand_made = scene((100, 100, 0), (160, 100, 10), (300, 300, 0), (480, 480, 0), health=[5, 255, 255, 255])
    env.world.load_state(hand_made.state())
    env.world.health[0, 2] = 255
    env._mates = make_opponent("frozen", policies=lambda seen: FIRE)
    _, reward, terminated, truncated, info = env.step(CCW)
    assert (reward, terminated, truncated) == (-5.0, True, False)
    assert "result" not in info


def test_wrong_solo_arguments_are_refused():
    with pytest.raises(ValueError, match="unknown opponent 'scriptd'; there are random, scripted"):
        SpaceBattleSolo(enemies="scriptd")
    env = SpaceBattleSolo()
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="team0_0: action 9 is none of 0 ccw"):
        env.step(9)


def test_who_only_plays_solo_needs_neither_pettingzoo_nor_pillow():
    code = (
        "import sys; import mpi_ltcr.envs; from mpi_ltcr.envs.space_battle_solo import SpaceBattleSolo;"
        "SpaceBattleSolo().reset(seed=0); print('pettingzoo' in sys.modules, 'PIL' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


def test_the_reward_of_scripted_play_dwarfs_that_of_random_play():
    """reference.md 4.3: random play is noise of some 35 health points, aiming is worth more than 400."""
    returns = {}
    for name in ("random", "scripted"):
        world = new_world(games=60)
        teams = [make_opponent(who, rules=world.rules) for who in (name, "random")]
        for at, team in enumerate(teams):
            team.reset(np.random.default_rng(at))
        total, going = np.zeros(60), np.ones(60, dtype=bool)
        while going.any():
            seen = world.observe()
            rows = [team.act(seen[:, 2 * at : 2 * at + 2].reshape(120, -1)) for at, team in enumerate(teams)]
            outcome = world.step(np.concatenate([row.reshape(60, 2) for row in rows], axis=1))
            total += outcome.team_reward[:, 0] * going
            going &= ~outcome.over
            world.reset(np.flatnonzero(outcome.over))
        returns[name] = total
    assert abs(returns["random"].mean()) < 20
    assert 15 < returns["random"].std() < 60
    assert returns["scripted"].mean() > 380
    assert (returns["scripted"] > 0).all()


def test_the_table_of_opponents_is_what_the_reference_lists():
    assert set(OPPONENTS) == {"random", "scripted", "stationary", "frozen", "selfplay"}
