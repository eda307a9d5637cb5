"""A configuration that cannot be run cannot be made."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpi_ltcr.config import C51Config, Config, ConfigError, LogConfig, RuntimeConfig, TransferConfig


@pytest.mark.parametrize(
    ("cls", "fields", "field"),
    [
        (C51Config, {"atoms": 1}, "agent.atoms"),
        (C51Config, {"vmin": 1.0, "vmax": 1.0}, "agent.vmin"),
        (C51Config, {"vmin": 2.0, "vmax": 1.0}, "agent.vmin"),
        (C51Config, {"vmax": math.inf}, "agent.vmax"),
        (C51Config, {"vmin": math.nan}, "agent.vmin"),
        (C51Config, {"lr": math.inf}, "agent.lr"),
        (C51Config, {"batch": 11, "replay_capacity": 10, "warmup": 0}, "agent.batch"),
        (C51Config, {"warmup": 11, "replay_capacity": 10, "batch": 1}, "agent.warmup"),
        (C51Config, {"hidden": ()}, "agent.hidden"),
        (TransferConfig, {"revisit": 0, "digest": 0}, "transfer.revisit"),
        (TransferConfig, {"cycle": 15}, "transfer.cycle"),
        (TransferConfig, {"subset": "per_teacher", "target": "mean"}, "transfer.target"),
        (TransferConfig, {"digest": 0}, "transfer.digest"),
        (TransferConfig, {"method": "none"}, "transfer.digest"),
        (TransferConfig, {"upload_probability": 0.0}, "transfer.upload_probability"),
        (TransferConfig, {"demonstrations": 100, "memory_size": 99}, "transfer.demonstrations"),
        (Config, {"frames": 101}, "frames"),
        (Config, {"seed": 2**63}, "seed"),
        (Config, {"name": "a/b"}, "name"),
        (Config, {"name": "..", "out": "x"}, "name"),
        (Config, {"out": "runs/a b"}, "out"),
        (Config, {"out": "runs/.."}, "out"),
        (Config, {"agents": [{}, {"vmax": 50.0}]}, "agents"),
        (Config, {"agents": [{"atoms": 1}, {}]}, r"agents\[0\]"),
        (Config, {"agents": [{}, {"no_such": 1}]}, r"agents\[1\]"),
    ],
)
def test_what_contradicts_itself_is_refused_by_the_name_of_the_field(
    cls: type, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}") as caught:
        cls(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (C51Config, {"atoms": 2, "vmin": -1e-9, "vmax": 1e-9}),
        (C51Config, {"batch": 10, "replay_capacity": 10, "warmup": 10}),
        (C51Config, {"torso": "linear", "hidden": ()}),
        (TransferConfig, {"revisit": 0, "digest": 5, "cycle": 3}),
        (TransferConfig, {"subset": "per_teacher"}),
        (TransferConfig, {"method": "none", "digest": 0, "upload_probability": 0.0}),
        (TransferConfig, {"demonstrations": 99, "memory_size": 99}),
        (Config, {"seed": 2**63 - 1, "out": "/tmp/a.b_c-D"}),
        (Config, {"agents": [{}, {"hidden": (3,), "lr": 0.1}]}),
    ],
)
def test_the_edge_of_what_is_possible_is_possible(cls: type, fields: dict[str, Any]) -> None:
    cls(**fields)


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 12))
def test_the_slots_of_a_round_have_the_ratio_that_was_asked_for(revisit: int, digest: int, rounds: int) -> None:
    cycle = (revisit + digest) * rounds
    transfer = TransferConfig(revisit=revisit, digest=digest, cycle=cycle)
    assert (transfer.revisit_slots, transfer.digest_slots) == (revisit * rounds, digest * rounds)


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 100))
def test_a_refused_cycle_comes_with_a_multiple_that_is_accepted(revisit: int, digest: int, cycle: int) -> None:
    try:
        TransferConfig(revisit=revisit, digest=digest, cycle=cycle)
    except ConfigError as error:
        multiple = int(str(error).rsplit(" ", 1)[1])
        assert TransferConfig(revisit=revisit, digest=digest, cycle=multiple).digest_slots > 0
    else:
        assert cycle * digest % (revisit + digest) == 0


def test_an_agent_alone_needs_no_teammates_and_a_team_does() -> None:
    alone = Config(transfer=TransferConfig(method="none", revisit=1, digest=0))
    alone.check_team(1)
    alone.check_team(4)
    Config().check_team(2)
    with pytest.raises(ConfigError, match=r"transfer\.method.*mpirun -n 2"):
        Config().check_team(1)


def test_a_list_of_agents_fixes_the_size_of_the_team() -> None:
    config = Config(agents=[{}, {}, {}])
    config.check_team(3)
    with pytest.raises(ConfigError, match=r"agents: lists 3, 2 started; use mpirun -n 3"):
        config.check_team(2)


def test_independent_learners_may_have_unlike_supports_but_count_the_same_frames() -> None:
    alone = TransferConfig(method="none", revisit=1, digest=0)
    unlike = [{"vmax": 50.0, "discount": 0.9}, {"atoms": 21, "reward_scale": 0.1}]
    config = Config(transfer=alone, agents=unlike, log=LogConfig(probe_size=0))
    assert (config.agent_of(0).vmax, config.agent_of(1).atoms) == (50.0, 21)
    with pytest.raises(ConfigError, match=r"agent\.atoms.*log\.probe_size"):
        Config(transfer=alone, agents=unlike)
    with pytest.raises(ConfigError, match="update_period"):
        Config(transfer=alone, agents=[{}, {"update_period": 4}])


def test_teammates_may_differ_in_everything_but_their_lessons_and_their_rounds() -> None:
    common = {"update_period", "atoms", "vmin", "vmax", "discount", "reward_scale", "reward_clip"}
    others = {
        "backend": "fused", "device": "cuda", "torso": "linear", "hidden": (7,), "double": True, "n_step": 3,
        "lr": 0.5, "adam_eps": 0.1, "grad_clip": 1.0, "batch": 2, "replay_capacity": 900, "warmup": 3,
        "prioritised": True, "priority_omega": 0.1, "beta_start": 0.1, "beta_frames": 3, "target_period": 3,
        "epsilon_start": 0.5, "epsilon_end": 0.3, "epsilon_frames": 3,
    }  # fmt: skip
    eager = {"dueling": True, "noisy": 0.5, "returns": "quantiles", "quantiles": 7}
    Config(agents=[{}, others, eager])
    fields = {f.name: f.default for f in dataclasses.fields(C51Config)}
    assert set(fields) == common | set(others) | set(eager)
    for name in common:
        with pytest.raises(ConfigError, match=rf"agents: agent\.{name} must be the same for all"):
            Config(agents=[{}, {name: fields[name] + 1 if name != "discount" else 0.5}])


def test_an_agent_computes_where_it_says_and_the_others_where_the_run_says() -> None:
    config = Config(agents=[{}, {"device": "cuda"}, {"device": "cpu"}], runtime=RuntimeConfig(device="auto"))
    assert [config.device_of(index) for index in range(3)] == ["auto", "cuda", "cpu"]


def test_a_configuration_cannot_be_changed_once_it_was_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().frames = 3  # type: ignore[misc]
