"""The log of one agent: rows gathered in memory, the whole file republished now and then.

Writing 100 000 rows takes some 20 ms, so a log is not appended to but written anew beside the old one and renamed:
readers (`status`, `analysis/`) may open it at any moment and a crash leaves the last published one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mpi_ltcr.archive.atomic import open_hdf5, write_hdf5
from mpi_ltcr.archive.schema import FORMAT, FORMAT_VERSION, TABLES, columns

SMALLEST = 64
"""Rows for which a table has room at first."""


class Table:
    """Growing columns of equal length."""

    def __init__(self, name: str) -> None:
        self.columns = columns(name)
        self.rows = 0
        self._text: dict[str, list[str]] = {n: [] for n, c in self.columns.items() if c.dtype == "text"}
        self._room = SMALLEST
        self._data = {n: np.empty(self._room, c.dtype) for n, c in self.columns.items() if c.dtype != "text"}

    def add(self, row: dict[str, Any]) -> None:
        """Append one row; a number that is absent is NaN, an absent text is empty."""
        if self.rows == self._room:
            self._room *= 2
            self._data = {name: np.resize(column, self._room) for name, column in self._data.items()}
        for name, column in self._data.items():
            column[self.rows] = row.get(name, np.nan)
        for name, lines in self._text.items():
            lines.append(str(row.get(name, "")))
        self.rows += 1

    def column(self, name: str) -> Any:
        """The filled part of a column: an array, or a list of strings."""
        return self._text[name] if name in self._text else self._data[name][: self.rows]

    def replace(self, content: dict[str, Any], rows: int) -> None:
        """Take the first `rows` of each column of `content` as what has been recorded so far."""
        self.rows, self._room = rows, max(SMALLEST, rows)
        for name in self._data:
            self._data[name] = np.resize(np.asarray(content[name][:rows], self._data[name].dtype), self._room)
        for name in self._text:
            self._text[name] = [str(value) for value in content[name][:rows]]


class Recorder:
    """Rows into tables (see `schema.py`), tables into `path`.

    Args:
        path: the log file of this agent.
        attributes: root attributes, e.g. run id, agent, seed, the configuration as JSON.
    """

    def __init__(self, *, path: Path, attributes: dict[str, Any]) -> None:
        self.path = path
        self.attributes = {"format": FORMAT, "format_version": FORMAT_VERSION, **attributes}
        self.tables = {name: Table(name) for name in TABLES}

    def add(self, table: str, **row: Any) -> None:
        """Append a row to a table."""
        self.tables[table].add(row)

    def rows(self) -> dict[str, int]:
        """Rows of each table so far: what a checkpoint remembers of the log."""
        return {name: table.rows for name, table in self.tables.items()}

    def publish(self) -> None:
        """Write everything recorded so far to `path`. Raises OSError if the disk does not take it."""
        write_hdf5(self.path, self._fill, sealed=True)

    def _fill(self, file: h5py.File) -> None:
        file.attrs.update(self.attributes)
        for name, table in self.tables.items():
            group = file.create_group(name, track_order=True)
            datasets = []
            for column, meta in table.columns.items():
                dtype = h5py.string_dtype() if meta.dtype == "text" else None
                dataset = group.create_dataset(column, data=table.column(column), dtype=dtype)
                dataset.attrs["units"], dataset.attrs["long_name"] = meta.units, meta.long_name
                datasets.append(dataset)
            frames, *others = datasets
            frames.make_scale("frames")  # so that xarray finds the shared axis
            for dataset in others:
                dataset.dims[0].attach_scale(frames)

    def rewind(self, rows: dict[str, int], source: Path | None = None) -> None:
        """Take over the published log, cut to `rows` of each table, so that after a resume each step appears once.

        Args:
            source: another log, to go on with in this one's place.

        Raises:
            ValueError: the published log is shorter than the checkpoint says, or of another version.
        """
        source = source or self.path
        if not source.exists() and not any(rows.values()):  # of a new agent
            return
        with open_hdf5(source) as file:
            version = file.attrs.get("format_version")
            if version != FORMAT_VERSION:
                raise ValueError(f"{source}: log format version {version}, this program writes {FORMAT_VERSION}")
            columns = [f"{name}/{column}" for name, table in self.tables.items() for column in table.columns]
            missing = next((column for column in columns if column not in file), None)
            if missing or set(rows) != set(self.tables):
                raise ValueError(
                    f"{source}: no {missing or 'row count of every table'}; resume with the version that wrote it"
                )
            for name, table in self.tables.items():
                content = {c: _read_column(file[name][c]) for c in table.columns}
                if len(content["frames"]) < rows[name]:
                    raise ValueError(f"{source}: {name} has {len(content['frames'])} rows, expected {rows[name]}")
                table.replace(content, rows[name])


def _read_column(dataset: h5py.Dataset) -> Any:
    return dataset.asstr()[:] if h5py.check_string_dtype(dataset.dtype) else dataset[:]
