"""The world of Space Battle: B games side by side, as arrays. Dynamics only: no names, no dicts, no drawing.

Legend
    B   games side by side                     n   ships per team
    S   ships of a game, 2n, team 0's first    K   missiles a ship can have in the air
    D   length of an observation               E   kinds of events, see space_battle_rules.EVENTS

All ships act at once and nothing depends on their order: turns, moves, launches and flights read only what was there
before, damage is counted from the health before it, and a tie of two ships for one missile is broken by what the
ships are, not by their index. So ranks that hold replicas and exchange their actions stay equal bit for bit, and B
games side by side are B single games. Only `reset` draws random numbers, from each game's own generator.

Source: reference.md 4.4; its numbered steps stand in the margin of `World.step`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mpi_ltcr.envs.space_battle_layout import STOCKS, check_saved, layout, part, place
from mpi_ltcr.envs.space_battle_missiles import meetings, nearest, swept_hits
from mpi_ltcr.envs.space_battle_rules import (
    ACTION_EVENTS,
    ACTIONS,
    ENEMY_HITS,
    FIRE,
    FRIEND_HITS,
    HITS_TAKEN,
    IDLE,
    MOVE,
    RAMS,
    REFUSED,
    SHOTS,
    TURN,
    Rules,
)
from mpi_ltcr.envs.space_battle_view import observe
from mpi_ltcr.interfaces import State


class Outcome(NamedTuple):
    """What one step of all games brought."""

    team_reward: np.ndarray
    """(B, 2) int64, health points: damage dealt minus damage taken. The two columns sum to zero."""
    terminated: np.ndarray
    """(B, S) bool: ships that lived before the step and died in it, or whose game ended with a team."""
    truncated: np.ndarray
    """(B, S) bool: ships alive when time ran out. Nothing ended for them: the value there bootstraps."""
    over: np.ndarray
    """(B,) bool: the game ended, either way. It must be reset before the next step."""
    events: np.ndarray
    """(B, S, E) int64: what happened in this step, columns as in EVENTS."""


class World:
    """B games of Space Battle.

    Everything below `state()` is public to be read, and changed by nobody else. `position` (2, B, S) and
    `missile_position` (2, B, S, K) carry x and y on the first axis; `heading`, `missiles`, `fuel`, `health` are
    (B, S); `time`, `over` (B,); `touching` (B, n, n) says which ship of team 0 was in contact with which of team 1;
    `tally` (B, S, E) sums the events since the reset. `rngs` holds each game's generator.

    Args:
        rules: the constants of the game.
        rngs: one generator for each game, B in all; drawn from in `reset` only.
    """

    position: np.ndarray
    heading: np.ndarray
    missiles: np.ndarray
    fuel: np.ndarray
    health: np.ndarray
    time: np.ndarray
    over: np.ndarray
    touching: np.ndarray
    missile_position: np.ndarray
    missile_heading: np.ndarray
    missile_live: np.ndarray
    tally: np.ndarray

    def __init__(self, *, rules: Rules, rngs: Sequence[np.random.Generator]) -> None:
        if not rngs:
            raise ValueError("a world needs at least one game: give one generator per game")
        self.rules = rules
        self.rngs = list(rngs)
        self.games = len(self.rngs)
        self._fields = layout(rules, self.games)
        for name, (shape, dtype) in self._fields.items():
            setattr(self, name, np.zeros(shape, dtype))
        self._stocks = np.zeros((len(STOCKS), self.games, rules.ships), "<i8")
        for at, name in enumerate(STOCKS):  # views of one array, so that observations are made of them at once
            setattr(self, name, self._stocks[at])
        self.over[:] = True
        self._refresh()
        self._flat_missiles = self.missile_position.reshape(2, -1)
        self._flat_missile_heading = self.missile_heading.reshape(-1)
        self._flat_live = self.missile_live.reshape(-1)
        self._prepare_tables()

    def _prepare_tables(self) -> None:
        """What is constant through all games: vectors by heading, and who can strike whom."""
        rules = self.rules
        self._unit = rules.directions()
        self._stride = rules.move * self._unit
        self._muzzle = rules.hit_distance * self._unit
        self._flight = rules.missile_speed * self._unit
        team = np.arange(rules.ships) // rules.team_size
        self._is_enemy = team[:, None] != team
        slots = np.arange(self.games * rules.ships * rules.missile_slots)
        self._ship_of_slot = slots // rules.missile_slots % rules.ships
        self._game_of_slot = slots // (rules.missile_slots * rules.ships)
        # Geometry already keeps a missile off its own ship, but by nothing: it starts at just the distance of a hit.
        self._can_hit = self._is_enemy | (rules.friendly_fire & ~np.eye(rules.ships, dtype=bool))

    def _refresh(self) -> None:
        """What follows from the state."""
        self.alive = self.health > 0
        self._all_alive = bool(self.alive.all())
        self._any_over = bool(np.count_nonzero(self.over))

    # Time ------------------------------------------------------------------------------------------------------------

    def reset(self, games: Sequence[int] | None = None, *, rngs: Sequence[np.random.Generator] | None = None) -> None:
        """Begin anew in these games (all by default), with new generators (one for each of them) where given.

        Raises ValueError where there are more ships than find a place.
        """
        games = range(self.games) if games is None else games
        for at, game in enumerate(games):
            if rngs is not None:
                self.rngs[game] = rngs[at]
            for name in self._fields:
                getattr(self, name)[part(name, game)] = 0
            self.missiles[game] = self.rules.missiles
            self.fuel[game] = self.rules.fuel
            self.health[game] = self.rules.health
            self.heading[game] = self.rngs[game].integers(self.rules.headings, size=self.rules.ships)
            self.position[:, game] = place(self.rules, self.rngs[game])
        self._refresh()

    def step(self, actions: np.ndarray) -> Outcome:
        """All ships of all games act at once. `actions` (B, S) integers in 0..3; those of dead ships are ignored.

        Raises ValueError for another shape or an action outside the space, RuntimeError where a game is over.
        """
        if self._any_over:
            at = int(self.over.argmax())
            raise RuntimeError(f"game {at} is over or was never begun: call reset before the next step")
        act = self._accept(actions)  # (1)
        events = ACTION_EVENTS.take(act, axis=0)
        self._move(act, events)  # (2) (3)
        self._launch(act, events)  # (4)
        struck = self._fly(events)  # (5) (6)
        rammed = self._ram(events)  # (7)
        np.maximum(self.fuel - self.rules.fuel_per_step * self.alive, 0, out=self.fuel)  # (8)
        self.time += 1
        return self._settle(events, damaged=struck or rammed)  # (9)

    def _accept(self, actions: np.ndarray) -> np.ndarray:
        """The actions (B, S) int64, dead ships made idle."""
        actions = np.asarray(actions)
        if actions.shape != self.health.shape or actions.dtype.kind not in "iu":
            wanted = f"integers of shape {self.health.shape}"
            raise ValueError(f"actions must be {wanted} (games, ships), got {actions.dtype} of shape {actions.shape}")
        actions = actions.astype(np.int64, copy=False)
        # All bits of all actions at once: one call in the usual case.
        if int(np.bitwise_or.reduce(actions, axis=None)) & ~(len(ACTIONS) - 1):
            wrong = self.alive & ((actions < 0) | (actions >= len(ACTIONS)))
            if wrong.any():
                game, ship = np.argwhere(wrong)[0]
                names = ", ".join(f"{code} {name}" for code, name in enumerate(ACTIONS))
                raise ValueError(f"ship {ship} of game {game}: action {actions[game, ship]} is none of {names}")
        return actions if self._all_alive else np.where(self.alive, actions, IDLE)

    def _move(self, act: np.ndarray, events: np.ndarray) -> None:
        """Turns, and moves along the heading. A move that would leave the arena is refused, not shortened."""
        rules = self.rules
        self.heading += TURN.take(act)
        self.heading %= rules.headings
        target = self.position + self._stride.take(self.heading, axis=1)
        fits = (target >= rules.ship_radius) & (target <= rules.arena - rules.ship_radius)
        wants = act == MOVE
        moves = wants & fits[0] & fits[1] & (self.fuel > 0)
        np.copyto(self.position, target, where=moves)
        events[..., REFUSED] = wants > moves

    def _launch(self, act: np.ndarray, events: np.ndarray) -> None:
        """New missiles, one ship radius and one missile radius ahead of the centre.

        The slot is the time modulo K: whatever was launched there K steps ago has left the arena.
        """
        fires = (act == FIRE) & (self.missiles > 0)
        ships = fires.reshape(-1).nonzero()[0]
        if not ships.size:
            return
        events[..., SHOTS] = fires
        self.missiles -= fires
        slots = self.rules.missile_slots
        at = ships * slots + (self.time % slots).take(ships // self.rules.ships)
        heading = self.heading.take(ships)
        self._flat_missiles[:, at] = self.position.reshape(2, -1).take(ships, axis=1) + self._muzzle.take(
            heading, axis=1
        )
        self._flat_missile_heading[at] = heading
        self._flat_live[at] = True

    def _fly(self, events: np.ndarray) -> bool:
        """All missiles advance; what they sweep over is struck. True if anything was.

        The last flight of a missile is flown to its end before it is removed for being outside.
        """
        live = self._flat_live.nonzero()[0]
        if not live.size:
            return False
        heading = self._flat_missile_heading.take(live)
        start, flight = self._flat_missiles.take(live, axis=1), self._flight.take(heading, axis=1)
        if self.rules.missile_cancel:
            game = self._game_of_slot.take(live)
            met = meetings(start, flight, game, distance=2 * self.rules.missile_radius)
            self._flat_live[live[met]] = False
            live, heading, start, flight = live[~met], heading[~met], start[:, ~met], flight[:, ~met]
        end = start + flight
        self._flat_missiles[:, live] = end
        inside = (end >= 0.0) & (end <= self.rules.arena)
        self._flat_live[live] = inside[0] & inside[1]
        return self._strike(live, start, self._unit.take(heading, axis=1), events)

    def _strike(self, live: np.ndarray, start: np.ndarray, unit: np.ndarray, events: np.ndarray) -> bool:
        """Remove and count the missiles that strike: `live` (M,) their slots, `start` and `unit` (2, M) the flight."""
        rules = self.rules
        owner, game = self._ship_of_slot.take(live), self._game_of_slot.take(live)
        apart = self.position.take(game, axis=1) - start[:, :, None]  # (2, M, S)
        hit = swept_hits(apart, unit, length=rules.missile_speed, distance=rules.hit_distance)
        if not self._all_alive:
            hit &= self.alive.take(game, axis=0)
        hit &= self._can_hit.take(owner, axis=0)
        missile, ship = hit.nonzero()
        if not missile.size:
            return False
        if (missile[1:] == missile[:-1]).any():
            missile, ship = nearest(
                missile,
                ship,
                apart=apart[:, missile, ship],
                unit=unit[:, missile],
                distance=rules.hit_distance,
                ties=self._ties(owner[missile], game[missile], ship),
            )
        self._flat_live[live[missile]] = False
        self._count_hits(game[missile], owner[missile], ship, events)
        return True

    def _ties(self, owner: np.ndarray, game: np.ndarray, ship: np.ndarray) -> Sequence[np.ndarray]:
        """What decides between equally near ships (P,): enemies first, then what they are, as all can see it."""
        x, y = self.position[:, game, ship]
        stocks = [array[game, ship] for array in (self.heading, self.missiles, self.health)]
        return [~self._is_enemy[owner, ship], x, y, *stocks]

    def _count_hits(self, game: np.ndarray, owner: np.ndarray, ship: np.ndarray, events: np.ndarray) -> None:
        """Write H hits, (H,) each, into the events of those who fired and those who were struck."""
        enemy = self._is_enemy[owner, ship]
        offset = game * self.rules.ships
        fired, struck = offset + owner, offset + ship
        for column, ships in ((ENEMY_HITS, fired[enemy]), (FRIEND_HITS, fired[~enemy]), (HITS_TAKEN, struck)):
            events[..., column] = np.bincount(ships, minlength=self.health.size).reshape(self.health.shape)

    def _ram(self, events: np.ndarray) -> bool:
        """Enemies whose distance drops below contact in this step, once per contact. True if any. Friends pass."""
        n = self.rules.team_size
        apart = self.position[:, :, :n, None] - self.position[:, :, None, n:]  # (2, B, n, n)
        apart *= apart
        touching = apart[0] + apart[1] < self.rules.contact_distance**2
        if not self._all_alive:
            touching &= self.alive[:, :n, None]
            touching &= self.alive[:, None, n:]
        new = touching > self.touching
        self.touching[...] = touching
        if not np.count_nonzero(new):
            return False
        events[:, :n, RAMS] = new.sum(axis=2)
        events[:, n:, RAMS] = new.sum(axis=1)
        return True

    def _settle(self, events: np.ndarray, *, damaged: bool) -> Outcome:
        """Health, deaths and ends. All blows of the step count, then health stops at zero."""
        shape, rules = self.health.shape, self.rules
        reward = np.zeros((self.games, 2), dtype=np.int64)
        terminated = np.zeros(shape, dtype=bool)
        truncated = np.zeros(shape, dtype=bool)
        self.over[...] = self.time >= rules.steps
        if damaged:
            blow = rules.missile_damage * events[..., HITS_TAKEN] + rules.ram_damage * events[..., RAMS]
            lost = np.minimum(blow, self.health)
            self.health -= lost
            by_team = lost.reshape(self.games, 2, -1).sum(axis=2)
            reward = by_team[:, ::-1] - by_team
            lived, self.alive = self.alive, self.health > 0
            self._all_alive = bool(self.alive.all())
            beaten = (self.health.reshape(self.games, 2, -1).sum(axis=2) == 0).any(axis=1)
            terminated = lived & (~self.alive | beaten[:, None])
            self.over |= beaten
        self._any_over = bool(np.count_nonzero(self.over))
        if self._any_over:
            truncated = self.alive & self.over[:, None] & ~terminated
        self.tally += events
        return Outcome(reward, terminated, truncated, self.over.copy(), events)

    # Looking at it ---------------------------------------------------------------------------------------------------

    def observe(self) -> np.ndarray:
        """What each ship sees, (B, S, D) float32; see space_battle_view.observe."""
        return observe(self.rules, self.position, self._stocks)

    def score(self) -> np.ndarray:
        """(B, 2) int64: a team's health minus its enemy's, which is the sum of its rewards since the reset."""
        team = self.health.reshape(self.games, 2, -1).sum(axis=2)
        return team - team[:, ::-1]

    def digest(self) -> int:
        """A 64-bit hash of the whole state, generators included: equal on all ranks as long as replicas agree."""
        digest = hashlib.blake2b(digest_size=8)
        for name in self._fields:
            digest.update(getattr(self, name).tobytes())
        for rng in self.rngs:
            digest.update(repr(rng.bit_generator.state).encode())
        return int.from_bytes(digest.digest(), "little")

    # Saving ----------------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Copies of all fields, the rules they were made under, and the generators' states by game."""
        saved: State = {name: getattr(self, name).copy() for name in self._fields}
        saved["rules"] = self.rules.as_dict()
        saved["rngs"] = {str(game): rng.bit_generator.state for game, rng in enumerate(self.rngs)}
        return saved

    def load_state(self, state: State) -> None:
        """Go on from there. Raises ValueError, naming what differs, for a state of another game or size."""
        check_saved(self.rules, self._fields, state)
        for name in self._fields:
            getattr(self, name)[...] = state[name]
        for game, rng in enumerate(self.rngs):
            rng.bit_generator.state = state["rngs"][str(game)]
        self._refresh()
