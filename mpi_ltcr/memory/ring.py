"""Preallocated rows that overwrite the oldest: the store under every memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpi_ltcr.interfaces import State

Columns = Mapping[str, tuple[np.dtype, tuple[int, ...]]]
"""For each name its dtype and the shape of one row's value."""


class Ring:
    """Named columns of `capacity` rows.

    Args:
        columns: for each name its dtype and the shape of one row's value.
    """

    def __init__(self, *, capacity: int, columns: Columns) -> None:
        self.capacity = capacity
        self.data = {name: np.zeros((capacity, *shape), dtype) for name, (dtype, shape) in columns.items()}
        self.added = 0
        """Rows ever added; row i of all time lies at i % capacity."""

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, **row: object) -> int:
        """Store one row over the oldest; its place."""
        at = self.added % self.capacity
        for name, value in row.items():
            self.data[name][at] = value
        self.added += 1
        return at

    def extend(self, **rows: np.ndarray) -> None:
        """Store several rows, in their order, as `add` would."""
        count = len(next(iter(rows.values())))
        kept = min(count, self.capacity)
        at = np.arange(self.added + count - kept, self.added + count) % self.capacity
        for name, values in rows.items():
            self.data[name][at] = values[count - kept :]
        self.added += count

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Copies of the rows at these places."""
        return {name: column[rows] for name, column in self.data.items()}

    def state(self) -> State:
        """The filled rows (a checkpoint does not pay for empty ones) and the count."""
        filled = len(self)
        return {"added": self.added, "rows": {name: column[:filled] for name, column in self.data.items()}}

    def load_state(self, state: State) -> None:
        """Take over a saved state. Raises ValueError if it does not fit this ring."""
        self.added = state["added"]
        for name, column in self.data.items():
            rows = state["rows"][name]
            if len(rows) != len(self) or rows.shape[1:] != column.shape[1:]:
                raise ValueError(f"saved rows of {name} have shape {rows.shape}, the ring holds {column.shape}")
            column[: len(rows)] = rows
