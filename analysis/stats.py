"""Smoothing, the interquartile mean, bootstrap bands over seeds, and distances of value distributions.

Legend
    C    curves: one of each agent of each run          F    frames at which they are read
    K    atoms of a distribution                        Δz   distance of neighbouring atoms, in reward

numpy arrays in, numpy arrays out; nothing of ours imported.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import NamedTuple

import numpy as np
from scipy.stats import trim_mean

Statistic = Callable[[np.ndarray], np.ndarray]
"""(C, F) -> (F,): what one number stands for many curves."""

RESAMPLES = 2000
SEED = 20200206
"""Of the bootstrap's generator: the same figure from the same runs, always."""


def mean(curves: np.ndarray) -> np.ndarray:
    """Arithmetic mean over curves. (C, F) -> (F,)."""
    average: np.ndarray = curves.mean(axis=0)
    return average


def iqm(curves: np.ndarray) -> np.ndarray:
    """Interquartile mean over curves: without the floor(C/4) lowest and highest at each frame. (C, F) -> (F,).

    With fewer than four curves nothing is left out, and it is the mean.
    """
    trimmed: np.ndarray = trim_mean(curves, 0.25, axis=0)
    return trimmed


STATISTICS: dict[str, Statistic] = {"mean": mean, "iqm": iqm}


def trailing_mean(frames: np.ndarray, values: np.ndarray, at: np.ndarray, window: int) -> np.ndarray:
    """Mean of the values whose frame lies in (f - window, f], for each f of `at`. (R,), (R,), (F,) -> (F,).

    Values that are NaN do not count; a window without any value gives NaN. Near the start the window is only partly
    filled, as in a plain moving average. `frames` must not decrease; `window` is in frames.
    """
    known = np.isfinite(values)
    frames, values = frames[known], values[known]
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.searchsorted(frames, at - window, side="right")
    last = np.searchsorted(frames, at, side="right")
    count = last - first
    return np.where(count > 0, (sums[last] - sums[first]) / np.maximum(count, 1), np.nan)


class Band(NamedTuple):
    """A statistic of many curves, (F,) each; without a band `low` and `high` are NaN."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int
    curves: int


def bootstrap(curves: np.ndarray, seeds: np.ndarray, statistic: Statistic, level: float = 0.95) -> Band:
    """The statistic over all curves and its percentile bootstrap band. (C, F), (C,) -> Band.

    Seeds are drawn with replacement, each with all of its curves: teammates learn from each other and so are not
    independent. At every frame the band holds the middle `level` of the resampled statistics. One seed has no band;
    that of two or three is only the range of their means, narrower than it should be.
    """
    members = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]
    value = statistic(curves)
    if len(members) == 1:
        nothing = np.full_like(value, np.nan)
        return Band(value, nothing, nothing, 1, len(curves))
    low, high = quantiles(resampled(curves, seeds, statistic), level)
    return Band(value, low, high, len(members), len(curves))


def resampled(curves: np.ndarray, seeds: np.ndarray, statistic: Statistic, stream: int = 0) -> np.ndarray:
    """The statistic of RESAMPLES draws of seeds with replacement, each with all of its curves. (C, F), (C,) -> (R, F).

    Another `stream` draws independently.
    """
    members = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]
    rng = np.random.default_rng([SEED, stream] if stream else SEED)
    draws = rng.integers(len(members), size=(RESAMPLES, len(members)))
    resamples = sorted((np.concatenate([members[i] for i in draw]) for draw in draws), key=len)
    batches = groupby(enumerate(resamples), key=lambda item: (len(item[1]), item[0] // 100))
    return np.concatenate([_statistics(curves, [rows for _, rows in batch], statistic) for _, batch in batches])


def quantiles(values: np.ndarray, level: float = 0.95) -> np.ndarray:
    """The ends of the middle `level` of R values. (R, F) -> (2, F); NaN where any is NaN."""
    return np.asarray(np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0))


def _statistics(curves: np.ndarray, resamples: list[np.ndarray], statistic: Statistic) -> np.ndarray:
    """The statistic of R resamples of equally many curves at once, because scipy's is slow to call: (R, F)."""
    picked = curves[np.stack(resamples)].swapaxes(0, 1)
    return statistic(picked.reshape(len(picked), -1)).reshape(len(resamples), -1)


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """½ Σ_k |p_k - q_k|: the share of mass that has to move at all, 0..1. (K,) and (K,)."""
    return float(np.abs(p - q).sum() / 2)


def cramer_distance(p: np.ndarray, q: np.ndarray, support: np.ndarray) -> float:
    """(Δz Σ_k (F_p(z_k) - F_q(z_k))²)^½ of the cumulated masses F, in reward^½. (K,), (K,), (K,).

    Unlike the total variation it knows how far mass moved. It is the metric in which Π_C of LTCR Eq. 3 projects.
    """
    apart = np.cumsum(p - q)[:-1]
    return float(np.sqrt(np.sum(np.diff(support) * apart**2)))
