"""Numbers of which any partial sum, and the place of any partial sum, is found in log2(n) steps."""

from __future__ import annotations

import numpy as np


class SumTree:
    """A binary tree of float64 sums over `capacity` non-negative numbers, all 0 at first.

    A parent is computed anew from its two children whenever one of them changes. Adding differences instead would let
    rounding errors pile up over millions of updates; so would float32.

    Args:
        capacity: numbers, at places 0 .. capacity - 1.
    """

    def __init__(self, *, capacity: int) -> None:
        self.depth = (capacity - 1).bit_length()
        self.first = 1 << self.depth
        """Number of the node that is place 0. The root is node 1, the children of node i are 2i and 2i + 1."""
        self.nodes = np.zeros(2 * self.first)

    @property
    def total(self) -> float:
        """The sum of all numbers."""
        return float(self.nodes[1])

    def values(self, places: np.ndarray) -> np.ndarray:
        """The numbers at `places`, (B,) float64."""
        return np.asarray(self.nodes[self.first + places])

    def set(self, places: np.ndarray, values: np.ndarray | float) -> None:
        """Put `values` (B,) at `places` (B,); of a place that is named twice the last value stays."""
        nodes, at = self.nodes, self.first + places
        nodes[at] = values
        for _ in range(self.depth):
            at = at >> 1
            nodes[at] = nodes[2 * at] + nodes[2 * at + 1]

    def find(self, targets: np.ndarray) -> np.ndarray:
        """Where running sums exceed `targets` (B,), each in [0, total): places (B,), never one that holds 0."""
        at = np.ones(len(targets), np.int64)
        for _ in range(self.depth):
            at *= 2
            left = self.nodes[at]
            right = (targets >= left) & (self.nodes[at + 1] > 0)  # the second: rounding may leave a rest at the end
            targets = targets - np.where(right, left, 0.0)
            at += right
        return at - self.first
