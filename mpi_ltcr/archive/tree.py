"""Nested dicts <-> HDF5 groups: the one codec of every checkpoint. Pure: no paths, no policy, no pickle.

A dict is a group; an array is a dataset; a number, string, bool or None is a scalar dataset whose attribute `kind`
says which Python type it was. Integers are kept as decimal text when 64 bits do not hold them (PCG64's state has 128).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from mpi_ltcr.interfaces import State

MAX_ITEMS, MAX_DEPTH = 2_000, 32
NUMERIC = "biufc"
SEGMENT_PATTERN = r"[a-z]+\d*-\d+(-\d+)?\.h5"
PLAIN_LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS)
"""Not virtual, and not chunked, as every filter (compression) is."""


class SegmentName(str):
    """In place of a part of a state that lies in a file of its own (`segments.py`)."""


class TreeError(ValueError):
    """The file is not a tree that this codec wrote."""


def write_tree(group: h5py.Group, tree: State) -> None:
    """Store `tree` below `group`.

    Raises:
        TypeError: a value is neither dict, array, number, string nor None, or a name is no name of an HDF5 item; the
            message names its place.
    """
    for name, value in tree.items():
        if not isinstance(name, str) or not name or "/" in name or name == ".":
            raise TypeError(f"{group.name}: {name!r} cannot name an item; use strings without a slash")
        if isinstance(value, dict):
            write_tree(group.create_group(name), value)
        elif isinstance(value, np.ndarray) and value.dtype.kind in NUMERIC:
            group.create_dataset(name, data=value)
        else:
            kind, stored = _encode(value, f"{group.name}/{name}")
            group.create_dataset(name, data=stored).attrs["kind"] = kind


def _encode(value: Any, place: str) -> tuple[str, Any]:
    if value is None:
        return "none", np.int8(0)
    if isinstance(value, (bool, np.bool_)):
        return "bool", np.int8(value)
    if isinstance(value, (int, np.integer)):
        return "int", str(int(value))
    if isinstance(value, (float, np.floating)):
        return "float", np.float64(value)
    if isinstance(value, SegmentName):
        return "segment", str(value)
    if isinstance(value, str):
        return "str", value
    raise TypeError(f"{place}: a {type(value).__name__} cannot be saved; use arrays, numbers, strings or dicts")


def read_tree(group: h5py.Group) -> State:
    """What `write_tree` stored. Nothing in a file can make this execute code or allocate more than the file holds.

    Raises:
        TreeError: a link leaves the file, its arrays and texts together claim more than the file's size, a scalar is of
            no known kind, or HDF5 itself cannot read it.
    """
    try:
        return _read(group, Allowance(group.file.id.get_filesize()), 0)
    except (OSError, RuntimeError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise TreeError(f"{group.name}: {type(error).__name__}: {error}") from None


class Allowance:
    """What a whole tree or table may take: a file that names a dataset a thousand times holds it once all the same."""

    def __init__(self, file_size: int) -> None:
        self.items, self.bytes = MAX_ITEMS, file_size

    def take(self, place: str, *, items: int = 0, nbytes: int = 0) -> None:
        """Raise TreeError where that is more than is left."""
        self.items, self.bytes = self.items - items, self.bytes - nbytes
        if self.items < 0:
            raise TreeError(f"{place}: more than {MAX_ITEMS} items")
        if self.bytes < 0:
            raise TreeError(f"{place}: claims, with all before it, more than the file holds")


def _read(group: h5py.Group, allowance: Allowance, depth: int) -> State:
    if depth > MAX_DEPTH:
        raise TreeError(f"groups nested deeper than {MAX_DEPTH}")
    allowance.take(group.name, items=len(group))
    tree: State = {}
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise TreeError(f"{group.name}/{name}: links out of a file are not followed")
        item = group[name]
        if isinstance(item, h5py.Group):
            tree[name] = _read(item, allowance, depth + 1)
        else:
            tree[name] = _read_dataset(item, allowance)
    return tree


def _read_dataset(dataset: h5py.Dataset, allowance: Allowance) -> Any:
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise TreeError(f"{dataset.name}: holds no data")
    creation = dataset.id.get_create_plist()
    if creation.get_layout() not in PLAIN_LAYOUTS or creation.get_external_count():
        raise TreeError(f"{dataset.name}: data outside the file, or in chunks, is not read")
    allowance.take(dataset.name, nbytes=dataset.nbytes)
    kind = dataset.attrs.get("kind")
    if kind is None:
        if dataset.dtype.kind not in NUMERIC:
            raise TreeError(f"{dataset.name}: not an array of numbers")
        return dataset[...]
    if dataset.shape != ():
        raise TreeError(f"{dataset.name}: a scalar of shape {dataset.shape}")
    value = dataset[()]
    if isinstance(value, bytes):  # a text counts above as the reference that it is
        allowance.take(dataset.name, nbytes=len(value))
    try:
        return _DECODE[kind](value)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise TreeError(f"{dataset.name}: a scalar of unknown kind {kind!r}") from None


def _segment_name(text: str) -> SegmentName:
    """Nothing that could lead out of the folder of segments."""
    if not re.fullmatch(SEGMENT_PATTERN, text):
        raise ValueError(text)
    return SegmentName(text)


_DECODE: dict[str, Callable[[Any], Any]] = {
    "none": lambda value: None,
    "bool": bool,
    "int": lambda value: int(value.decode()),
    "float": float,
    "str": lambda value: value.decode(),
    "segment": lambda value: _segment_name(value.decode()),
}
