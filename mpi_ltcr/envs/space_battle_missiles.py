"""Where missiles strike: geometry of flights, arrays in, arrays out.

Legend
    M   missiles in flight, of all games           S   ships of a game
    P   pairs (missile, ship) that are a hit       first axis 2: x and y, arena units

A missile flies further in a step (35) than a ship is wide, so a test at the end of the flight could miss: the whole
segment is tested (reference.md 4.4, step 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def swept_hits(apart: np.ndarray, unit: np.ndarray, *, length: float, distance: float) -> np.ndarray:
    """(M, S) bool: does the flight come closer to the ship's centre than `distance`?

    `apart` (2, M, S) leads from the start of each flight to each ship, `unit` (2, M) is the flight's direction and
    `length` its length. The point of the segment nearest to the centre decides; just touching is no hit.
    """
    along = apart[0] * unit[0][:, None] + apart[1] * unit[1][:, None]
    along = np.minimum(np.maximum(along, 0.0), length)
    miss = apart - along * unit[:, :, None]
    miss *= miss
    hit: np.ndarray = miss[0] + miss[1] < distance**2
    return hit


def nearest(
    missile: np.ndarray,
    ship: np.ndarray,
    *,
    apart: np.ndarray,
    unit: np.ndarray,
    distance: float,
    ties: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Of the pairs `missile` (P,), `ship` (P,), one for each missile: the ship that its flight touches first.

    `apart` and `unit` (2, P) as in `swept_hits`. Where a flight begins inside two ships, both are touched at once:
    then the one whose centre is nearer to the start is struck, then the lower in `ties`, arrays (P,) of which the
    first weighs most. Indices never decide: the order of the agents must not.
    """
    (dx, dy), (ux, uy) = apart, unit
    aside = dx * uy - dy * ux
    half_chord = np.sqrt(np.maximum(distance**2 - aside * aside, 0.0))
    entry = np.maximum(dx * ux + dy * uy - half_chord, 0.0)
    order = np.lexsort((*ties[::-1], dx * dx + dy * dy, entry, missile))  # the last key weighs most
    missile, ship = missile[order], ship[order]
    first = np.ones(missile.size, dtype=bool)
    first[1:] = missile[1:] != missile[:-1]
    return missile[first], ship[first]


def meetings(start: np.ndarray, flight: np.ndarray, game: np.ndarray, *, distance: float) -> np.ndarray:
    """(M,) bool: missiles that come closer than `distance` to another of their game while both fly one step.

    `start`, `flight` (2, M): positions before and the way to fly; `game` (M,). Seen from one missile the other flies
    straight, so the nearest point of that relative way decides.
    """
    gap = start[:, :, None] - start[:, None, :]  # (2, M, M)
    drift = flight[:, :, None] - flight[:, None, :]
    speed = drift[0] ** 2 + drift[1] ** 2
    when = -(gap[0] * drift[0] + gap[1] * drift[1]) / np.where(speed > 0.0, speed, 1.0)
    gap = gap + np.minimum(np.maximum(when, 0.0), 1.0) * drift
    near = gap[0] ** 2 + gap[1] ** 2 < distance**2
    near &= game[:, None] == game
    np.fill_diagonal(near, False)
    met: np.ndarray = near.any(axis=1)
    return met
