"""The ring that keeps each frame once, against a deque of whole transitions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpi_ltcr import envs
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.segments import Shelf
from mpi_ltcr.interaction import EnvLoop
from mpi_ltcr.interfaces import EnvSpec, Features, Sealed, Transition
from mpi_ltcr.memory.dense import DenseStore
from mpi_ltcr.memory.frame_ring import RECENT, FrameRing, ring_for
from mpi_ltcr.memory.n_step import NStep
from mpi_ltcr.memory.public import PublicMemory
from mpi_ltcr.memory.replay import Replay
from mpi_ltcr.memory.ring import Ring
from mpi_ltcr.memory.uniform import UniformOrder

STACK, SIDE = 3, 4
SPEC = EnvSpec((STACK, SIDE, SIDE), np.dtype(np.uint8), 5, 1 / 255, stacked=True)
PLAIN = SPEC._replace(stacked=False)
COLUMNS = {"obs": (np.dtype(np.uint8), SPEC.obs_shape), "number": (np.dtype(np.int64), ())}


def play(lengths: list[int], greys: int = 256, seed: int = 0) -> Iterator[Transition]:
    """Episodes of these lengths, every second one truncated; few grey levels make frames that equal one another, none
    make frames of which no two are equal."""
    rng = np.random.default_rng(seed)

    def frame() -> np.ndarray:
        if not greys:
            return rng.integers(256, size=(SIDE, SIDE), dtype=np.uint8)
        return np.full((SIDE, SIDE), rng.integers(greys), np.uint8)

    for episode, length in enumerate(lengths):
        obs = np.stack([frame()] * STACK)
        for step in range(length):
            next_obs = np.concatenate([obs[1:], frame()[None]])
            over = step == length - 1
            discount = 0.0 if over and episode % 2 else 0.9
            yield Transition(obs, int(rng.integers(5)), float(rng.normal()), discount, next_obs, over)
            obs = next_obs


def stored(capacity: int, segment_rows: int = 8, n: int = 1, spec: EnvSpec = SPEC) -> Replay:
    store = DenseStore(capacity=capacity, spec=spec)
    if spec.stacked:
        store.ring.segment_rows = segment_rows
    return Replay(store=store, order=UniformOrder(rng=np.random.default_rng(1)), n_step=NStep(steps=n))


def same(one: Transition, two: Transition) -> bool:
    return all(
        np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype for a, b in zip(one, two, strict=True)
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    capacity=st.integers(1, 40),
    segment_rows=st.integers(1, 12),
    lengths=st.lists(st.integers(1, 30), max_size=5),
    greys=st.sampled_from([1, 3, 256]),
)
def test_it_gives_back_what_a_deque_of_whole_transitions_holds(capacity, segment_rows, lengths, greys):
    memory = stored(capacity, segment_rows)
    truth: deque[Transition] = deque(maxlen=capacity)
    for number, transition in enumerate(play(lengths, greys)):
        memory.add(transition)
        truth.append(transition)
        assert len(memory) == len(truth)
        rows = np.arange(len(memory))
        held = memory.store.take(rows)
        for row in rows:
            expected = truth[(row - number - 1) % capacity if len(truth) == capacity else row]
            assert (held.obs[row] == expected.obs).all()
            assert (held.next_obs[row] == expected.next_obs).all()
            assert (held.action[row], held.discount[row]) == (expected.action, np.float32(expected.discount))
            assert held.reward[row] == np.float32(expected.reward)


@pytest.mark.parametrize("n", [1, 3, 20])
def test_it_samples_what_the_plain_ring_samples_also_over_several_steps(n):
    frames, plain = stored(50, n=n), stored(50, n=n, spec=PLAIN)
    assert (type(frames.store.ring), type(plain.store.ring)) == (FrameRing, Ring)
    for transition in play([7, 1, 40, 60, 2, 30]):
        frames.add(transition)
        plain.add(transition)
    for _ in range(5):
        one, two = frames.sample(32), plain.sample(32)
        assert same(one.batch, two.batch)
        assert (one.rows == two.rows).all()


@pytest.mark.parametrize("n", [1, 5])
def test_a_step_costs_one_frame_and_a_segment_the_few_that_its_first_rows_look_back_at(n):
    memory = stored(100, segment_rows=50, n=n)
    for transition in play([30, 1000], greys=0):
        memory.add(transition)
    ring = memory.store.ring
    shown = [segment.shown for segment in ring.segments.values() if segment.full]
    assert shown == [50 + STACK + n - 1] * 2


def test_no_more_segments_are_held_than_the_rows_need():
    ring = FrameRing(capacity=20, columns=COLUMNS, stacks=("obs",), segment_rows=8)
    for number, transition in enumerate(play([100])):
        ring.add(obs=transition.obs, number=number)
        assert len(ring.segments) <= 4
        assert set(ring.take(np.arange(len(ring)))["number"]) == set(range(max(0, number - 19), number + 1))


def test_a_long_row_of_equal_frames_is_found_across_segments():
    """Frames of a standing picture are not looked for in segments that may have left."""
    ring = FrameRing(capacity=10, columns=COLUMNS, stacks=("obs",), segment_rows=4)
    still = np.full(SPEC.obs_shape, 7, np.uint8)
    for number in range(60):
        ring.add(obs=still, number=number)
        assert (ring.take(np.arange(len(ring)))["obs"] == 7).all()
    assert all(segment.shown == 1 for segment in ring.segments.values())


def test_more_frames_than_were_reserved_find_room():
    ring = FrameRing(capacity=300, columns=COLUMNS, stacks=("obs",), segment_rows=300)
    rng = np.random.default_rng(0)
    observations = rng.integers(256, size=(300, *SPEC.obs_shape), dtype=np.uint8)  # nothing in common
    for number, obs in enumerate(observations):
        ring.add(obs=obs, number=number)
    assert ring.segments[0].shown == 900
    assert (ring.take(np.arange(300))["obs"] == observations).all()


def test_taken_rows_are_copies():
    memory = stored(10)
    for transition in play([5]):
        memory.add(transition)
    memory.store.take(np.array([1])).obs[:] = 99
    assert not (memory.store.take(np.array([1])).obs == 99).all()


def test_vectors_and_single_pictures_stay_in_a_plain_ring():
    vector = EnvSpec((4,), np.dtype(np.float32), 2)
    assert isinstance(ring_for(capacity=3, columns={"obs": (vector.obs_dtype, (4,))}, spec=vector), Ring)
    assert isinstance(DenseStore(capacity=3, spec=PLAIN).ring, Ring)


def test_the_public_memory_keeps_each_frame_once_too():
    memory = PublicMemory(capacity=30, spec=SPEC, rng=np.random.default_rng(0))
    met = list(play([25, 20]))
    memory.add(Features(np.stack([t.obs for t in met]), np.array([t.action for t in met])))
    sample = memory.sample(64)
    for obs, action in zip(sample.obs, sample.action, strict=True):
        assert any((obs == t.obs).all() and action == t.action for t in met[-30:])


# Checkpoints


def saved_and_loaded(state: dict, checkpoints: Path) -> dict:
    """Through files, its sealed parts through files of their own."""
    slim, _ = Shelf(checkpoints).put_away(state, "rank0000.h5")
    checkpoint.write_file(checkpoints, "rank0000.h5", slim)
    return Shelf(checkpoints).fetch(checkpoint.load_file(checkpoints / "rank0000.h5"))


@pytest.mark.parametrize("steps", [0, 5, 8, 16, 63, 150])
@pytest.mark.parametrize("n", [1, 3])
def test_a_memory_that_was_saved_and_loaded_goes_on_like_the_first(steps, n, tmp_path):
    first, second = stored(40, n=n), stored(40, n=n)
    game = play([20] * 20, greys=6)
    for transition in islice(game, steps):
        first.add(transition)
    for transition in play([9], seed=5):
        second.add(transition)
    second.load_state(saved_and_loaded(first.state(), tmp_path))
    for transition in islice(game, 70):
        first.add(transition)
        second.add(transition)
    assert same(first.sample(64).batch, second.sample(64).batch)
    one, two = ({k: s.shown for k, s in m.store.ring.segments.items()} for m in (first, second))
    assert one == two  # not only the rows: also what lies on disk next time


def test_a_full_segment_never_changes_again():
    memory = stored(40)
    game = play([1000])
    sealed: dict[str, Sealed] = {}
    for _ in range(10):
        for transition in islice(game, 13):
            memory.add(transition)
        now = memory.state()["store"]["ring"]["segments"]
        for name in sealed.keys() & now.keys():
            assert (sealed[name].tree["frames"] == now[name].tree["frames"]).all()
            assert all((sealed[name].tree["columns"][c] == v).all() for c, v in now[name].tree["columns"].items())
        sealed.update({name: Sealed(copied(value.tree)) for name, value in now.items() if name not in sealed})
    assert len(sealed) > 10


def copied(tree: dict) -> dict:
    return {name: copied(value) if isinstance(value, dict) else value.copy() for name, value in tree.items()}


def test_a_saved_ring_that_does_not_fit_is_refused():
    state = filled().state()["store"]["ring"]
    with pytest.raises(ValueError, match="capacity 40, this one has 41"):
        DenseStore(capacity=41, spec=SPEC).load_state({"ring": state})
    other = DenseStore(capacity=40, spec=SPEC._replace(obs_shape=(STACK, SIDE, SIDE + 1)))
    other.ring.segment_rows = 8
    with pytest.raises(ValueError, match="saved frames have shape"):
        other.load_state({"ring": state})


def filled() -> Replay:
    memory = stored(40)
    for transition in play([100]):
        memory.add(transition)
    return memory


@pytest.mark.parametrize(
    "damage", ["a segment is missing", "rows are missing", "frames are missing", "a hostile number"]
)
def test_a_saved_ring_whose_parts_do_not_belong_together_is_refused(damage):
    state = filled().state()["store"]["ring"]
    first = min(state["segments"])
    tree = state["segments"][first].tree
    if damage == "a segment is missing":
        del state["segments"][first]
    elif damage == "rows are missing":
        state["added"] += 1
    elif damage == "frames are missing":
        state["segments"][first] = Sealed({**tree, "frames": tree["frames"][:-1]})
    else:
        numbers = tree["columns"]["obs"].copy()
        numbers[0, 0] = -1
        state["segments"][first] = Sealed({**tree, "columns": {**tree["columns"], "obs": numbers}})
    with pytest.raises(ValueError, match=r"segments are not those|frames that were not saved"):
        stored(40).store.load_state({"ring": state})


# The real thing


class Wanderer:
    """Acts at random and remembers everything, twice."""

    def __init__(self, memories: list[Replay]) -> None:
        self.rng, self.memories = np.random.default_rng(4), memories

    def act(self, obs: np.ndarray) -> int:
        return int(self.rng.integers(18))

    def observe(self, transition: Transition) -> None:
        for memory in self.memories:
            memory.add(transition)


def test_atari_transitions_come_back_pixel_for_pixel_across_the_ends_of_games():
    kwargs = {"game": "Phoenix", "preprocessing": "dqn", "episodic_life": True, "max_steps": 60}
    env = envs.make("mpi_ltcr/Atari-v0", kwargs)
    spec = envs.spec_of("mpi_ltcr/Atari-v0", env)
    assert spec.stacked
    frames, plain = stored(150, segment_rows=64, spec=spec), stored(150, spec=spec._replace(stacked=False))
    loop = EnvLoop(env=env, seed_of=lambda episode: episode, discount=0.9)
    steps = list(islice(loop.steps(Wanderer([frames, plain])), 250))
    assert sum(step.ended is not None for step in steps) == 4
    rows = np.arange(150)
    assert same(frames.store.take(rows), plain.store.take(rows))
    assert sum(s.shown for s in frames.store.ring.segments.values()) < 250 + 4 * RECENT
