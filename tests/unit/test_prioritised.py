"""The sum tree against cumulative sums, the sampling against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.memory.prioritised import SMALLEST, PrioritisedOrder
from mpi_ltcr.memory.sum_tree import SumTree

# The tree. Whole numbers have exact sums, so comparisons are exact.

numbers = st.lists(st.integers(0, 9), min_size=1, max_size=40).filter(any)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(numbers, st.data())
def test_a_partial_sum_is_found_where_the_cumulative_sum_exceeds_it(values, data):
    tree = SumTree(capacity=len(values))
    tree.set(np.arange(len(values)), np.array(values, float))
    again = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=9, unique=True))
    values = np.array(values, float)
    values[again] += 3
    tree.set(np.array(again, np.int64), values[again])
    assert tree.total == values.sum()
    targets = np.arange(0, values.sum(), 0.5)
    assert (tree.find(targets) == np.searchsorted(values.cumsum(), targets, side="right")).all()
    assert (tree.values(np.arange(len(values))) == values).all()


def test_nothing_that_holds_zero_is_ever_found_even_at_the_very_end():
    rng = np.random.default_rng(0)
    values = rng.random(1000) * (rng.random(1000) < 0.1)
    values[-50:] = 0
    tree = SumTree(capacity=1000)
    tree.set(np.arange(1000), values)
    ends = np.array([0.0, tree.total, np.nextafter(tree.total, 0), tree.total * (1 + 1e-15)])
    assert (values[tree.find(np.concatenate([ends, rng.random(20_000) * tree.total]))] > 0).all()


def test_the_total_does_not_drift():
    rng = np.random.default_rng(1)
    tree, truth = SumTree(capacity=257), np.zeros(257)
    for _ in range(20_000):
        places = rng.integers(257, size=4)
        truth[places] = values = 10.0 ** rng.uniform(-8, 8, size=4)
        tree.set(places, values)
    assert tree.total == pytest.approx(truth.sum(), rel=1e-14)
    tree.set(np.arange(257), 1e-6)
    assert tree.total == pytest.approx(257e-6, rel=1e-12)  # differences of float64 would leave some 1e-7 here


# The order


def order(capacity: int = 16, omega: float = 0.5, beta: float = 0.4, seed: int = 0) -> PrioritisedOrder:
    return PrioritisedOrder(capacity=capacity, omega=omega, beta_of=lambda added: beta, rng=np.random.default_rng(seed))


def rated(priorities: np.ndarray, **settings: float) -> PrioritisedOrder:
    made = order(capacity=len(priorities), **settings)
    for row in range(len(priorities)):
        made.add(row)
    made.rate(np.arange(len(priorities)), priorities)
    return made


PRIORITIES = np.array([0.1, 2.0, 0.0, 5.0, 1.0, 0.5, 3.0, 0.25, 0.75])


@pytest.mark.parametrize("omega", [0.0, 0.5, 1.0])
def test_rows_are_drawn_in_proportion_to_the_powers_of_their_priorities(omega):
    made = rated(PRIORITIES, omega=omega)
    drawn = np.concatenate([made.draw(1, 9)[0] for _ in range(20_000)])  # one at a time: independent
    wanted = (PRIORITIES + SMALLEST) ** omega
    found, expected = np.bincount(drawn, minlength=9), 20_000 * wanted / wanted.sum()
    often = expected > 5
    assert chisquare(found[often], expected[often] * found[often].sum() / expected[often].sum()).pvalue > 0.01
    assert found[~often].sum() < 40


def test_a_batch_takes_one_row_from_each_equal_part_of_the_total():
    made = rated(np.ones(64), omega=1.0)
    for _ in range(50):
        assert (made.draw(16, 64)[0] // 4 == np.arange(16)).all()


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_weights_are_those_of_the_definition_and_the_largest_is_one(beta):
    made = rated(PRIORITIES, omega=0.7, beta=beta)
    rows, weights = made.draw(200, 9)
    share = (PRIORITIES + SMALLEST) ** 0.7 / ((PRIORITIES + SMALLEST) ** 0.7).sum()
    expected = [(1 / (9 * share[row])) ** beta for row in rows]
    np.testing.assert_allclose(weights, np.array(expected) / max(expected), rtol=1e-6)
    assert (weights.dtype, weights.max()) == (np.float32, 1)


def test_with_beta_one_the_weighted_draws_have_the_mean_of_all_rows():
    made, value = rated(PRIORITIES[PRIORITIES > 0], omega=1.0, beta=1.0), np.arange(8) ** 2.0
    total, count = 0.0, 0.0
    for _ in range(3000):
        rows, weights = made.draw(8, 8)
        true_scale = weights * (1 / (8 * PRIORITIES[PRIORITIES > 0] / PRIORITIES.sum())[rows]).max()
        total, count = total + (true_scale * value[rows]).sum(), count + 8
    assert total / count == pytest.approx(value.mean(), rel=0.03)


def test_a_new_row_gets_the_largest_priority_ever_given_also_over_an_old_one():
    made = order(capacity=4, omega=1.0)
    for row in (0, 1, 2, 3):
        made.add(row)
    assert (made.tree.values(np.arange(4)) == 1).all()  # before anything was learned
    made.rate(np.array([1, 2]), np.array([7.0, 0.5]))
    made.rate(np.array([1]), np.array([0.25]))
    made.add(0)
    assert made.tree.values(np.arange(4)) == pytest.approx([7, 0.25, 0.5, 1], abs=1e-5)


def test_a_divergence_that_rounding_made_negative_is_drawn_as_the_smallest():
    made = rated(np.array([-1e-7, 1.0], np.float32), omega=1.0)
    assert made.tree.values(np.array([0]))[0] == SMALLEST


@pytest.mark.parametrize("count", [0, 3, 16, 41])
def test_an_order_that_was_saved_and_loaded_goes_on_bit_for_bit_like_the_first(count, tmp_path):
    first, second = order(seed=1), rated(np.ones(16), seed=2)
    rng = np.random.default_rng(3)

    def go_on(one: PrioritisedOrder, steps: int, noise: np.random.Generator) -> list[bytes]:
        said = []
        for _ in range(steps):
            one.add(one.added % 16)
            rows, weights = one.draw(5, min(one.added, 16))
            one.rate(rows, noise.random(5))
            said.append(rows.tobytes() + weights.tobytes())
        return said

    go_on(first, count, rng)
    checkpoint.write_file(tmp_path, "rank0000.h5", first.state())
    second.load_state(checkpoint.load_file(tmp_path / "rank0000.h5"))
    assert (first.tree.nodes == second.tree.nodes).all()
    noises = [np.random.default_rng(4), np.random.default_rng(4)]
    assert go_on(first, 30, noises[0]) == go_on(second, 30, noises[1])
    assert len(first.state()["powered"]) == min(count + 30, 16)


def test_saved_priorities_of_another_capacity_are_refused():
    with pytest.raises(ValueError, match="16 priorities were saved, the replay holds 15"):
        order(capacity=15).load_state(rated(np.ones(16)).state())
