"""What every section of a configuration is held against."""

from __future__ import annotations

import dataclasses
import os.path
import re
from typing import Any

NATURE_SMALLEST = 36
"""Pixels a side below which nothing is left after the last convolution of the `nature` torso."""


class ConfigError(ValueError):
    """Something that was asked for cannot be run. The text is one line that names the field and the right choices."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless `condition` holds."""
    if not condition:
        raise ConfigError(message)


def check_numbers(section: Any, prefix: str = "") -> None:
    """Raise ConfigError for a number below `section` that is not finite, or that 64 bits do not hold."""
    for f in dataclasses.fields(section):
        value = getattr(section, f.name)
        if dataclasses.is_dataclass(value):
            check_numbers(value, f"{prefix}{f.name}.")
        for number in value if isinstance(value, (list, tuple)) else [value]:
            wide = isinstance(number, (int, float)) and not abs(number) < 2**63
            require(not wide, f"{prefix}{f.name}: {number} is out of range; take a finite number below 2^63")


def check_names(name: str, out: str | None) -> None:
    """Raise ConfigError unless both can name a run directory."""
    for field_, text in (("name", name), ("out", None if out is None else os.path.basename(os.path.normpath(out)))):
        sound = text is None or (re.fullmatch(r"[A-Za-z0-9._-]{1,90}", text) and text not in (".", ".."))
        require(bool(sound), f"{field_}: {text!r} is no name for a run; use up to 90 letters, digits, '.', '_', '-'")


def check_layers(torso: str, hidden: tuple[int, ...]) -> None:
    """Raise ConfigError if a torso should have layers and is given none."""
    require(
        torso != "mlp" or len(hidden) > 0,
        "agent.hidden: an mlp has at least one layer; for none set agent.torso: linear",
    )


def check_sight(torso: str, obs_shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless a torso can see observations of this shape."""
    pictures = len(obs_shape) == 3 and min(obs_shape[1:]) >= NATURE_SMALLEST
    require(
        torso != "nature" or pictures,
        f"agent.torso: nature needs pictures (channels, height, width) of at least {NATURE_SMALLEST} pixels a "
        f"side, the environment gives {obs_shape}; set agent.torso: mlp",
    )
