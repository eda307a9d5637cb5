"""From an emulator's screen to a network's frame, in numpy: the two resizes that the papers' code leaves to OpenCV.

Both are separable: a target row (or column) is a weighted sum of a few source rows. Written as gathers of those few
and not as matrix products, because OpenCV's rounding depends on the order of the terms, and no slower. OpenCV itself is
only needed by the tests, which find no pixel that differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

CROP = slice(34, 194)
"""Rows of the playing field, universe starter agent `envs.py`: with 160 columns, a square."""
UNIVERSE_SIZE = 42
HALF = 80


def area_resizer(source: tuple[int, int], target: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """A function from (H, W) uint8 to (h, w) uint8, a new array: each pixel is the average of the area it covers.

    OpenCV's INTER_AREA for shrinking. Averages of exactly one half are common (for 210x160 -> 84x84 all are multiples
    of 1/200) and the float32 error decides where they go, so the terms are added in OpenCV's order: along a row from
    left to right, then the rows from top to bottom.
    """
    columns = _area_taps(source[1], target[1], length=source[0])
    rows = _area_taps(source[0], target[0], length=target[1])

    def resize(screen: np.ndarray) -> np.ndarray:
        # On its side first: gathering rows is a copy of blocks, a third faster than gathering columns.
        narrow = _weighted_rows(np.ascontiguousarray(screen.T).astype(np.float32), *columns)
        small = _weighted_rows(np.ascontiguousarray(narrow.T), *rows)
        return np.rint(small, out=small).astype(np.uint8)

    return resize


def _weighted_rows(image: np.ndarray, taps: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(H, L) -> (target, L): for each target row the sum of ``image[taps] * shares``, in the order of the taps."""
    total: np.ndarray = image[taps[0]]
    total *= shares[0]
    for row, share in zip(taps[1:], shares[1:], strict=True):
        term = image[row]
        term *= share
        total += term
    return total


def _area_taps(source: int, target: int, *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Source rows under each target row (n, target) and their shares of it (n, target, length); spare ones have 0.

    The shares of a row are spread over its whole `length`, because numpy multiplies arrays of one shape twice as fast.
    """
    scale = source / target
    starts = np.arange(target) * scale
    taps = np.floor(starts).astype(np.intp) + np.arange(math.ceil(scale) + 1)[:, None]
    covered = np.minimum(taps + 1, starts + scale) - np.maximum(taps, starts)
    shares = np.where(covered > 1e-3, covered / scale, 0.0)  # the threshold is OpenCV's
    used = shares.any(axis=1)
    return np.minimum(taps, source - 1)[used], np.repeat(shares[used, :, None], length, axis=2).astype(np.float32)


def universe_resizer() -> Callable[[np.ndarray], np.ndarray]:
    """A function from (H, 160, 3) uint8, H >= 194, to (42, 42) float32 in [0, 1], the mean of the three colours.

    160 -> 80 and then 80 -> 42 with half-pixel centres, in two steps on purpose: one step would skip pixels, as
    bilinear interpolation looks at only two a side. Each step is rounded to whole grey levels colour by colour, as the
    originals' uint8 images were: the first is a mean of 2x2 (halves up), the second has weights in 1/2048 and OpenCV's
    16-bit products.
    """
    columns = np.arange(3 * 2 * HALF).reshape(2 * HALF, 3)  # of interleaved pixels (R, G, B)
    even, odd = columns[::2].T.ravel(), columns[1::2].T.ravel()  # reordered colour by colour: one gather does both
    near, far, near_weight, far_weight = _bilinear_taps(HALF, UNIVERSE_SIZE)
    planes = np.arange(3)[:, None] * HALF
    near_columns, far_columns = (planes + near).ravel(), (planes + far).ravel()
    near_weights, far_weights = np.tile(near_weight, 3), np.tile(far_weight, 3)

    def resize(rgb: np.ndarray) -> np.ndarray:
        field = rgb[CROP].reshape(2 * HALF, -1).astype(np.uint16)
        rows = field[::2] + field[1::2]
        half = (rows[:, even] + rows[:, odd] + 2) >> 2  # (80, 3 * 80)
        wide = (half[:, near_columns] * near_weights + half[:, far_columns] * far_weights) >> 4  # (80, 3 * 42)
        small = (wide[near] * near_weight[:, None] >> 16) + (wide[far] * far_weight[:, None] >> 16) + 2 >> 2
        colours = small.reshape(UNIVERSE_SIZE, 3, UNIVERSE_SIZE)
        total: np.ndarray = colours[:, 0] + colours[:, 1] + colours[:, 2]  # three times as fast as sum(axis=1)
        return total.astype(np.float32) * np.float32(1 / (3 * 255))

    return resize


def _bilinear_taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each target pixel its two source pixels and their weights, int32 in 1/2048."""
    centres = ((np.arange(target) + 0.5) * (source / target) - 0.5).clip(0, source - 1).astype(np.float32)
    near = np.floor(centres).astype(np.intp)
    far_weight = np.rint((centres - near) * 2048).astype(np.int32)
    return near, np.minimum(near + 1, source - 1), 2048 - far_weight, far_weight
