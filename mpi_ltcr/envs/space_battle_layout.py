"""What the state of a Space Battle consists of, and where its ships begin.

B games of S ships with K missiles in the air each, n ships per team, E kinds of events: see space_battle_world.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpi_ltcr.envs.space_battle_rules import EVENTS, Rules
from mpi_ltcr.interfaces import State

PLACING_TRIES = 10_000
"""Positions drawn for one ship at most: a crowded arena is refused, not searched for ever."""

STOCKS = ("heading", "missiles", "fuel", "health")
"""Fields (B, S) that a ship sees of itself, in the order in which it sees them."""


def layout(rules: Rules, games: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each field of the state. Little-endian, so that a digest means the same everywhere."""
    ships, slots, n = rules.ships, rules.missile_slots, rules.team_size
    return {
        "time": ((games,), "<i8"),
        "over": ((games,), "|b1"),
        "position": ((2, games, ships), "<f8"),
        "heading": ((games, ships), "<i8"),
        "missiles": ((games, ships), "<i8"),
        "fuel": ((games, ships), "<i8"),
        "health": ((games, ships), "<i8"),
        "touching": ((games, n, n), "|b1"),
        "missile_position": ((2, games, ships, slots), "<f8"),
        "missile_heading": ((games, ships, slots), "<i8"),
        "missile_live": ((games, ships, slots), "|b1"),
        "tally": ((games, ships, len(EVENTS)), "<i8"),
    }


def part(name: str, game: int) -> tuple[slice | int, ...]:
    """The index of what belongs to one game in the field of this name."""
    return (slice(None), game) if name in ("position", "missile_position") else (game,)


def place(rules: Rules, rng: np.random.Generator) -> np.ndarray:
    """Positions (2, S) no two of which touch: each ship in turn is drawn anew until it finds a place.

    In plain Python: for a handful of ships that is several times faster than arrays of two numbers.
    """
    low, side = rules.ship_radius, rules.arena - 2 * rules.ship_radius
    placed: list[tuple[float, float]] = []
    for ship in range(rules.ships):
        left, width = low, side
        if rules.spawn == "halves":
            left, width = (low if ship < rules.team_size else rules.arena / 2), side / 2
        for _ in range(PLACING_TRIES):
            across, up = rng.random(2).tolist()
            x, y = left + width * across, low + side * up
            if all((x - a) ** 2 + (y - b) ** 2 > rules.contact_distance**2 for a, b in placed):
                placed.append((x, y))
                break
        else:
            raise ValueError(f"no place for ship {ship + 1} of {rules.ships}: take a smaller team_size")
    return np.array(placed).T


def check_saved(rules: Rules, fields: Mapping[str, tuple[tuple[int, ...], str]], state: State) -> None:
    """Raise ValueError, naming what differs, for a state of another game or size than these."""
    missing = {*fields, "rules", "rngs"} - state.keys()
    if missing:
        raise ValueError(f"this is no state of a Space Battle: it lacks {', '.join(sorted(missing))}")
    for name, value in rules.as_dict().items():
        saved = state["rules"].get(name)
        if saved != value:
            raise ValueError(f"the state was saved under the rule {name} = {saved!r}, this game has {value!r}")
    for name, (shape, _) in fields.items():
        if np.shape(state[name]) != shape:
            raise ValueError(f"the state's {name} has shape {np.shape(state[name])}, this world needs {shape}")
