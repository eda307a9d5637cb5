"""Hand-made situations for the tests of Space Battle."""

from __future__ import annotations

import numpy as np

from mpi_ltcr.envs.space_battle_rules import Rules
from mpi_ltcr.envs.space_battle_world import World

CCW, CW, MOVE, FIRE = range(4)


def new_world(seed=0, games=1, **rules):
    """A world just begun."""
    world = World(rules=Rules(**rules), rngs=[np.random.default_rng([seed, game]) for game in range(games)])
    world.reset()
    return world


def scene(*ships, health=None, fuel=None, missiles=None, **rules):
    """One game with these ships (x, y, heading), team 0's first; the other numbers one for each ship, or full."""
    world = new_world(team_size=len(ships) // 2, **rules)
    state = world.state()
    for ship, (x, y, heading) in enumerate(ships):
        state["position"][:, 0, ship] = x, y
        state["heading"][0, ship] = heading
    for name, values in (("health", health), ("fuel", fuel), ("missiles", missiles)):
        if values is not None:
            state[name][0] = values
    world.load_state(state)
    return world


def play(world, *steps):
    """Carry out the steps, each the actions of all ships; returns the last outcome."""
    for actions in steps:
        outcome = world.step(np.array([actions]))
    return outcome


def random_actions(world, rng):
    return rng.integers(4, size=world.health.shape)


def busy_actions(world, rng):
    """More shooting, and turns that go around: less time at the walls than under random play, so more happens."""
    return rng.choice([CCW, CW, MOVE, FIRE], p=[0.25, 0.05, 0.3, 0.4], size=world.health.shape)


def count(world, ship, event):
    """How often this happened to the ship since the reset."""
    from mpi_ltcr.envs.space_battle_rules import EVENTS

    return int(world.tally[0, ship, EVENTS.index(event)])
