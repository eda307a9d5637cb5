"""What a run that goes on must have in common with its checkpoint: every field that is not expressly free."""

from __future__ import annotations

import copy
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from ca3c_helpers import POLE, config_of

from mpi_ltcr import options
from mpi_ltcr.config import C51Config, CA3CConfig, Config
from mpi_ltcr.programs.continuity import FREE, changed, kept

KNOWN = {*options.option_names(Config, entries=True), *options.option_names(CA3CConfig, entries=True)}
IN_AGENTS = {f"agents.{field.name}" for field in dataclasses.fields(C51Config)}


def leaves(tree: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where each value of a configuration stands."""
    if isinstance(tree, dict) and tree:
        return [leaf for key, value in tree.items() for leaf in leaves(value, (*place, key))]
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        return [leaf for index, value in enumerate(tree) for leaf in leaves(value, (*place, index))]
    return [place]


def with_other(tree: Any, place: tuple[Any, ...]) -> Any:
    """The same, with another value there."""
    tree = copy.deepcopy(tree)
    section = tree
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = {"other": 1} if section[place[-1]] == {} else "another value"
    return tree


def name_of(place: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)[1:]


@pytest.fixture
def configs(tmp_path: Path) -> list[Any]:
    """One of each program, with something in each of its lists."""
    team, _ = options.load(["ltcr-cartpole-9-1", "--agents", "[{n_step: 3, device: cpu, backend: fused}, {}]"])
    student = {**POLE, "name": "student", "teachers": [{"task": "pole"}]}
    return [team, config_of(tmp_path, tasks=[POLE, student])]


def test_every_field_that_is_not_free_is_compared_and_named(configs: list[Any]) -> None:
    compared = set()
    for config in configs:
        saved = kept(config)
        assert changed(saved, config) == ""
        for place in leaves(saved):
            told, plain = changed(with_other(saved, place), config), re.sub(r"\[\d+\]", "", name_of(place))
            if {plain, plain.split(".")[0]} & FREE:
                assert told == ""
            else:
                assert told.startswith((f"{name_of(place)}: ", f"{name_of(place)}.other: "))
                compared.add(name_of(place))
    assert {"seed", "agent.vmax", "agents[0].n_step", "env.kwargs", "tasks[1].teachers[0].t1", "workers"} <= compared


def test_what_is_free_is_there() -> None:
    assert FREE <= KNOWN | IN_AGENTS


def test_a_field_that_came_later_is_not_compared_but_an_argument_of_the_game_is(configs: list[Any]) -> None:
    config, saved = configs[0], kept(configs[0])
    del saved["agent"]["double"], saved["transfer"]
    assert changed(saved, config) == ""
    asked = dataclasses.replace(config, env=dataclasses.replace(config.env, kwargs={"enemies": "scripted"}))
    assert changed(saved, asked).startswith(
        'env.kwargs.enemies: "scripted" now, nothing when it was saved; put it back'
    )
    assert changed(kept(asked), config).startswith('env.kwargs.enemies: nothing now, "scripted" when it was saved')
    longer = dataclasses.replace(config, agents=[*config.agents, {"hidden": [8]}])
    assert changed(saved, longer).startswith("agents[2].hidden: [8] now, nothing when it was saved")
