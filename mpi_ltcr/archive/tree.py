"""Nested dicts <-> HDF5 groups: the one codec of every checkpoint. Pure: no paths, no policy, no pickle.

A dict is a group; an array is a dataset; a number, string, bool or None is a scalar dataset whose attribute `kind`
says which Python type it was. Integers are kept as decimal text when 64 bits do not hold them (PCG64's state has 128).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from mpi_ltcr.interfaces import State

MAX_ITEMS = 100_000
NUMERIC = "biufc"


class TreeError(ValueError):
    """The file is not a tree that this codec wrote."""


def write_tree(group: h5py.Group, tree: State) -> None:
    """Store `tree` below `group`.

    Raises:
        TypeError: a value is neither dict, array, number, string nor None; the message names its place.
    """
    for name, value in tree.items():
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
    if isinstance(value, str):
        return "str", value
    raise TypeError(f"{place}: a {type(value).__name__} cannot be saved; use arrays, numbers, strings or dicts")


def read_tree(group: h5py.Group) -> State:
    """What `write_tree` stored. Nothing in a file can make this execute code or allocate more than the file holds.

    Raises:
        TreeError: a link leaves the file, an array claims more than the file's size, or a scalar is of no known kind.
    """
    size = group.file.id.get_filesize()
    return _read(group, size, [0])


def _read(group: h5py.Group, file_size: int, count: list[int]) -> State:
    tree: State = {}
    for name in group:
        count[0] += 1
        if count[0] > MAX_ITEMS:
            raise TreeError(f"{group.name}: more than {MAX_ITEMS} items")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise TreeError(f"{group.name}/{name}: links out of a file are not followed")
        item = group[name]
        tree[name] = _read(item, file_size, count) if isinstance(item, h5py.Group) else _read_dataset(item, file_size)
    return tree


def _read_dataset(dataset: h5py.Dataset, file_size: int) -> Any:
    kind = dataset.attrs.get("kind")
    if dataset.external or dataset.is_virtual:
        raise TreeError(f"{dataset.name}: data outside the file is not read")
    if kind is None:
        plain = dataset.dtype.kind in NUMERIC and dataset.compression is None and dataset.chunks is None
        if not plain or dataset.nbytes > file_size:
            raise TreeError(f"{dataset.name}: not a plain array within the file's size")
        return dataset[()]
    if dataset.shape != ():
        raise TreeError(f"{dataset.name}: a scalar of shape {dataset.shape}")
    value = dataset[()]
    try:
        return _DECODE[kind](value)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise TreeError(f"{dataset.name}: a scalar of unknown kind {kind!r}") from None


_DECODE: dict[str, Callable[[Any], Any]] = {
    "none": lambda value: None,
    "bool": bool,
    "int": lambda value: int(value.decode()),
    "float": float,
    "str": lambda value: value.decode(),
}
