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


def observe(
    rules: Rules,
    position: np.ndarray,
    heading: np.ndarray,
    missiles: np.ndarray,
    fuel: np.ndarray,
    health: np.ndarray,
) -> np.ndarray:
    """Observations (B, S, D) float32 from `position` (2, B, S) and four arrays (B, S); D = 6 + 4 (2n - 1).

    First the ship's own 6-tuple x, y, theta, missiles, fuel, health, each as a fraction of its full value (theta of
    2 pi); then of each other ship x and y as fractions, its relative theta / pi in [-1, 1], and 1 for being alive.
    A dead ship shows four zeros: a wreck leaves nothing to see. Missiles are not seen (the paper lists none).

    Relative theta (`rules.relative_theta`): "bearing" is the direction to the other ship minus the own heading, zero
    where a shot would strike; "heading" is the other's heading minus one's own, the paper's words taken literally.
    """
    games, ships = heading.shape
    seen = np.empty((games, ships, rules.observation_size), dtype=np.float32)
    scaled = position / rules.arena
    seen[..., 0] = scaled[0]
    seen[..., 1] = scaled[1]
    seen[..., 2] = heading / rules.headings
    seen[..., 3] = missiles / max(rules.missiles, 1)
    seen[..., 4] = fuel / rules.fuel
    seen[..., 5] = health / rules.health

    order = line_of_sight(rules.team_size)
    others = seen[..., OWN_FEATURES:].reshape(games, ships, ships - 1, OTHER_FEATURES)
    there = scaled.take(order, axis=2)  # (2, B, S, S - 1)
    if rules.relative_theta == "bearing":
        apart = there - scaled[..., None]
        theta = np.arctan2(apart[1], apart[0]) * (rules.headings / (2 * np.pi))
    else:
        theta = heading.take(order, axis=1)
    half = rules.headings / 2
    theta = (theta - heading[..., None] + half) % rules.headings - half
    others[..., 0] = there[0]
    others[..., 1] = there[1]
    others[..., 2] = theta / half
    others[..., 3] = 1.0
    dead = health <= 0
    if np.count_nonzero(dead):
        others[dead.take(order, axis=1)] = 0.0
    return seen
