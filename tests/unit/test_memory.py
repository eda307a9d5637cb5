"""Ring, replay and M0 against a deque, a chi-square table and a round trip through a checkpoint file."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.interfaces import EnvSpec, Features, Transition
from mpi_ltcr.memory.dense import DenseStore
from mpi_ltcr.memory.n_step import NStep
from mpi_ltcr.memory.public import PublicMemory
from mpi_ltcr.memory.replay import Replay
from mpi_ltcr.memory.ring import Ring
from mpi_ltcr.memory.uniform import UniformOrder

SPEC = EnvSpec((2,), np.dtype(np.float32), 3)


def transition(number: int) -> Transition:
    """The `number`-th step: each of its fields tells it."""
    obs = np.array([number, -number], np.float32)
    return Transition(obs, number % 3, float(number), 0.5 * number, obs + 1)


def replay(capacity: int = 10, steps: int = 0, seed: int = 0, spec: EnvSpec = SPEC) -> Replay:
    store = DenseStore(capacity=capacity, spec=spec)
    memory = Replay(store=store, order=UniformOrder(rng=np.random.default_rng(seed)), n_step=NStep(steps=1))
    for number in range(steps):
        memory.add(transition(number))
    return memory


def public(capacity: int = 10, vectors: int = 0, seed: int = 0) -> PublicMemory:
    memory = PublicMemory(capacity=capacity, spec=SPEC, rng=np.random.default_rng(seed))
    numbers = np.arange(vectors)
    memory.add(Features(np.stack([numbers, -numbers], 1).astype(np.float32), numbers % 3))
    return memory


def saved_and_loaded(state: dict, folder) -> dict:
    checkpoint.write_file(folder, "rank0000.h5", state)
    return checkpoint.load_file(folder / "rank0000.h5")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.lists(st.integers(-99, 99), max_size=40))
def test_a_ring_holds_what_a_deque_of_its_length_holds(capacity, rows):
    ring = Ring(capacity=capacity, columns={"x": (np.dtype(np.int64), ()), "y": (np.dtype(np.float32), (2,))})
    truth: deque[int] = deque(maxlen=capacity)
    for value in rows:
        ring.add(x=value, y=[value, 2 * value])
        truth.append(value)
        held = ring.take(np.arange(len(ring)))
        assert len(ring) == len(truth)
        assert sorted(held["x"]) == sorted(truth)
        assert (held["y"] == np.stack([held["x"], 2 * held["x"]], 1)).all()  # a row stays together


@given(capacity=st.integers(1, 8), sizes=st.lists(st.integers(0, 20), max_size=6))
@settings(deadline=None)
def test_rows_stored_together_lie_where_they_lie_one_by_one(capacity, sizes):
    columns = {"a": (np.dtype(np.float32), (2,)), "b": (np.dtype(np.int64), ())}
    together, single = Ring(capacity=capacity, columns=columns), Ring(capacity=capacity, columns=columns)
    numbers = iter(range(1000))
    for size in sizes:
        b = np.array([next(numbers) for _ in range(size)], np.int64)
        a = np.stack([b, -b], axis=-1).astype(np.float32)
        together.extend(a=a, b=b)
        for row_a, row_b in zip(a, b, strict=True):
            single.add(a=row_a, b=row_b)
        assert together.added == single.added
        assert all((together.data[name] == single.data[name]).all() for name in columns)


def test_the_oldest_row_leaves_first():
    memory = replay(capacity=4, steps=6)
    held = memory.store.take(np.arange(4)).reward
    assert sorted(held) == [2, 3, 4, 5]


def test_taken_rows_are_copies():
    ring = replay(steps=3).store.ring
    ring.take(np.array([1]))["obs"][:] = 99
    assert (ring.take(np.array([1]))["obs"] == [[1, -1]]).all()


def test_a_sampled_batch_keeps_transitions_whole_and_has_the_documented_types():
    sample = replay(capacity=50, steps=80).sample(200)
    batch = sample.batch
    numbers = batch.reward
    assert (batch.obs == np.stack([numbers, -numbers], 1)).all()
    assert (batch.next_obs == batch.obs + 1).all()
    assert (batch.action == numbers % 3).all()
    assert (batch.discount == 0.5 * numbers).all()
    assert {numbers.min(), numbers.max()} <= set(range(30, 80))
    kinds = [field.dtype for field in batch[:5]]
    assert kinds == [np.float32, np.int64, np.float32, np.float32, np.float32]
    assert (sample.rows.dtype, sample.weights.dtype, sample.weights.min()) == (np.int64, np.float32, 1)


@pytest.mark.parametrize("filled", [7, 20])
def test_every_remembered_step_is_sampled_equally_often(filled):
    memory = replay(capacity=20, steps=filled, seed=1)
    drawn = np.concatenate([memory.sample(32).batch.reward for _ in range(1000)]).astype(int)
    assert chisquare(np.bincount(drawn, minlength=filled)).pvalue > 0.01
    assert len(np.bincount(drawn)) == filled  # nothing from rows that were never written


def test_every_public_vector_is_sampled_equally_often_and_keeps_its_action():
    memory = public(capacity=20, vectors=33, seed=1)
    samples = [memory.sample(32) for _ in range(1000)]
    numbers = np.concatenate([s.obs[:, 0] for s in samples]).astype(int)
    assert (np.concatenate([s.action for s in samples]) == numbers % 3).all()
    assert chisquare(np.bincount(numbers - 13, minlength=20)).pvalue > 0.01


def test_an_upload_is_appended_in_its_order():
    memory = public(capacity=4, vectors=6)
    assert (memory.ring.take(np.arange(4))["obs"][:, 0] == [4, 5, 2, 3]).all()


def test_an_empty_upload_changes_nothing():
    memory = public(vectors=3)
    memory.add(Features(np.zeros((0, 2), np.float32), np.zeros(0, np.int64)))
    assert len(memory) == 3


@pytest.mark.parametrize("count", [0, 3, 10, 27])
def test_a_memory_that_was_saved_and_loaded_goes_on_like_the_first(count, tmp_path):
    for first, second in (
        (replay(steps=count, seed=3), replay(steps=2, seed=4)),
        (public(vectors=count, seed=3), public(vectors=2, seed=4)),
    ):
        second.load_state(saved_and_loaded(first.state(), tmp_path))
        for number in range(5):
            for memory in (first, second):
                if isinstance(memory, Replay):
                    memory.add(transition(100 + number))
                else:
                    memory.add(Features(np.full((1, 2), number, np.float32), np.array([number])))
            one, two = ((m.sample(16).batch if isinstance(m, Replay) else m.sample(16)) for m in (first, second))
            assert all((a == b).all() for a, b in zip(one[:2], two[:2], strict=True))
        assert len(first) == len(second)


def test_a_saved_ring_of_another_capacity_or_shape_is_refused():
    state = replay(capacity=10, steps=27).state()
    with pytest.raises(ValueError, match="saved rows of obs"):
        replay(capacity=9).load_state(state)
    with pytest.raises(ValueError, match="saved rows of obs"):
        replay(capacity=11).load_state(state)
    other = EnvSpec((3,), np.dtype(np.float32), 3)
    with pytest.raises(ValueError, match="saved rows of obs"):
        replay(capacity=10, spec=other).load_state(state)


def test_a_checkpoint_does_not_pay_for_rows_that_were_never_written():
    assert replay(capacity=10_000, steps=3).state()["store"]["ring"]["rows"]["obs"].shape == (3, 2)
