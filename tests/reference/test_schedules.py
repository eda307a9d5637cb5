"""The exploration schedule against its end points and numbers worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpi_ltcr.formulas import schedules


def test_a_linear_schedule_begins_and_ends_exactly_at_its_ends() -> None:
    assert schedules.linear(0, 1.0, 0.01, 10_000) == 1.0
    assert schedules.linear(10_000, 1.0, 0.01, 10_000) == 0.01
    assert schedules.linear(10**9, 1.0, 0.01, 10_000) == 0.01


@pytest.mark.parametrize(("step", "value"), [(1, 0.999901), (2_500, 0.7525), (5_000, 0.505), (9_999, 0.010099)])
def test_in_between_it_falls_in_proportion_to_the_steps(step: int, value: float) -> None:
    assert schedules.linear(step, 1.0, 0.01, 10_000) == pytest.approx(value, abs=1e-12)


def test_it_rises_as_well_and_takes_fractions_of_a_step() -> None:
    assert schedules.linear(2.5, 0.4, 1.0, 10) == pytest.approx(0.55)


@settings(deadline=None, derandomize=True)
@given(st.integers(-10, 200), st.integers(0, 100))
def test_it_never_leaves_the_interval_of_its_ends_nor_turns_back(step: int, duration: int) -> None:
    now, later = (schedules.linear(s, 1.0, 0.1, duration) for s in (step, step + 1))
    assert 0.1 <= later <= now <= 1.0


def test_without_a_duration_it_is_at_its_end_at_once() -> None:
    assert schedules.linear(0, 1.0, 0.01, 0) == 0.01


def test_before_the_first_step_it_is_at_its_start() -> None:
    assert schedules.linear(-5, 1.0, 0.01, 100) == 1.0


def test_a_negative_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="duration"):
        schedules.linear(1, 1.0, 0.01, -1)
