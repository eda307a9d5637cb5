"""A run that goes on is the run that it was: its configuration is kept with each checkpoint, and compared on resume.

Atoms that mean other returns, another seed or another game would go unnoticed, or fail far from their cause.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from mpi_ltcr import options

FREE = {
    *("name", "out", "frames", "checkpoint", "log", "runtime", "eval.every", "eval.episodes"),
    *("agent.device", "agents.device", "agent.backend", "agents.backend"),
}
"""Fields and sections in which it may differ: how long, how it is called, saved and watched, and where it computes."""
UNSET = "nothing"


def kept(config: Any) -> dict[str, Any]:
    """A configuration as a manifest keeps it."""
    return dict(json.loads(json.dumps(options.to_dict(config))))


def changed(saved: dict[str, Any], config: Any) -> str:
    """The first field that shapes results and differs from what a checkpoint was trained with, in words; or nothing.

    Args:
        saved: what the checkpoint keeps. A field that it does not know, because it is older, is not compared.
    """
    known = set(options.option_names(type(config), entries=True))
    for name, before, now in _differences(saved, kept(config)):
        plain = re.sub(r"\[\d+\]", "", name)
        if not _is_free(plain) and not (before == UNSET and plain in known):
            return f"{name}: {now} now, {before} when it was saved; put it back in config.yaml, or train a new run"
    return ""


def _is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in FREE)


def _differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """(field, one value, the other one) of all in which two configurations differ; mappings in lists are entered."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *(key for key in before if key not in now)]:
            below = f"{name}.{key}" if name else key
            if key in before and key in now:
                yield from _differences(before[key], now[key], below)
            else:
                yield below, _told(before, key), _told(now, key)
    elif isinstance(before, list) and isinstance(now, list) and all(isinstance(one, dict) for one in before + now):
        sides: Iterator[tuple[Any, Any]] = zip_longest(before, now, fillvalue={})
        for index, (one, other) in enumerate(sides):
            yield from _differences(one, other, f"{name}[{index}]")
    elif before != now:
        yield name, json.dumps(before), json.dumps(now)


def _told(section: dict[str, Any], key: str) -> str:
    return json.dumps(section[key]) if key in section else UNSET
