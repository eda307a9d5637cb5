"""Command line and YAML -> configuration, and back. One line for whatever cannot be read."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import typing
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from mpi_ltcr.config import AlignConfig, C51Config, CA3CConfig, Config, ConfigError, kind_of, require
from mpi_ltcr.yaml_check import MAX_BYTES, check_file

set_parsing_settings(docstring_parse_attribute_docstrings=True)


CONFIGS: dict[str, type] = {"ltcr": Config, "ca3c": CA3CConfig, "align": AlignConfig}
"""Program -> what can be asked of it."""


def load(arguments: list[str]) -> tuple[Any, bool]:
    """The configuration that a command line asks for, and whether only its plan is wanted.

    Raises:
        ConfigError: naming the field, in one line.
    """
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--config", str(preset_path(arguments[0])), *arguments[1:]]
    elif not any(a.split("=")[0] in ("--config", "--help", "-h", "--print_config") for a in arguments):
        raise ConfigError(f"train: name a preset ({', '.join(preset_names())}) or a file with --config FILE")
    plan = "--plan" in arguments  # no field: what --print_config prints is what --config reads
    arguments = _joined([argument for argument in arguments if argument != "--plan"])
    files = _config_files(arguments)
    cls = CONFIGS[_program(files)]
    sections = [f.name for f in dataclasses.fields(cls) if dataclasses.is_dataclass(f.default)]
    for path in files:
        check_file(path, sections)
    parser = make_parser(cls)
    try:
        nested: list[tuple[list[str], str]] = []
        if "env" in sections:
            arguments, nested = _split_nested(arguments)
        asked = parser.parse_args(arguments)
        for name in sections:
            require(asked[name] is not None, f"{name}: needs a mapping of fields")
        _check_agents(asked)
        if nested:
            _set_nested(asked.env.kwargs, nested)
        fields = vars(parser.instantiate(asked))
        fields.pop("config")
        return cls(**fields), plan
    except ArgumentError as error:
        raise ConfigError(one_line(error, cls)) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"config: not a YAML file of fields: {' '.join(str(error).split())}") from None


def _joined(arguments: list[str]) -> list[str]:
    """`--agent.vmin -1e2` as `--agent.vmin=-1e2`: with an exponent the parser would take the number for an option."""
    joined: list[str] = []
    for word in arguments:
        number = re.fullmatch(r"-(\d+\.?\d*|\.\d+)[eE][+-]?\d+", word)
        if number and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _config_files(arguments: list[str]) -> list[Path]:
    """The values of `--config FILE` and `--config=FILE`."""
    followed = [value for option, value in pairwise(arguments) if option == "--config"]
    return [Path(v) for v in followed + [a.split("=", 1)[1] for a in arguments if a.startswith("--config=")]]


def _split_nested(arguments: list[str]) -> tuple[list[str], list[tuple[list[str], str]]]:
    """Options like `--env.kwargs.rules.team_size 3` apart: below the first level the parser would replace the whole
    mapping that a file has there, and leave numbers text.

    Returns:
        The other arguments, and (keys, text) of these.
    """
    rest, nested = [], []
    words = iter(arguments)
    for word in words:
        option, equals, text = word.partition("=")
        keys = option.removeprefix("--env.kwargs.").split(".")
        if not option.startswith("--env.kwargs.") or len(keys) == 1:
            rest.append(word)
            continue
        value = text if equals else next(words, None)
        require(value is not None, f"{option[2:]}: expected one argument")
        nested.append((keys, str(value)))
    return rest, nested


def _set_nested(kwargs: dict[str, Any], nested: list[tuple[list[str], str]]) -> None:
    for keys, text in nested:
        section = kwargs
        for key in keys[:-1]:
            section = section.setdefault(key, {})
            require(isinstance(section, dict), f"env.kwargs.{'.'.join(keys)}: {key} is no mapping of fields")
        section[keys[-1]] = yaml.safe_load(text)


def _program(files: list[Path]) -> str:
    """Which program the last file that says so is for; a file that cannot be read is complained of elsewhere."""
    found = "ltcr"
    for path in files:
        if path.is_file():
            with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
                named = re.findall(r"^program:[ ]*(\w+)", file.read(MAX_BYTES), re.MULTILINE)
                found = next((name for name in named if name in CONFIGS), found)
    return found


def make_parser(cls: type = Config, prog: str = "mpi-ltcr train") -> ArgumentParser:
    """The parser of a run: `--config FILE`, one option for each field, `--print_config`."""
    parser = ArgumentParser(
        prog=prog,
        exit_on_error=False,
        allow_abbrev=False,
        usage=f"{prog} PRESET|--config FILE [--FIELD VALUE ...] [--plan] [--print_config]",
        description="Train a team: `mpirun -n 2 mpi-ltcr train ltcr-cartpole-9-1 --seed 3`. One rank is one agent. "
        "`mpi-ltcr presets` lists the presets; `--plan` prints roles, devices and sizes, then stops.",
    )
    parser.add_argument("--config", action="config", help="A YAML file of fields; later options override it.")
    parser.add_class_arguments(cls, as_group=True)
    return parser


def _check_agents(asked: Any) -> None:
    """Type-check each entry of `agents` as what it overrides: `agent`, or the defaults of another kind.

    Converted values replace the written ones.
    """
    for index, override in enumerate(asked.get("agents") or []):
        changes = {name: value for name, value in override.items() if name != "kind"}
        parser = ArgumentParser(exit_on_error=False)
        try:
            kind = kind_of(override)
            parser.add_class_arguments(kind)
            if kind is C51Config:
                parser.set_defaults(vars(asked.agent))
            checked = parser.parse_object(changes)
        except (ArgumentError, ConfigError) as error:
            raise ConfigError(f"agents[{index}].{one_line(error)}") from None
        asked.agents[index] = {**override, **{name: checked[name] for name in changes}}


def option_names(cls: type = Config, prefix: str = "", *, entries: bool = False) -> list[str]:
    """Every dotted option name below a configuration class; `entries`: also the fields of what its lists hold."""
    names = []
    for name, kind in typing.get_type_hints(cls).items():
        names.append(prefix + name)
        for below in (kind, *(typing.get_args(kind) if entries else ())):
            if isinstance(below, type) and dataclasses.is_dataclass(below):
                names += option_names(below, f"{prefix}{name}.", entries=entries)
    return names


def one_line(error: Exception, cls: type = Config) -> str:
    """A parser's error in one line: the field first, and the nearest right name for an unknown one."""
    text = " ".join(str(error).split())
    text = re.sub(r": Problem with given class_path '[\w.]*': (Parser key )?", ".", text)  # an entry of a list
    if nested := re.fullmatch(r"Parser key (.*)\.Option '(.*)' is not accepted", text):
        return _unknown(".".join(nested.groups()).replace('"', ""), cls)
    if text.startswith("unrecognized arguments:"):
        return _unknown(text.split(":", 1)[1].split()[0].lstrip("-").split("=")[0], cls)
    if text.startswith("Option '"):
        return _unknown(text.split("'")[1], cls)
    if text.startswith("Group '"):
        return _unknown(f"{text.split(chr(39))[1]}.{text.split(chr(39))[3]}", cls)
    text = text.removeprefix("Parser key ").removeprefix("argument --").replace('"', "")
    for pattern, plain in PLAIN_WORDS:
        text = re.sub(pattern, plain, text)
    return text


PLAIN_WORDS = (
    (r"Expected a typing\.Literal\[(.*)\]\. Got value: (.*)", r"\2 is none of \1"),
    (r"Expected a <class '(\w+)'>\. Got value: (.*)", r"\2 is no \1"),
    (r"Not of type (\w+): (\S+) does not conform to restriction", r"\2 is no \1,"),
    (r"Not of type (\w+): .*: '(.*)'", r"'\2' is no \1"),
    (r"Not a valid subclass of \w+\. Got value: (.*) Subclass types expect .*", r"\1 is no mapping of fields"),
    (r"Unable to load config '(.*?)'.*", r"\1 is neither a mapping of fields nor a file of them"),
)
"""What the parser says, and how we say it."""


def _unknown(name: str, cls: type) -> str:
    names = option_names(cls, entries=True)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    near = near or [n for n in names if n.split(".")[-1] == name.split(".")[-1]][:1]
    near = near or difflib.get_close_matches(name, [n.split(".")[-1] for n in names], n=1)
    return f"{name or '--'}: unknown option; " + (f"did you mean {near[0]}?" if near else "see mpi-ltcr train --help")


def load_file(path: Path) -> Any:
    """The configuration in a run directory's config.yaml, checked like any other."""
    return load(["--config", str(path)])[0]


def to_dict(config: Any) -> dict[str, Any]:
    """Plain mappings, lists, numbers and strings: what YAML, JSON and HDF5 hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(v) for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        for kind in (bool, int, float):  # the restricted number types of the parser are subclasses
            if isinstance(value, kind):
                return kind(value)
        return value

    return {name: plain(value) for name, value in dataclasses.asdict(config).items()}


def to_yaml(config: Any) -> str:
    """A file that `--config` reads back to an equal configuration."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("mpi_ltcr") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset; raises ConfigError with the nearest right names."""
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
        raise ConfigError(f"{name}: no such preset; did you mean {' or '.join(near)}? (a file: --config {name})")
    return Path(str(resources.files("mpi_ltcr") / "presets" / f"{name}.yaml"))


def preset_summary(name: str) -> str:
    """The first comment line of a preset's file."""
    return preset_path(name).read_text().split("\n", 1)[0].lstrip("# ")
