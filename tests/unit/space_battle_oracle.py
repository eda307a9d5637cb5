"""Space Battle once more, as slow and plain as can be: one game, loops over ships, missiles in 0.01 steps.

Written from reference.md 4.4 alone. It shares with the package only `Rules`, the list of constants.
"""

from __future__ import annotations

import math

import numpy as np

GRAIN = 0.01


class Oracle:
    """One game, begun where `world`'s game `game` stands; ships are dicts, missiles are lists."""

    def __init__(self, world, game=0):
        self.rules = world.rules
        n = self.rules.team_size
        self.ships = [
            {
                "team": i // n,
                "x": float(world.position[0, game, i]),
                "y": float(world.position[1, game, i]),
                "k": int(world.heading[game, i]),
                "missiles": int(world.missiles[game, i]),
                "fuel": int(world.fuel[game, i]),
                "health": int(world.health[game, i]),
            }
            for i in range(2 * n)
        ]
        self.flying = []  # [owner, x, y, k]
        self.in_contact = set()
        self.ambiguous = False

    def direction(self, k):
        angle = 2 * math.pi * k / self.rules.headings
        return math.cos(angle), math.sin(angle)

    def step(self, actions):
        """Returns rewards of both teams and the hits as (owner, victim)."""
        rules = self.rules
        living = [i for i, ship in enumerate(self.ships) if ship["health"] > 0]
        for i in living:
            self.act(i, actions[i])
        hits = self.fly(living)
        damage = dict.fromkeys(living, 0)
        for _, victim in hits:
            damage[victim] += rules.missile_damage
        rams = self.contacts(living)
        for pair in rams:
            for i in pair:
                damage[i] += rules.ram_damage
        rewards = [0, 0]
        for i in living:
            ship = self.ships[i]
            lost = min(damage[i], ship["health"])
            ship["health"] -= lost
            ship["fuel"] = max(ship["fuel"] - rules.fuel_per_step, 0)
            rewards[ship["team"]] -= lost
            rewards[1 - ship["team"]] += lost
        return rewards, hits, rams

    def act(self, i, action):
        rules, ship = self.rules, self.ships[i]
        if action == 0:
            ship["k"] = (ship["k"] + 1) % rules.headings
        elif action == 1:
            ship["k"] = (ship["k"] - 1) % rules.headings
        ux, uy = self.direction(ship["k"])
        if action == 2 and ship["fuel"] > 0:
            x, y = ship["x"] + rules.move * ux, ship["y"] + rules.move * uy
            low, high = rules.ship_radius, rules.arena - rules.ship_radius
            if low <= x <= high and low <= y <= high:
                ship["x"], ship["y"] = x, y
        elif action == 3 and ship["missiles"] > 0:
            ship["missiles"] -= 1
            ahead = rules.ship_radius + rules.missile_radius
            self.flying.append([i, ship["x"] + ahead * ux, ship["y"] + ahead * uy, ship["k"]])

    def fly(self, living):
        hits, still = [], []
        for owner, x, y, k in self.flying:
            ux, uy = self.direction(k)
            victim = self.first_touched(owner, x, y, ux, uy, living)
            x, y = x + self.rules.missile_speed * ux, y + self.rules.missile_speed * uy
            if victim is not None:
                hits.append((owner, victim))
            elif 0 <= x <= self.rules.arena and 0 <= y <= self.rules.arena:
                still.append([owner, x, y, k])
        self.flying = still
        return hits

    def first_touched(self, owner, x, y, ux, uy, living):
        """The ship that the missile reaches first, moving it in small steps."""
        rules = self.rules
        way = np.linspace(0.0, rules.missile_speed, round(rules.missile_speed / GRAIN) + 1)
        px, py = x + way * ux, y + way * uy
        touched = []
        for i in living:
            ship = self.ships[i]
            if i == owner or (not rules.friendly_fire and ship["team"] == self.ships[owner]["team"]):
                continue
            inside = np.hypot(px - ship["x"], py - ship["y"]) < rules.ship_radius + rules.missile_radius
            if inside.any():
                start = math.hypot(x - ship["x"], y - ship["y"])
                touched.append((int(inside.argmax()), start, i))
        touched.sort()
        if len(touched) > 1 and touched[0][0] > 0 and touched[1][0] - touched[0][0] <= 1:
            self.ambiguous = True  # two ships within one small step: too coarse to tell
        return touched[0][2] if touched else None

    def contacts(self, living):
        new = []
        now = set()
        for i in living:
            for j in living:
                a, b = self.ships[i], self.ships[j]
                apart = math.hypot(a["x"] - b["x"], a["y"] - b["y"])
                if a["team"] == 0 and b["team"] == 1 and apart < 2 * self.rules.ship_radius:
                    now.add((i, j))
                    if (i, j) not in self.in_contact:
                        new.append((i, j))
        self.in_contact = now
        return new
