"""Reading runs: finished, running or cut off. The one way by which analysis and `status` see a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from mpi_ltcr.archive.atomic import open_hdf5
from mpi_ltcr.archive.schema import FORMAT, FORMAT_VERSION


class ReadError(Exception):
    """Not a run of ours, or a log that cannot be read; the text names the path."""


class Log(NamedTuple):
    """One agent's published log."""

    path: Path
    attributes: dict[str, Any]

    def table(self, name: str) -> dict[str, np.ndarray]:
        """The columns of a table, whole, as arrays of equal length. Raises KeyError if there is none of this
        name, ReadError if it is not one of ours."""
        try:
            with open_hdf5(self.path) as file:
                size = file.id.get_filesize()
                return {column: _read_column(dataset, size) for column, dataset in file[name].items()}
        except (OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ReadError(f"{self.path}: table {name} cannot be read ({type(error).__name__}: {error})") from None

    @property
    def config(self) -> dict[str, Any]:
        """The run's resolved configuration."""
        return dict(json.loads(self.attributes["config_json"]))

    @property
    def agent(self) -> int:
        """Number of the agent in its team."""
        return int(self.attributes["agent"])


def _read_column(dataset: h5py.Dataset, file_size: int) -> np.ndarray:
    if dataset.nbytes > file_size:
        raise ValueError(f"{dataset.name} claims more than the file holds")
    return np.asarray(dataset.asstr()[:] if h5py.check_string_dtype(dataset.dtype) else dataset[:])


def open_log(path: Path) -> Log:
    """A log of ours. Raises ReadError for anything else."""
    try:
        with open_hdf5(path) as file:
            attributes = dict(file.attrs)
    except (OSError, RuntimeError) as error:
        raise ReadError(f"{path}: not readable as HDF5 ({error})") from None
    if attributes.get("format") != FORMAT:
        raise ReadError(f"{path}: not a log of this program")
    version = attributes.get("format_version")
    if version != FORMAT_VERSION:
        raise ReadError(f"{path}: log format version {version}, this reads {FORMAT_VERSION}")
    return Log(path, attributes)


def read_logs(run: Path, kind: str = "agent") -> list[Log]:
    """The logs of a run, one per agent (or "server"), by number. Raises ReadError if there are none yet."""
    paths = sorted((run / "logs").glob(f"{kind}*.h5"))
    if not paths:
        raise ReadError(f"{run}: no logs/{kind}*.h5; not a run directory, or it has published nothing yet")
    return [open_log(path) for path in paths]
