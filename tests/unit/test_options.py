"""A configuration survives the way through YAML, and every preset says what it means."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpi_ltcr import options
from mpi_ltcr.config import C51Config, Config, ConfigError, EnvConfig, TransferConfig

ALONE = "ltcr-cartpole-alone"


def through_yaml(config: Any, folder: Path) -> Any:
    (folder / "config.yaml").write_text(options.to_yaml(config))
    return options.load_file(folder / "config.yaml")


@pytest.mark.parametrize("name", options.preset_names())
def test_every_preset_loads_says_what_it_is_and_survives_yaml(name: str, tmp_path: Path) -> None:
    config, plan = options.load([name])
    assert not plan
    assert config.name == name
    assert options.preset_summary(name).endswith(".")
    assert through_yaml(config, tmp_path) == config


@pytest.mark.parametrize("name", [name for name in options.preset_names() if name.startswith("ltcr-cartpole")])
def test_a_cartpole_preset_holds_only_what_differs_from_the_defaults_or_is_the_papers_own_word(name: str) -> None:
    content, default = yaml.safe_load(options.preset_path(name).read_text()), options.to_dict(Config())
    idle = {f"transfer.{key}" for key, value in content.pop("transfer").items() if value == default["transfer"][key]}
    idle |= {key for key, value in content.items() if value == default[key]}
    assert idle <= {"program", "frames", "transfer.revisit", "transfer.digest"}


@pytest.mark.parametrize("number", ["-1e2", "-1.5E+2", "-.5e3", "-100"])
@pytest.mark.parametrize("joint", [" ", "="])
def test_negative_numbers_are_taken_in_every_notation(number: str, joint: str) -> None:
    config, _ = options.load([ALONE, *f"--agent.vmin{joint}{number}".split()])
    assert config.agent.vmin == float(number)


@settings(deadline=None, derandomize=True, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    agent=st.fixed_dictionaries(
        {},
        optional={
            "lr": st.floats(1e-300, 1e10),
            "vmin": st.floats(-1e15, -1e-15),
            "vmax": st.floats(1e-15, 1e15),
            "hidden": st.lists(st.integers(1, 10**9), min_size=1, max_size=4).map(tuple),
            "torso": st.sampled_from(["mlp", "linear"]),
            "epsilon_end": st.floats(0, 1),
        },
    ),
    seed=st.integers(0, 2**63 - 1),
    kwargs=st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=6),
        st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, width=32) | st.text(),
        max_size=3,
    ),
    agents=st.sampled_from([[], [{}, {"hidden": [8]}], [{"torso": "linear"}, {"lr": 0.5, "batch": 2}]]),
)
def test_any_configuration_survives_yaml(
    agent: dict[str, Any], seed: int, kwargs: dict[str, Any], agents: list[dict[str, Any]], tmp_path: Path
) -> None:
    config = Config(agent=C51Config(**agent), seed=seed, env=EnvConfig("CartPole-v1", kwargs), agents=agents)
    again = through_yaml(config, tmp_path)
    assert options.to_dict(again) == options.to_dict(config)


def test_the_command_line_overrides_the_preset_and_the_later_option_the_earlier() -> None:
    config, _ = options.load([ALONE, "--agent.lr", "0.1", "--agent.lr=0.2", "--agent.hidden", "[7, 8]", "--seed=9"])
    assert (config.agent.lr, config.agent.hidden, config.seed) == (0.2, (7, 8), 9)
    assert config.transfer.method == "none"  # the preset's


def test_a_file_overrides_the_preset_before_it_and_is_overridden_by_what_follows(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("frames: 5000\nagent: {lr: 0.5, atoms: 11}\n")
    config, _ = options.load([ALONE, "--config", str(tmp_path / "mine.yaml"), "--agent.atoms", "21"])
    assert (config.frames, config.agent.lr, config.agent.atoms) == (5000, 0.5, 21)


def test_arguments_of_the_environment_keep_their_types() -> None:
    config, _ = options.load([ALONE, "--env.kwargs.angle_limit_deg", "12", "--env.kwargs.sutton_barto_reward", "true"])
    assert config.env.kwargs == {"angle_limit_deg": 12, "sutton_barto_reward": True}


def test_plan_is_told_apart_from_the_configuration() -> None:
    assert options.load([ALONE, "--plan"])[1] is True


def test_the_agents_of_an_unlike_team_are_typed_like_the_common_one() -> None:
    config, _ = options.load(["ltcr-cartpole-9-1", "--agents", "[{}, {hidden: [64, 32], lr: 1e-3}]"])
    other = config.agent_of(1)
    assert (other.hidden, other.lr) == ((64, 32), 0.001)
    assert isinstance(other.lr, float)
    assert config.agent_of(0) == config.agent


def test_an_agents_override_stands_on_what_all_have_in_common() -> None:
    config, _ = options.load(["ltcr-cartpole-9-1", "--agent.batch", "8", "--agents", "[{batch: 4}, {hidden: [5]}]"])
    assert [config.agent_of(i).batch for i in (0, 1)] == [4, 8]


def test_numbers_are_plain_in_what_is_written() -> None:
    written = options.to_dict(options.load([ALONE])[0])

    def kinds(value: Any) -> set[type]:
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()), set())
        return set().union(*map(kinds, value), set()) if isinstance(value, list) else {type(value)}

    assert kinds(written) <= {int, float, str, bool, type(None)}


def test_printing_the_configuration_prints_all_of_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        options.load([ALONE, "--agent.atoms", "21", "--print_config"])
    assert end.value.code in (0, None)
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert options.load_file(tmp_path / "printed.yaml") == options.load([ALONE, "--agent.atoms", "21"])[0]


@pytest.mark.parametrize("cls", options.CONFIGS.values(), ids=options.CONFIGS.keys())
def test_help_explains_every_option(cls: type) -> None:
    help_ = " ".join(options.make_parser(cls).format_help().split())
    missing = [name for name in options.option_names(cls) if f"--{name}" not in help_]
    assert missing == []


@pytest.mark.parametrize("cls", options.CONFIGS.values(), ids=options.CONFIGS.keys())
def test_every_field_has_a_sentence_of_its_own(cls: type) -> None:
    """A line of docstring below it, which is also its --help."""
    import ast
    import inspect

    def undocumented(section: type) -> list[str]:
        body = ast.parse(inspect.getsource(section)).body[0].body  # type: ignore[attr-defined]
        names = {f.name: f for f in dataclasses.fields(section)}
        said = {
            node.target.id  # type: ignore[attr-defined]
            for node, after in zip(body, [*body[1:], None], strict=True)
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr)
        }
        below = [type(f.default) for f in names.values() if dataclasses.is_dataclass(f.default)]
        plain = {name for name, f in names.items() if not dataclasses.is_dataclass(f.default)}
        return sorted(plain - said) + [line for inner in below for line in undocumented(inner)]

    assert undocumented(cls) == []


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean ltcr-cartpole-7-3"):
        options.preset_path("ltcr-cartpole-73")


def test_defaults_are_the_papers() -> None:
    config = Config()
    assert (config.agent.discount, config.agent.lr, config.agent.atoms) == (0.99, 1e-4, 51)  # LTCR 4.1, Fig. 5
    assert (config.agent.epsilon_start, config.agent.epsilon_end) == (1.0, 0.01)  # LTCR 4.1
    assert (config.eval.every, config.eval.epsilon, config.frames) == (100, 0.001, 100_000)  # LTCR 4.2
    assert (TransferConfig().revisit, TransferConfig().digest) == (9, 1)  # 9-1-LTCR


def test_an_option_deep_in_the_environments_arguments_keeps_its_type_and_what_stands_beside_it() -> None:
    config, _ = options.load(["ltcr-space-battle-3v3-9-1", "--env.kwargs.rules.health=70", "--env.kwargs.a.b", "x"])
    assert config.env.kwargs == {"rules": {"team_size": 3, "health": 70}, "enemies": "random", "a": {"b": "x"}}
    with pytest.raises(ConfigError, match=r"env\.kwargs\.enemies\.a: enemies is no mapping"):
        options.load(["ltcr-space-battle-3v3-9-1", "--env.kwargs.enemies.a", "3"])
    with pytest.raises(ConfigError, match=r"env\.kwargs\.rules\.health: expected one argument"):
        options.load(["ltcr-space-battle-3v3-9-1", "--env.kwargs.rules.health"])
