"""The statistics of the figures against plain loops, scipy, and enumerations of every resample."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import energy_distance

sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))
stats = importlib.import_module("stats")


def random_curves(count: int, frames: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, (count, frames))


# -------------------- interquartile mean


@pytest.mark.parametrize("count", range(1, 14))
def test_the_interquartile_mean_drops_a_quarter_of_the_curves_at_either_end(count: int) -> None:
    curves = random_curves(count, 5)
    for frame, value in enumerate(stats.iqm(curves)):
        ranked = sorted(curves[:, frame])
        middle = ranked[count // 4 : count - count // 4]
        assert value == pytest.approx(sum(middle) / len(middle), rel=1e-12)


def test_the_interquartile_mean_is_blind_to_an_outlier_and_the_mean_is_not() -> None:
    curves = random_curves(8, 3)
    spoiled = curves.copy()
    spoiled[curves.argmax(axis=0), range(3)] += 1e6
    assert np.array_equal(stats.iqm(spoiled), stats.iqm(curves))
    assert (stats.mean(spoiled) > stats.mean(curves) + 1e5).all()


# -------------------- smoothing


@pytest.mark.parametrize("window", [1, 7, 500, 10_000])
def test_the_trailing_mean_is_that_of_a_loop_over_all_rows(window: int) -> None:
    rng = np.random.default_rng(3)
    frames = np.sort(rng.integers(1, 3000, 80) // 10 * 10)  # uneven, some twice
    values = rng.normal(size=80)
    values[rng.random(80) < 0.2] = np.nan
    at = np.arange(0, 3300, 50)
    for f, smooth in zip(at, stats.trailing_mean(frames, values, at, window), strict=True):
        inside = [v for g, v in zip(frames, values, strict=True) if f - window < g <= f and v == v]
        if inside:
            assert smooth == pytest.approx(sum(inside) / len(inside), abs=1e-12)
        else:
            assert np.isnan(smooth)


def test_a_window_of_500_frames_holds_five_evaluations_100_frames_apart() -> None:
    frames = np.arange(100, 1100, 100)
    values = np.arange(10.0)
    assert stats.trailing_mean(frames, values, np.array([1000]), 500) == [7.0]  # of 5, 6, 7, 8, 9


# -------------------- bootstrap


def enumerated_band(means: np.ndarray) -> tuple[float, float]:
    """2.5 % and 97.5 % of the mean over all n^n equally likely resamples."""
    every = [np.mean(draw) for draw in itertools.product(means, repeat=len(means))]
    low, high = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_the_band_is_that_of_all_possible_resamples(count: int) -> None:
    curves = random_curves(count, seed=count)
    band = stats.bootstrap(curves, np.arange(count), stats.mean)
    low, high = enumerated_band(curves[:, 0])
    assert band.value[0] == pytest.approx(curves.mean())
    assert (band.low[0], band.high[0]) == pytest.approx((low, high), abs=0.08 * curves.std())
    assert (band.seeds, band.curves) == (count, count)


def test_teammates_that_agree_do_not_narrow_the_band() -> None:
    curves = random_curves(6, 4)
    alone = stats.bootstrap(curves, np.arange(6), stats.mean)
    teams = stats.bootstrap(np.repeat(curves, 5, axis=0), np.repeat(np.arange(6), 5), stats.mean)
    np.testing.assert_allclose(teams.low, alone.low)
    np.testing.assert_allclose(teams.high, alone.high)
    assert (teams.seeds, teams.curves) == (6, 30)


def test_teams_of_unequal_size_are_resampled_whole() -> None:
    curves = np.array([[0.0], [0.0], [0.0], [10.0]])
    band = stats.bootstrap(curves, np.array([7, 7, 7, 8]), stats.mean)
    assert (band.value[0], band.low[0], band.high[0]) == (2.5, 0.0, 10.0)


@pytest.mark.parametrize("name", ["mean", "iqm"])
def test_one_seed_has_a_value_and_no_band(name: str) -> None:
    curves = random_curves(2, 3)
    band = stats.bootstrap(curves, np.array([4, 4]), stats.STATISTICS[name])
    np.testing.assert_allclose(band.value, curves.mean(axis=0))
    assert np.isnan(band.low).all()
    assert np.isnan(band.high).all()
    assert band.seeds == 1


def test_the_same_curves_give_the_same_band_twice() -> None:
    curves, seeds = random_curves(5, 2), np.arange(5)
    first, second = (stats.bootstrap(curves, seeds, stats.iqm) for _ in range(2))
    assert np.array_equal(first.low, second.low)
    assert np.array_equal(first.high, second.high)


def test_nearly_95_of_100_bands_over_twenty_seeds_hold_the_true_mean() -> None:
    experiments = np.random.default_rng(11).normal(100, 10, (20, 1000))  # each column is an experiment of its own
    band = stats.bootstrap(experiments, np.arange(20), stats.mean)
    covered = np.mean((band.low <= 100) & (band.high >= 100))
    assert 0.90 < covered < 0.96  # the percentile bootstrap of 20 is known to be a little narrow


# -------------------- distances of distributions


def test_the_total_variation_is_the_largest_difference_over_all_events() -> None:
    p, q = np.random.default_rng(5).dirichlet(np.ones(7), 2)
    events = itertools.product([False, True], repeat=7)
    largest = max(abs(p[list(event)].sum() - q[list(event)].sum()) for event in events)
    assert stats.total_variation(p, q) == pytest.approx(largest)
    assert stats.total_variation(p, p) == 0


def test_the_cramer_distance_is_scipys_energy_distance_less_its_factor_root_two() -> None:
    support = np.linspace(-100, 100, 51)
    p, q = np.random.default_rng(6).dirichlet(np.ones(51), 2)
    expected = energy_distance(support, support, p, q) / np.sqrt(2)
    assert stats.cramer_distance(p, q, support) == pytest.approx(expected, rel=1e-9)
    assert stats.cramer_distance(p, p, support) == 0


def test_only_the_cramer_distance_knows_how_far_mass_has_moved() -> None:
    support = np.linspace(0, 10, 11)
    masses = np.eye(11)
    assert stats.total_variation(masses[0], masses[1]) == stats.total_variation(masses[0], masses[10]) == 1
    assert stats.cramer_distance(masses[0], masses[1], support) == pytest.approx(1)
    assert stats.cramer_distance(masses[0], masses[9], support) == pytest.approx(3)  # the root of 9
