"""The presets of Zaxxon and Phoenix say what the paper says, and their twins are the same experiment, shorter."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mpi_ltcr import envs, options
from mpi_ltcr.envs.atari import DQN

GAMES = {"zaxxon": (4_000_000, 10_000), "phoenix": (2_000_000, 5_000)}  # LTCR 4.2
MODES = {"alone": ("none", 1, 0), "9-1": ("public_memory", 9, 1)}
PRESETS = [f"ltcr-{game}-{mode}" for game, mode in itertools.product(GAMES, MODES)]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_papers_length_and_the_resolutions_of_what_it_leaves_open(name: str) -> None:
    config, _ = options.load([name])
    _, game, mode = name.split("-", 2)
    agent, transfer = config.agent, config.transfer
    assert (config.name, config.frames, config.eval.every) == (name, *GAMES[game])
    assert (transfer.method, transfer.revisit, transfer.digest) == MODES[mode]
    assert (agent.atoms, agent.vmin, agent.vmax, agent.reward_clip, agent.torso) == (51, -10, 10, 1, "nature")
    assert (agent.lr, agent.discount, agent.batch, agent.adam_eps) == (1e-4, 0.99, 32, 0.01 / 32)
    assert (agent.replay_capacity, agent.warmup, agent.update_period) == (1_000_000, 20_000, 4)
    assert (agent.target_period, agent.epsilon_frames, agent.epsilon_end) == (8_000, 250_000, 0.01)
    assert (config.eval.epsilon, config.eval.episodes) == (0.001, 1)
    made: Any = envs.make(config.env.id, config.env.kwargs)
    spec = envs.spec_of(config.env.id, made)
    assert (spec.obs_shape, str(spec.obs_dtype), spec.num_actions, spec.stacked) == ((4, 84, 84), "uint8", 18, True)
    assert made.unwrapped.settings == DQN
    assert config.env.kwargs["episodic_life"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_small_twin_is_the_same_experiment_with_fewer_frames(name: str) -> None:
    large, small = (options.to_dict(options.load([preset])[0]) for preset in (name, f"small-{name}"))
    changed = {
        f"{section}.{field}" if isinstance(large[section], dict) else section
        for section in large
        for field in (large[section] if isinstance(large[section], dict) else [""])
        if (large[section][field] if field else large[section]) != (small[section][field] if field else small[section])
    }
    lengths = {f"agent.{field}" for field in ("replay_capacity", "warmup", "target_period", "epsilon_frames")}
    rhythm = {"eval.every", "log.probe_every", "log.probe_size", "checkpoint.every"}
    assert changed - {"transfer.start", "transfer.memory_size"} == {"name", "frames", *lengths, *rhythm}
    assert small["frames"] == 4000
