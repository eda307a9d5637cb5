"""Reading runs: finished, running or cut off. The one way by which analysis and `status` see a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from mpi_ltcr.archive.atomic import open_hdf5
from mpi_ltcr.archive.schema import FORMAT, FORMAT_VERSION
from mpi_ltcr.archive.tree import Allowance

TEXT_BYTES = 64_000_000
"""Texts of a log that are read at once, at most, if they are no longer than its file."""


class ReadError(Exception):
    """Not a run of ours, or a log that cannot be read; the text names the path."""


class NoTableError(ReadError):
    """A log without the table that was asked for."""


class Table(dict[str, np.ndarray]):
    """Columns by name. Raises ReadError for one that is not there."""

    def __missing__(self, column: str) -> np.ndarray:
        raise ReadError(f"a log has no column {column}; it is damaged, or another program wrote it")


class Log(NamedTuple):
    """One agent's published log."""

    path: Path
    attributes: dict[str, Any]

    def table(self, name: str) -> Table:
        """The columns of a table, whole, as arrays of equal length. Raises NoTableError if there is none of this
        name, ReadError if it is not one of ours."""
        try:
            with open_hdf5(self.path) as file:
                return _read_table(file[name], file.id.get_filesize())
        except KeyError:
            raise NoTableError(
                f"{self.path}: has no table {name}; it is damaged, or another program wrote it"
            ) from None
        except (OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise ReadError(f"{self.path}: table {name} cannot be read ({type(error).__name__}: {error})") from None

    @property
    def config(self) -> dict[str, Any]:
        """The run's resolved configuration. Raises ReadError if the log does not hold it."""
        try:
            return dict(json.loads(self.attributes["config_json"]))
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise self._damaged("config_json", error) from None

    @property
    def agent(self) -> int:
        """Number of the agent in its team. Raises ReadError if the log does not hold it."""
        try:
            return int(self.attributes["agent"])
        except (KeyError, ValueError, TypeError) as error:
            raise self._damaged("agent", error) from None

    def _damaged(self, attribute: str, error: Exception) -> ReadError:
        return ReadError(f"{self.path}: attribute {attribute} cannot be used ({type(error).__name__}: {error})")


def _read_table(group: h5py.Group, file_size: int) -> Table:
    """Every column. Raises ValueError where all together are more than the file holds."""
    allowance = Allowance(file_size)
    allowance.take(group.name, items=len(group))
    table = Table()
    for name, dataset in group.items():
        allowance.take(dataset.name, nbytes=dataset.nbytes)
        texts = h5py.check_string_dtype(dataset.dtype)
        table[name] = _read_texts(dataset, allowance, file_size) if texts else np.asarray(dataset[:])
    return table


def _read_texts(dataset: h5py.Dataset, allowance: Allowance, file_size: int) -> np.ndarray:
    """A column of texts, a few at a time: each of them may be as long as the file."""
    texts: list[str] = []
    step = max(1, TEXT_BYTES // file_size)
    for row in range(0, len(dataset), step):
        texts.extend(dataset.asstr()[row : row + step])
        allowance.take(dataset.name, nbytes=sum(map(len, texts[row:])))
    return np.array(texts, object)


def open_log(path: Path) -> Log:
    """A log of ours. Raises ReadError for anything else."""
    try:
        with open_hdf5(path) as file:
            attributes = dict(file.attrs)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise ReadError(f"{path}: not readable as HDF5 ({error})") from None
    if not np.array_equal(attributes.get("format", ""), FORMAT):
        raise ReadError(f"{path}: not a log of this program")
    version = attributes.get("format_version", "")
    if not np.array_equal(version, FORMAT_VERSION):
        raise ReadError(f"{path}: log format version {version}, this reads {FORMAT_VERSION}")
    return Log(path, attributes)


def read_logs(run: Path, kind: str = "agent") -> list[Log]:
    """The logs of a run, one per agent (or "server"), by number. Raises ReadError if there are none yet."""
    paths = sorted((run / "logs").glob(f"{kind}*.h5"))
    if not paths:
        raise ReadError(f"{run}: no logs/{kind}*.h5; not a run directory, or it has published nothing yet")
    return [open_log(path) for path in paths]
