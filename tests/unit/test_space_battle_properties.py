"""What holds in every game of Space Battle, and the whole game against a slow second one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from space_battle_oracle import Oracle
from space_battle_scenes import CCW, FIRE, busy_actions, new_world, play, random_actions, scene

from mpi_ltcr.envs.space_battle_missiles import swept_hits
from mpi_ltcr.envs.space_battle_rules import ACTIONS, EVENTS, Rules
from mpi_ltcr.envs.space_battle_world import World

quick = settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**31)
CROWDED = {"arena": 200.0, "health": 60}
"""So many hits and rams that ships die, in every order."""


def event(outcome, name):
    return outcome.events[..., EVENTS.index(name)]


def run(world, rng, steps, choose=busy_actions):
    """Play on, yielding the world's health before each step and its outcome; begins ended games anew."""
    for _ in range(steps):
        before = world.health.copy()
        outcome = world.step(choose(world, rng))
        yield before, outcome
        if outcome.over.any():
            world.reset(np.flatnonzero(outcome.over))


# Against the second game ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "rules"),
    [
        (0, {"team_size": 2}),
        (1, {"team_size": 2, **CROWDED}),
        (2, {"team_size": 3, **CROWDED}),
        (3, {"team_size": 1, "arena": 120.0}),
        (4, {"team_size": 3, "friendly_fire": False, **CROWDED}),
        (5, {"team_size": 2, "headings": 7, "missiles": 5, "missile_speed": 90.0, **CROWDED}),
    ],
)
def test_whole_games_equal_those_of_a_slow_second_implementation(seed, rules):
    world, rng = new_world(seed=seed, **rules), np.random.default_rng(seed)
    oracle = Oracle(world)
    seen_hits = 0
    while not world.over[0]:
        actions = busy_actions(world, rng)
        outcome = world.step(actions)
        reward, hits, rams = oracle.step(actions[0].tolist())
        assert not oracle.ambiguous, "choose another seed: this game needs a finer grain"
        ships = np.arange(world.rules.ships)
        for name, value in (("health", "health"), ("heading", "k"), ("missiles", "missiles"), ("fuel", "fuel")):
            assert getattr(world, name)[0].tolist() == [ship[value] for ship in oracle.ships], name
        np.testing.assert_allclose(world.position[:, 0].T, [(s["x"], s["y"]) for s in oracle.ships], atol=1e-8)
        assert outcome.team_reward[0].tolist() == reward
        assert event(outcome, "hits_taken")[0].tolist() == [sum(v == s for _, v in hits) for s in ships]
        assert event(outcome, "rams")[0].tolist() == [sum(s in pair for pair in rams) for s in ships]
        fired = (event(outcome, "enemy_hits") + event(outcome, "friend_hits"))[0]
        assert fired.tolist() == [sum(owner == s for owner, _ in hits) for s in ships]
        flying = sorted(zip(*world.missile_position[:, world.missile_live].tolist(), strict=True))
        np.testing.assert_allclose(flying or [(0, 0)], sorted((x, y) for _, x, y, _ in oracle.flying) or [(0, 0)])
        seen_hits += len(hits)
    assert seen_hits > 4


@quick
@given(seeds)
def test_missiles_never_tunnel(seed):
    """The swept test against the flight cut into steps of 0.001, for flights that pass close by."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, size=40)
    unit = np.stack([np.cos(angle), np.sin(angle)])
    along, aside = rng.uniform(-30, 65, size=40), rng.uniform(-26, 26, size=40)
    apart = (along * unit + aside * np.stack([-unit[1], unit[0]]))[:, :, None]
    way = np.linspace(0, 35, 35_001)
    closest = np.hypot(apart[0] - way * unit[0][:, None], apart[1] - way * unit[1][:, None]).min(axis=1)
    clear = np.abs(closest - 24) > 1e-4  # nearer to the rim than that the small steps cannot tell
    hits = swept_hits(apart, unit, length=35.0, distance=24.0)[:, 0]
    assert (hits == (closest < 24))[clear].all()


def test_a_missile_faster_than_a_ship_is_wide_still_strikes_it():
    world = scene((20, 100, 0), (200, 100, 0), missile_speed=400.0)  # from 44 to 444
    play(world, [FIRE, CCW])
    assert world.health[0, 1] == 250


# What is conserved ---------------------------------------------------------------------------------------------------


@quick
@given(seeds, st.integers(1, 4), st.booleans())
def test_health_lost_is_five_a_hit_and_ten_a_ram(seed, team_size, crowded):
    world = new_world(seed=seed, team_size=team_size, games=3, **(CROWDED if crowded else {}))
    for before, outcome in run(world, np.random.default_rng(seed), 60):
        blows = 5 * event(outcome, "hits_taken") + 10 * event(outcome, "rams")
        assert (before - world.health == np.minimum(blows, before)).all()
        fired = event(outcome, "enemy_hits") + event(outcome, "friend_hits")
        assert (fired.sum(axis=1) == event(outcome, "hits_taken").sum(axis=1)).all()
        n = team_size
        assert (event(outcome, "rams")[:, :n].sum(axis=1) == event(outcome, "rams")[:, n:].sum(axis=1)).all()


def test_over_a_whole_game_without_deaths_the_balance_is_exact():
    world, rng = new_world(seed=8, team_size=3, arena=250.0, health=100_000), np.random.default_rng(8)
    while not world.over[0]:
        world.step(busy_actions(world, rng))
    hits, rams = (world.tally[0, :, EVENTS.index(name)] for name in ("hits_taken", "rams"))
    assert (100_000 - world.health[0]).tolist() == (5 * hits + 10 * rams).tolist()
    assert hits.sum() > 50
    assert rams.sum() > 10


@quick
@given(seeds, st.integers(1, 4))
def test_team_rewards_sum_to_zero_and_add_up_to_the_score(seed, team_size):
    world, rng = new_world(seed=seed, team_size=team_size, games=2, **CROWDED), np.random.default_rng(seed)
    total = np.zeros((2, 2), dtype=int)
    while not world.over.any():
        outcome = world.step(busy_actions(world, rng))
        assert (outcome.team_reward.sum(axis=1) == 0).all()
        total += outcome.team_reward
    assert (total == world.score()).all()
    team = world.health.reshape(2, 2, team_size).sum(axis=2)
    assert (world.score()[:, 0] == team[:, 0] - team[:, 1]).all()


@settings(quick, max_examples=15)
@given(seeds, st.integers(1, 4))
def test_everything_stays_in_the_arena_and_in_its_range(seed, team_size):
    world = new_world(seed=seed, team_size=team_size, games=4)
    for _, outcome in run(world, np.random.default_rng(seed), 100):
        assert 20 <= world.position.min() <= world.position.max() <= 480
        flying = world.missile_position[:, world.missile_live]
        assert ((flying >= 0) & (flying <= 500)).all()
        assert ((world.heading >= 0) & (world.heading < 20)).all()
        assert ((world.health >= 0) & (world.health <= 255)).all()
        assert (world.missiles == 100 - world.tally[..., EVENTS.index("shots")]).all()
        assert (world.tally[..., : len(ACTIONS)].sum(axis=2)[world.alive] == world.time[0]).all()
        assert (event(outcome, "shots") <= event(outcome, "fire")).all()
        assert (event(outcome, "refused") <= event(outcome, "move")).all()


# Order of agents, number of games, seeds -----------------------------------------------------------------------------


def relabelled(state, order):
    """The state with ship `order[i]` in place i; the order must keep the teams, or exchange them as a whole."""
    n = len(order) // 2
    swapped = order[0] >= n
    result = dict(state)
    for name in ("heading", "missiles", "fuel", "health", "missile_heading", "missile_live", "tally"):
        result[name] = state[name][:, order]
    for name in ("position", "missile_position"):
        result[name] = state[name][:, :, order]
    touching = state["touching"].swapaxes(1, 2) if swapped else state["touching"]
    rows, columns = np.array(order[:n]) % n, np.array(order[n:]) % n
    result["touching"] = touching[:, rows][:, :, columns]
    return result


@settings(quick, max_examples=12)
@given(seeds, st.data())
def test_the_order_of_agents_does_not_matter(seed, data):
    n = data.draw(st.integers(1, 4))
    teams = [data.draw(st.permutations(range(n))), data.draw(st.permutations(range(n, 2 * n)))]
    order = [ship for team in data.draw(st.permutations(teams)) for ship in team]
    rules = {"team_size": n, "missile_cancel": data.draw(st.booleans()), **CROWDED}
    one, other = new_world(seed=seed, **rules), new_world(seed=seed, **rules)
    other.load_state(relabelled(one.state(), order))
    rng = np.random.default_rng(seed)
    while not one.over[0]:
        actions = busy_actions(one, rng)
        here, there = one.step(actions), other.step(actions[:, order])
        assert (here.events[:, order] == there.events).all()
        assert (here.terminated[:, order] == there.terminated).all()
        assert (here.truncated[:, order] == there.truncated).all()
        expected, found = relabelled(one.state(), order), other.state()
        for name in found.keys() - {"rules", "rngs"}:
            assert (expected[name] == found[name]).all(), name
    own = one.observe()[:, order, :6]
    assert (own == other.observe()[..., :6]).all()


def test_games_side_by_side_are_single_games_bit_for_bit():
    rules = Rules(team_size=2, **CROWDED)
    together = World(rules=rules, rngs=[np.random.default_rng([7, game]) for game in range(9)])
    alone = [World(rules=rules, rngs=[np.random.default_rng([7, game])]) for game in range(9)]
    for world in (together, *alone):
        world.reset()
    rng = np.random.default_rng(7)
    ended = 0
    for _ in range(210):
        actions = busy_actions(together, rng)
        outcome, seen = together.step(actions), together.observe()
        for game, world in enumerate(alone):
            single = world.step(actions[game : game + 1])
            for name in ("team_reward", "terminated", "truncated", "over", "events"):
                assert (getattr(single, name)[0] == getattr(outcome, name)[game]).all()
            assert world.observe()[0].tobytes() == seen[game].tobytes()
            assert world.position[:, 0].tobytes() == together.position[:, game].tobytes()
            assert world.missile_position[:, 0].tobytes() == together.missile_position[:, game].tobytes()
            if single.over[0]:
                world.reset()
                ended += 1
        together.reset(np.flatnonzero(outcome.over))
    assert ended > 9


def test_the_same_seed_is_the_same_game_and_another_seed_another():
    def digests(seed):
        world = new_world(seed=seed, games=2)
        return [world.digest() for _ in run(world, np.random.default_rng(1), 230, random_actions)]

    assert digests(3) == digests(3)
    assert digests(3)[0] != digests(4)[0]


# Saving --------------------------------------------------------------------------------------------------------------


@settings(quick, max_examples=8)
@given(seeds, st.integers(0, 230))
def test_a_restored_world_goes_on_exactly_as_the_other_does(seed, steps):
    world = new_world(seed=seed, games=2, **CROWDED)
    for _ in run(world, np.random.default_rng(seed), steps):
        pass
    saved = world.state()
    other = World(rules=world.rules, rngs=[np.random.default_rng(0), np.random.default_rng(0)])
    other.load_state(saved)
    assert other.digest() == world.digest()
    rngs = np.random.default_rng(5), np.random.default_rng(5)
    for (_, here), (_, there) in zip(run(world, rngs[0], 120), run(other, rngs[1], 120), strict=True):
        assert (here.events == there.events).all()
    assert other.digest() == world.digest()


def test_a_state_holds_nothing_but_arrays_numbers_and_strings_and_is_a_copy():
    world = new_world()
    saved = world.state()
    kinds = (np.ndarray, int, float, str, bool)

    def leaves(tree):
        for name, value in tree.items():
            assert isinstance(name, str)
            yield from leaves(value) if isinstance(value, dict) else [value]

    assert all(isinstance(leaf, kinds) for leaf in leaves(saved))
    before = saved["position"].copy()
    for _ in range(30):
        world.step(np.full((1, 4), 2))
    assert (saved["position"] == before).all()
    assert (world.position != before).any()


def test_a_state_of_another_game_is_refused_by_name():
    world = new_world()
    with pytest.raises(ValueError, match="rule team_size = 3, this game has 2"):
        world.load_state(new_world(team_size=3).state())
    with pytest.raises(ValueError, match=r"rule friendly_fire = False, this game has True"):
        world.load_state(new_world(friendly_fire=False).state())
    with pytest.raises(ValueError, match=r"time has shape \(2,\), this world needs \(1,\)"):
        world.load_state(new_world(games=2).state())
    with pytest.raises(ValueError, match="it lacks position, rngs"):
        world.load_state({name: value for name, value in world.state().items() if name not in ("position", "rngs")})


def test_the_digest_notices_every_part_of_the_state():
    world = new_world(seed=3)
    play(world, [FIRE] * 4)
    saved = world.state()
    digests = [world.digest()]
    fields = [name for name, value in saved.items() if isinstance(value, np.ndarray)]
    for name in fields:
        changed = {**saved, name: saved[name].copy()}
        flat = changed[name].reshape(-1)
        flat[-1] = ~flat[-1] if flat.dtype == bool else np.nextafter(flat[-1], 600) if flat.dtype == float else 7
        world.load_state(changed)
        digests.append(world.digest())
    world.load_state(saved)
    assert world.digest() == digests[0]
    world.rngs[0].random()
    digests.append(world.digest())
    assert len(fields) == 12
    assert len(set(digests)) == len(fields) + 2
    assert max(digests) < 2**64


def test_the_digest_is_the_same_in_another_process():
    code = (
        "import numpy as np; from mpi_ltcr.envs.space_battle_world import World;"
        "from mpi_ltcr.envs.space_battle_rules import Rules;"
        "w = World(rules=Rules(), rngs=[np.random.default_rng(1)]); w.reset();"
        "[w.step(np.array([[3, 2, 3, 2]])) for _ in range(9)]; print(w.digest())"
    )
    printed = {subprocess.check_output([sys.executable, "-c", code]) for _ in range(2)}
    assert len(printed) == 1
    assert int(printed.pop()) > 0
