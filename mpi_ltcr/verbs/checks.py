"""What several verbs need: a parser that refuses in one line, and what is looked at before anything is started."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from mpi_ltcr.comm import launch
from mpi_ltcr.config import Config, ConfigError


class Parser(argparse.ArgumentParser):
    """Refuses in one line, like everything else; options are written out."""

    def __init__(self, prog: str, *, description: str | None, usage: str | None = None) -> None:
        super().__init__(prog, description=description, usage=usage, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


def complain(message: str) -> None:
    """One line for the whole job, whoever of the ranks sees the error."""
    if launch.rank() == 0:
        print(f"mpi-ltcr: error: {message}", file=sys.stderr, flush=True)


def check_env(config: Config) -> None:
    """Raise ConfigError unless the environment exists, can be made, and suits the agents; and so its enemies."""
    from mpi_ltcr import envs, rivals

    try:
        for env in config.environments():
            made = envs.make(env.id, rivals.without_policies(env))
            made.close()
            if isinstance(config, Config):
                config.check_sight(envs.spec_of(env.id, made).obs_shape)
    except envs.EnvError as error:
        raise ConfigError(str(error)) from None
    if isinstance(config, Config):
        rivals.find(config)


def require_run(run: Path) -> None:
    """Raise ConfigError unless a run lies there."""
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run}: not a run directory (no config.yaml); mpi-ltcr train makes one")


def check_out(config: Config) -> None:
    """Raise ConfigError if the run directory cannot be made; the binding check is made again when it is."""
    out = Path(config.out or "runs")
    if config.out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out: {out} exists already; choose another --out, or: mpi-ltcr resume {out}")
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"out: {out} cannot be made, {parent} is no writable directory; choose another --out")
