"""The table of environments: id -> how it is registered and what its spec adds. A new one is a file and a line.

Any other registered Gymnasium id with a Box observation and Discrete actions runs too.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from mpi_ltcr.interfaces import EnvSpec

CARTPOLE_SCALE = 1 / np.array([2.4, 5.0, math.pi / 12, 2 * math.pi], np.float32)
"""Inputs in about [-1, 1]: the limits that Dopamine uses, 15 degrees among them."""


class Entry(NamedTuple):
    """What we know of an environment beyond Gymnasium's registry."""

    entry_point: str | None
    max_episode_steps: int | None
    reward_threshold: float | None
    obs_scale: np.ndarray | float
    stacked: bool = False


ENVS: dict[str, Entry] = {
    "mpi_ltcr/CartPole15-v0": Entry("mpi_ltcr.envs.cartpole:CartPole15", 200, 195.0, CARTPOLE_SCALE),
    "mpi_ltcr/Atari-v0": Entry("mpi_ltcr.envs.atari:make_atari", None, None, 1.0, stacked=True),
    "mpi_ltcr/SpaceBattle-v0": Entry("mpi_ltcr.envs.space_battle_solo:SpaceBattleSolo", None, None, 1.0),
    "CartPole-v1": Entry(None, None, None, CARTPOLE_SCALE),
}


class EnvError(ValueError):
    """The environment cannot be made or cannot be used; the text is one line that names the field."""


def register() -> None:
    """Make our environments known to Gymnasium. Idempotent."""
    for name, entry in ENVS.items():
        if entry.entry_point and name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point=entry.entry_point,
                max_episode_steps=entry.max_episode_steps,
                reward_threshold=entry.reward_threshold,
            )


def make(env_id: str, kwargs: Mapping[str, Any]) -> gymnasium.Env:
    """A new environment.

    Raises:
        EnvError: no such id (with the nearest right ones), wrong arguments, or spaces that the agents cannot use.
    """
    register()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # CartPole-v0 and its like still run
            env: gymnasium.Env = gymnasium.make(env_id, **kwargs, disable_env_checker=True)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        near = difflib.get_close_matches(env_id, list(gymnasium.registry), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near and env_id not in near else ""
        raise EnvError(f"env.id: {env_id}: {_first_line(error)}{hint}") from None
    except (TypeError, ValueError) as error:
        raise EnvError(f"env.kwargs: {env_id} does not take {dict(kwargs)}: {_first_line(error)}") from None
    except Exception as error:  # whatever an environment's own code may raise: one line, not a traceback of each rank
        raise EnvError(f"env.id: {env_id} cannot be made: {type(error).__name__}: {_first_line(error)}") from error
    spec_of(env_id, env)
    return env


def spec_of(env_id: str, env: gymnasium.Env) -> EnvSpec:
    """What an agent must know of `env`; raises EnvError if its spaces are not Box and Discrete."""
    obs, actions = env.observation_space, env.action_space
    if not isinstance(actions, gymnasium.spaces.Discrete):
        raise EnvError(f"env.id: {env_id} has {type(actions).__name__} actions; the agents need Discrete ones")
    if actions.start != 0:
        raise EnvError(f"env.id: {env_id} counts its actions from {actions.start}; the agents count from 0")
    if not isinstance(obs, gymnasium.spaces.Box):
        raise EnvError(f"env.id: {env_id} has {type(obs).__name__} observations; the agents need a Box")
    scale = ENVS[env_id].obs_scale if env_id in ENVS else 1.0
    if obs.dtype == np.uint8:
        scale = 1 / 255  # pixels stay bytes until they are on the learning device
    stacked = env_id in ENVS and ENVS[env_id].stacked
    return EnvSpec(tuple(obs.shape), np.dtype(obs.dtype), int(actions.n), scale, stacked=stacked)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())


EnvMaker = Callable[[], gymnasium.Env]
