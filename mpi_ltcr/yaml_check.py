"""A configuration file is looked at before the parser reads it: what is no short file of fields is named in one line.

The parser alone would follow a billion aliases, read 10 MB for a minute, take the last of two equal keys, or load
another file that a section names.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import yaml

from mpi_ltcr.config import ConfigError, require

MAX_BYTES, MAX_DEPTH = 65_536, 12


def check_file(path: Path, sections: Collection[str]) -> None:
    """Raise ConfigError unless `path` is a YAML file that maps field names to values.

    Args:
        sections: fields that are mappings themselves.
    """
    where = f"config: {path}"
    require(path.exists(), f"{where}: no such file")
    require(path.is_file(), f"{where}: not a regular file")
    text = _read(path, where)
    try:
        _check_events(text, where)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        yaml.safe_load(text)  # refuses tags that would make objects
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        hint = "; YAML is indented with blanks, not tabs" if "\t" in text else ""
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}{hint}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{where}: needs fields and values, e.g. `frames: 1000`")
    _check_keys(node, where, "")
    for key, value in node.value:
        require(
            key.value not in ("config", "plan"), f"{where}: {key.value}: unknown option; it belongs on a command line"
        )
        if key.value in sections and not isinstance(value, yaml.MappingNode):
            raise ConfigError(f"{where}: {key.value}: needs a mapping of fields")


def _read(path: Path, where: str) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from None
    require(len(raw) <= MAX_BYTES, f"{where}: more than {MAX_BYTES} bytes; a configuration is a short text")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 text (byte {error.start})") from None


def _check_events(text: str, where: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = f"{where}: line {event.start_mark.line + 1 if event.start_mark else '?'}"
        require(not isinstance(event, yaml.AliasEvent), f"{line}: aliases (*name) are not followed; write it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        require(depth <= MAX_DEPTH, f"{line}: nested deeper than {MAX_DEPTH}")


def _check_keys(node: yaml.Node, where: str, prefix: str) -> None:
    """Each key once, in this mapping and those below."""
    seen = set()
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name = f"{prefix}{key.value}"
        require(name not in seen, f"{where}: {name}: given twice")
        seen.add(name)
        _check_keys(value, where, f"{name}.")
