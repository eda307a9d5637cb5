"""What a ship of Space Battle sees: one layout for every ship of either team.

So a value distribution learnt by one agent can be asked for at the observation of another, which is what LTCR's
demonstrations are; and a policy plays either side.
"""

from __future__ import annotations

import functools

import numpy as np

from mpi_ltcr.envs.space_battle_rules import OTHER_FEATURES, OWN_FEATURES, Rules


@functools.cache
def line_of_sight(team_size: int) -> np.ndarray:
    """Whom each ship sees, in which order: its mates by index, then its enemies by index. (S, S - 1)."""
    teams = np.arange(2 * team_size).reshape(2, team_size)
    rows = [[*mates[mates != ship], *enemies] for mates, enemies in (teams, teams[::-1]) for ship in mates]
    return np.array(rows, dtype=np.int64)


def observe(rules: Rules, position: np.ndarray, stocks: np.ndarray) -> np.ndarray:
    """Observations (B, S, D) float32 from `position` (2, B, S) and `stocks` (4, B, S): heading, missiles, fuel, health.

    D = 6 + 4 (2n - 1): first the ship's own 6-tuple x, y, theta, missiles, fuel, health, each as a fraction of its full
    value (theta of 2 pi); then of each other ship x and y as fractions, its relative theta / pi in [-1, 1], and 1 for
    being alive. A dead ship shows four zeros: a wreck leaves nothing to see. Missiles are not seen (the paper lists
    none).

    Relative theta (`rules.relative_theta`): "bearing" is the direction to the other ship minus the own heading, zero
    where a shot would strike; "heading" is the other's heading minus one's own, the paper's words taken literally.
    """
    _, games, ships = stocks.shape
    seen = np.empty((games, ships, rules.observation_size), dtype=np.float32)
    scaled = position / rules.arena
    seen[..., :2] = scaled.transpose(1, 2, 0)
    seen[..., 2:OWN_FEATURES] = (stocks / _full(rules)).transpose(1, 2, 0)

    order, heading = line_of_sight(rules.team_size), stocks[0]
    others = seen[..., OWN_FEATURES:].reshape(games, ships, ships - 1, OTHER_FEATURES)
    there = scaled.take(order, axis=2)  # (2, B, S, S - 1)
    if rules.relative_theta == "bearing":
        apart = there - scaled[..., None]
        theta = np.arctan2(apart[1], apart[0])
        theta *= rules.headings / (2 * np.pi)
    else:
        theta = heading.take(order, axis=1).astype(np.float64)
    half = rules.headings / 2
    theta -= heading[..., None]
    theta += half
    theta %= rules.headings
    theta -= half
    theta /= half
    others[..., :2] = there.transpose(1, 2, 3, 0)
    others[..., 2] = theta
    others[..., 3] = 1.0
    dead = stocks[3] <= 0
    if np.count_nonzero(dead):
        others[dead.take(order, axis=1)] = 0.0
    return seen


@functools.cache
def _full(rules: Rules) -> np.ndarray:
    """Full values of heading, missiles, fuel and health, (4, 1, 1)."""
    values = (rules.headings, max(rules.missiles, 1), rules.fuel, rules.health)
    return np.array(values, dtype=np.float64)[:, None, None]
