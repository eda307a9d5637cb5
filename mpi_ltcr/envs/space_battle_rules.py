"""The rules of Space Battle: every constant with its source, and the names of what is counted.

The game is that of aspk/space_battle (2018), the environment which LTCR section 5.1 evidently means; only facts of
it are used here, no code. `env 41` below is line 41 of its battle_env.py, `aws 104` line 104 of its
battle_env_aws.py, `spec` is reference.md 4.4. Lengths are in arena units, times in steps, health in health points.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mpi_ltcr.interfaces import EnvSpec

ACTIONS = ("ccw", "cw", "move", "fire")
"""aws 176-208. Their fifth action, hold, is left out (spec)."""
CCW, CW, MOVE, FIRE = range(4)
IDLE = 4
"""What a dead ship does, whatever it was told."""

EVENTS = (*ACTIONS, "shots", "refused", "enemy_hits", "friend_hits", "hits_taken", "rams")
"""What is counted of each ship in each step: its action, then

shots        missiles launched (a `fire` without a missile left is none)
refused      moves that would have left the arena or found no fuel
enemy_hits   its missiles that struck an enemy
friend_hits  its missiles that struck a team mate
hits_taken   missiles that struck it, whoever fired them
rams         enemies it came into contact with
"""
SHOTS, REFUSED, ENEMY_HITS, FRIEND_HITS, HITS_TAKEN, RAMS = range(4, 10)

ACTION_EVENTS = np.eye(IDLE + 1, len(EVENTS), dtype=np.int64)
"""What each action counts as; idling as nothing."""
ACTION_EVENTS[IDLE] = 0
TURN = np.zeros(IDLE + 1, dtype=np.int64)
"""By how many headings each action turns."""
TURN[CCW], TURN[CW] = 1, -1

OWN_FEATURES = 6
"""The paper's 6-tuple: x, y, theta, missiles, fuel, health."""
OTHER_FEATURES = 4
"""Of each other ship: x, y, relative theta, alive."""

READINGS_OF_THETA = ("bearing", "heading")
SPAWNS = ("uniform", "halves")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The constants of a game. Raises ValueError, naming the field, for a game that cannot be played."""

    team_size: int = 2  # ships per team; LTCR Table 2 plays 2, 3 and 4
    arena: float = 500.0  # side of the square; env 38-39
    ship_radius: float = 20.0  # env 44
    headings: int = 20  # one turn is 2 pi / 20 = pi / 10; env 41
    move: float = 25.0  # length of one move; env 42
    missile_speed: float = 35.0  # length a missile flies in one step; env 43
    missile_radius: float = 4.0  # env 45
    missiles: int = 100  # stock; 1000 in aws 104, but 100 gives the paper's 2.19e13 states (reference 4.2)
    health: int = 255  # env 47
    missile_damage: int = 5  # env 49
    ram_damage: int = 10  # for each of the two ships; env 50
    fuel: int = 1000  # env 48
    fuel_per_step: int = 5  # env 51; unused there, so that games never ended
    friendly_fire: bool = True  # missiles strike mates too; aws 213-257
    missile_cancel: bool = False  # missiles that meet in the air destroy each other; aws 213-257, off in spec
    relative_theta: str = "bearing"  # or "heading": two readings of LTCR's "relative theta"; spec
    spawn: str = "uniform"  # or "halves": team 0 on the left, team 1 on the right; spec

    def __post_init__(self) -> None:
        for name in ("team_size", "headings", "health", "fuel", "fuel_per_step"):
            _need(name, getattr(self, name), "an integer of at least 1", least=1, whole=True)
        for name in ("missiles", "missile_damage", "ram_damage"):
            _need(name, getattr(self, name), "an integer of at least 0", least=0, whole=True)
        for name in ("arena", "ship_radius", "missile_radius", "missile_speed"):
            _need(name, getattr(self, name), "a finite number above 0", least=1e-6)
        _need("move", self.move, "a finite number of at least 0", least=0.0)
        for name in ("friendly_fire", "missile_cancel"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name, choices in (("relative_theta", READINGS_OF_THETA), ("spawn", SPAWNS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.arena < 4 * self.ship_radius:
            raise ValueError(f"arena must be at least four ship radii ({4 * self.ship_radius:g}), got {self.arena:g}")

    @functools.cached_property
    def ships(self) -> int:
        """S: ships in one game, team 0's first."""
        return 2 * self.team_size

    @functools.cached_property
    def steps(self) -> int:
        """Length of a game in which no team dies out: until the fuel is used up, 200 steps."""
        return -(-self.fuel // self.fuel_per_step)

    @functools.cached_property
    def missile_slots(self) -> int:
        """K: missiles that one ship can have in the air, it being able to launch one per step.

        A missile crosses the arena, corner to corner, in diagonal / speed = 20.2 steps; the step of the launch
        comes on top.
        """
        return math.floor(self.arena * math.sqrt(2.0) / self.missile_speed) + 1

    @functools.cached_property
    def hit_distance(self) -> float:
        """A missile strikes a ship when their centres come closer than this (24)."""
        return self.ship_radius + self.missile_radius

    @functools.cached_property
    def contact_distance(self) -> float:
        """Two ships touch when their centres are closer than this (40)."""
        return 2 * self.ship_radius

    @functools.cached_property
    def observation_size(self) -> int:
        """D = 6 + 4 (2n - 1)."""
        return OWN_FEATURES + OTHER_FEATURES * (self.ships - 1)

    def state_cardinality(self) -> int:
        """States of one ship as LTCR counts them: 2.19e13.

        Integer positions where a ship may be, 460^2, times headings 20, missiles 0..100, fuel 0..1000 by 5, and
        255 values of health of a living ship (reference 4.2: one of two readings that give the paper's number).
        """
        positions = round(self.arena - 2 * self.ship_radius) ** 2
        return positions * self.headings * (self.missiles + 1) * (self.steps + 1) * self.health

    def directions(self) -> np.ndarray:
        """Unit vectors of the headings, (2, headings) float64: x to the right, y up, ccw from the x axis.

        Rounded to 12 digits: the replicas of a world live on several machines, whose cosines may differ in the
        last bit. It also makes a turn of 90 degrees exact.
        """
        angles = [2 * math.pi * k / self.headings for k in range(self.headings)]
        rows = [[round(wave(angle), 12) + 0.0 for angle in angles] for wave in (math.cos, math.sin)]
        return np.array(rows)

    def env_spec(self) -> EnvSpec:
        """What an agent must know. The learner sees reward / 5: one missile hit counts 1 (spec)."""
        scale = 1.0 / self.missile_damage if self.missile_damage else 1.0
        shape = (self.observation_size,)
        return EnvSpec(obs_shape=shape, obs_dtype=np.dtype(np.float32), num_actions=len(ACTIONS), reward_scale=scale)

    def as_dict(self) -> dict[str, Any]:
        """Every constant by name: numbers and strings."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def rules_from(constants: Rules | Mapping[str, Any] | None) -> Rules:
    """Rules from constants by name, or as they are; the defaults for None. ValueError for a name that is none."""
    if isinstance(constants, Rules):
        return constants
    constants = dict(constants or {})
    known = [field.name for field in fields(Rules)]
    for name in constants:
        if name not in known:
            raise ValueError(f"Space Battle has no rule {name!r}; it has {', '.join(known)}")
    return Rules(**constants)


def _need(name: str, value: Any, what: str, *, least: float, whole: bool = False) -> None:
    """Refuse a constant that is not a number of at least `least`, or not an integer where one is needed."""
    number = isinstance(value, (int, np.integer)) or (not whole and isinstance(value, (float, np.floating)))
    if isinstance(value, bool) or not number or not math.isfinite(value) or value < least:
        raise ValueError(f"{name} must be {what}, got {value!r}")
