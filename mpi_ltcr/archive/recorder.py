"""The log of one agent: tables that grow as an HDF5 file in memory, copied to the disk now and then.

The copy stands beside the old one and is renamed: readers (`status`, `analysis/`) may open a log at any moment, and a
crash leaves the last one that was published. Making the 120 datasets anew at each publishing would cost ten times what
the copy does.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mpi_ltcr.archive.atomic import HDF5_VERSION, UNSEALED, USER_BLOCK, is_sealed, write_sealed
from mpi_ltcr.archive.reader import NoTableError, ReadError, open_log
from mpi_ltcr.archive.schema import FORMAT, FORMAT_VERSION, TABLES, Column, columns

CHUNK = 512
"""Rows by which a column grows; a column of the smallest log takes so many."""
HELD = 4096
"""Rows of a table that may wait to be put into its columns."""
LOST = "rows_lost"
"""Root attribute, JSON: rows of each table that went with the log before this one, and which checkpoints count."""

Rows = list[dict[str, Any]]


class Recorder:
    """Rows into tables (see `schema.py`), tables into `path`.

    Args:
        path: the log file of this agent.
        attributes: root attributes, e.g. run id, agent, seed, the configuration as JSON.
    """

    def __init__(self, *, path: Path, attributes: dict[str, Any]) -> None:
        self.path = path
        self.attributes = {"format": FORMAT, "format_version": FORMAT_VERSION, **attributes}
        self._begin({})

    def _begin(self, lost: dict[str, int]) -> None:
        """Without a row; so many of each table are lost."""
        self._lost = {name: lost.get(name, 0) for name in TABLES}
        self._held: dict[str, Rows] = {name: [] for name in TABLES}
        self._image = io.BytesIO()
        self._file = _without_rows(self._image, {**self.attributes, LOST: json.dumps(self._lost)})

    def add(self, table: str, **row: Any) -> None:
        """Append a row to a table; a number that is absent is NaN, an absent text is empty."""
        held = self._held[table]
        held.append(row)
        if len(held) == HELD:
            self._settle(table)

    def rows(self) -> dict[str, int]:
        """Rows of each table so far, lost ones too: what a checkpoint remembers of the log."""
        return {name: self._lost[name] + self._length(name) for name in TABLES}

    def holds(self, table: str) -> bool:
        """Whether a table has a row in this log."""
        return self._length(table) > 0

    def _length(self, table: str) -> int:
        return len(self._file[table]["frames"]) + len(self._held[table])

    def publish(self) -> None:
        """Write everything recorded so far to `path`. Raises OSError if the disk does not take it."""
        for name in TABLES:
            self._settle(name)
        self._file.flush()
        with self._image.getbuffer() as image, image[USER_BLOCK:] as content:
            write_sealed(self.path, content)

    def _settle(self, table: str) -> None:
        """Put the held rows of a table into its columns."""
        held = self._held[table]
        if held:
            _append(self._file[table], {name: _gathered(held, name, c) for name, c in columns(table).items()})
            held.clear()

    def rewind(self, rows: dict[str, int], source: Path | None = None) -> bool:
        """Take over the published log, cut to `rows` of each table, so that after a resume each step appears once.

        False if those rows are lost: there is no log any more, and a new one begins.

        Args:
            source: another log, to go on with in this one's place.

        Raises:
            ValueError: the published log is not as it was written, shorter than the checkpoint says, or of another
                version.
        """
        source = source or self.path
        if not source.exists():
            self._begin(rows)
            return not any(rows.values())  # of a new agent
        lost, tables = _read(source, rows)
        self._begin(lost)
        for name, content in tables.items():
            _append(self._file[name], content)
        return True


def _without_rows(image: io.BytesIO, attributes: dict[str, Any]) -> h5py.File:
    """A log in memory, every table in it without a row.

    HDF5 has a driver for files in memory, but gives out copies of them only: so much more memory, for good.
    """
    options = {"userblock_size": USER_BLOCK, "rdcc_nbytes": 0}  # without a cache, which would be one for each column
    file = h5py.File(image, "w", libver=HDF5_VERSION, **options)
    file.attrs.update(attributes)
    for name in TABLES:
        group = file.create_group(name, track_order=True)
        frames, *others = [_make_column(group, column, meta) for column, meta in columns(name).items()]
        frames.make_scale("frames")  # so that xarray finds the shared axis
        for dataset in others:
            dataset.dims[0].attach_scale(frames)
    return file


def _make_column(group: h5py.Group, name: str, meta: Column) -> h5py.Dataset:
    dtype = h5py.string_dtype() if meta.dtype == "text" else meta.dtype
    dataset = group.create_dataset(name, shape=(0,), maxshape=(None,), chunks=(CHUNK,), dtype=dtype)
    dataset.attrs["units"], dataset.attrs["long_name"] = meta.units, meta.long_name
    return dataset


def _gathered(rows: Rows, name: str, meta: Column) -> Any:
    """A column of rows: an array, or a list of strings."""
    if meta.dtype == "text":
        return [str(row.get(name, "")) for row in rows]
    return np.array([row.get(name, np.nan) for row in rows], meta.dtype)


def _append(group: h5py.Group, content: dict[str, Any]) -> None:
    """Lengthen each column of a table."""
    for name, values in content.items():
        if len(values):
            dataset = group[name]
            rows = len(dataset)
            dataset.resize(rows + len(values), axis=0)
            dataset[rows:] = values


def _read(path: Path, rows: dict[str, int]) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    """Of the first `rows` of each table: how many were lost before this log, and the others.

    Raises:
        ValueError: they are not there, or the log is damaged; the text names it and says what to do.
    """
    mend = "restore it from a copy, or move it away to go on with a new log"
    if not is_sealed(path):
        raise ValueError(f"{path} {UNSEALED}; {mend}")
    tables: dict[str, dict[str, Any]] = {}
    try:
        log = open_log(path)
        for name in TABLES:
            with contextlib.suppress(NoTableError):
                tables[name] = log.table(name)
    except ReadError as error:
        raise ValueError(f"{error}; {mend}") from None
    missing = next((f"{name}/{c}" for name in TABLES for c in columns(name) if c not in tables.get(name, ())), None)
    if missing or set(rows) != set(TABLES):
        raise ValueError(f"{path}: no {missing or 'row count of every table'}; resume with the version that wrote it")
    earlier = json.loads(log.attributes.get(LOST, "{}"))
    lost = {name: min(earlier.get(name, 0), rows[name]) for name in TABLES}
    for name, content in tables.items():
        if lost[name] + len(content["frames"]) < rows[name]:
            has = f"{name} has {lost[name] + len(content['frames'])} rows, expected {rows[name]}"
            raise ValueError(f"{path}: {has}; {mend}")
    return lost, {name: {c: tables[name][c][: rows[name] - lost[name]] for c in columns(name)} for name in TABLES}
