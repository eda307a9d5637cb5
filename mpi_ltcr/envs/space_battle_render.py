"""A picture of a game of Space Battle: numpy and pillow, no window.

Colours are Okabe and Ito's blue and vermillion, which colour-blind eyes tell apart; besides, team 1 wears a double
ring. Drawn at twice the size and scaled down, so that edges are smooth.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mpi_ltcr.envs.space_battle_world import World

SIDE = 600
"""Pixels of the arena's side."""
HEADER = 76
MARGIN = 12
SHARPNESS = 2

TEAM = ((0, 114, 178), (213, 94, 0))
PALE = ((205, 227, 241), (250, 221, 203))
INK, PAPER, FIELD = (34, 34, 34), (255, 255, 255), (246, 246, 243)
WRECK, TROUGH = (150, 150, 150), (222, 222, 222)


def draw(world: World, game: int = 0) -> np.ndarray:
    """The game as it stands, (HEADER + SIDE + 2 MARGIN, SIDE + 2 MARGIN, 3) uint8; y points up."""
    width, height = SIDE + 2 * MARGIN, HEADER + SIDE + 2 * MARGIN
    image = Image.new("RGB", (width * SHARPNESS, height * SHARPNESS), PAPER)
    _Painter(image, world, game).paint()
    return np.asarray(image.resize((width, height), Image.Resampling.BOX)).copy()


class _Painter:
    """One picture in the making; lengths are of the arena until `_spot` and `_long` make pixels of them."""

    def __init__(self, image: Image.Image, world: World, game: int) -> None:
        self.pen = ImageDraw.Draw(image)
        self.world, self.game, self.rules = world, game, world.rules
        self.zoom = SIDE / world.rules.arena * SHARPNESS

    def paint(self) -> None:
        corner, size = MARGIN * SHARPNESS, SIDE * SHARPNESS
        top = corner + HEADER * SHARPNESS
        self.pen.rectangle((corner, top, corner + size, top + size), fill=FIELD, outline=INK, width=2 * SHARPNESS)
        alive = self.world.alive[self.game]
        for ship in (~alive).nonzero()[0]:
            self._wreck(ship)
        self._missiles()
        for ship in alive.nonzero()[0]:
            self._ship(ship)
        for ship in alive.nonzero()[0]:  # above all discs, so that ships in a heap still show where they head
            self._nose(ship)
            self._health_bar(ship)
        self._header()

    def _spot(self, x: float, y: float) -> tuple[float, float]:
        return (
            MARGIN * SHARPNESS + x * self.zoom,
            (MARGIN + HEADER) * SHARPNESS + (self.rules.arena - y) * self.zoom,
        )

    def _disc(self, x: float, y: float, radius: float) -> tuple[float, float, float, float]:
        (left, top), (right, low) = self._spot(x - radius, y + radius), self._spot(x + radius, y - radius)
        return left, top, right, low

    def _ship(self, ship: int) -> None:
        """A disc with its index."""
        team, index = divmod(ship, self.rules.team_size)
        x, y = self.world.position[:, self.game, ship]
        radius = self.rules.ship_radius
        self.pen.ellipse(self._disc(x, y, radius), fill=PALE[team], outline=TEAM[team], width=3 * SHARPNESS)
        if team == 1:
            self.pen.ellipse(self._disc(x, y, 0.68 * radius), outline=TEAM[team], width=SHARPNESS)
        self.pen.text(self._spot(x, y), str(index), fill=INK, font=_font(15), anchor="mm")

    def _nose(self, ship: int) -> None:
        """A triangle on the rim that points along the heading."""
        x, y = self.world.position[:, self.game, ship]
        radius = self.rules.ship_radius
        angle = 2 * math.pi * self.world.heading[self.game, ship] / self.rules.headings
        corners = ((1.55, 0.0), (0.92, 0.42), (0.92, -0.42))
        nose = [
            self._spot(x + radius * far * math.cos(angle + side), y + radius * far * math.sin(angle + side))
            for far, side in corners
        ]
        self.pen.polygon(nose, fill=TEAM[ship // self.rules.team_size])

    def _wreck(self, ship: int) -> None:
        """Where a ship died: a grey ring with a cross, in which its team can still be seen."""
        x, y = self.world.position[:, self.game, ship]
        radius = self.rules.ship_radius
        self.pen.ellipse(self._disc(x, y, radius), outline=WRECK, width=2 * SHARPNESS)
        arm = 0.5 * radius
        for up in (arm, -arm):
            ends = (*self._spot(x - arm, y - up), *self._spot(x + arm, y + up))
            self.pen.line(ends, fill=TEAM[ship // self.rules.team_size], width=3 * SHARPNESS)

    def _missiles(self) -> None:
        """A dot of its true size in its team's colour, with a tail that shows where it comes from."""
        live = self.world.missile_live[self.game]
        unit = self.rules.directions()
        for ship, slot in np.argwhere(live):
            x, y = self.world.missile_position[:, self.game, ship, slot]
            dx, dy = unit[:, self.world.missile_heading[self.game, ship, slot]]
            colour = TEAM[ship // self.rules.team_size]
            tail = 4 * self.rules.missile_radius
            ends = (*self._spot(x - tail * dx, y - tail * dy), *self._spot(x, y))
            self.pen.line(ends, fill=colour, width=2 * SHARPNESS)
            self.pen.ellipse(self._disc(x, y, self.rules.missile_radius), fill=colour, outline=INK, width=1)

    def _health_bar(self, ship: int) -> None:
        """Above the ship, or below where there is no room above."""
        x, y = self.world.position[:, self.game, ship]
        radius = self.rules.ship_radius
        centre = y + 1.75 * radius if y + 2.1 * radius < self.rules.arena else y - 1.75 * radius
        left, top = self._spot(x - radius, centre + 0.15 * radius)
        right, low = self._spot(x + radius, centre - 0.15 * radius)
        share = self.world.health[self.game, ship] / self.rules.health
        self._bar((left, top, right, low), share, TEAM[ship // self.rules.team_size])

    def _bar(self, box: tuple[float, float, float, float], share: float, colour: tuple[int, int, int]) -> None:
        left, top, right, low = box
        self.pen.rectangle(box, fill=TROUGH)
        if share > 0:
            self.pen.rectangle((left, top, left + share * (right - left), low), fill=colour)
        self.pen.rectangle(box, outline=INK, width=1)

    def _header(self) -> None:
        """Each team's score, health and missiles left, and the time."""
        score = self.world.score()[self.game]
        full = self.rules.team_size * self.rules.health
        health = self.world.health[self.game].reshape(2, -1).sum(axis=1)
        stock = (self.world.missiles * self.world.alive)[self.game].reshape(2, -1).sum(axis=1)
        unit = SHARPNESS
        for team, left in ((0, MARGIN), (1, MARGIN + SIDE - 210)):
            words = f"team {team}   score {score[team]:+d}"
            self.pen.text((left * unit, 12 * unit), words, fill=TEAM[team], font=_font(20))
            bar = (left * unit, 42 * unit, (left + 210) * unit, 54 * unit)
            self._bar(bar, health[team] / full, TEAM[team])
            below = f"health {health[team]} of {full}   missiles {stock[team]}"
            self.pen.text((left * unit, 59 * unit), below, fill=INK, font=_font(13))
        middle = (MARGIN + SIDE / 2) * unit
        clock = f"{self.world.time[self.game]} / {self.rules.steps}"
        self.pen.text((middle, 24 * unit), clock, fill=INK, font=_font(20), anchor="mm")
        self.pen.text((middle, 48 * unit), "step", fill=INK, font=_font(13), anchor="mm")


def _font(pixels: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own letters: no font file is looked for on the machine."""
    return ImageFont.load_default(pixels * SHARPNESS)
