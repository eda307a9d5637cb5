"""Pixels reach M0 as distinct frames on every rank: the same memory, the same samples, fewer bytes."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
from team_room import Room, Seat, in_threads

from mpi_ltcr import envs
from mpi_ltcr.comm.collectives import WireError
from mpi_ltcr.interaction import EnvLoop, explore
from mpi_ltcr.interfaces import EnvSpec, Features, Transition
from mpi_ltcr.memory.frame_ring import distinct_frames
from mpi_ltcr.memory.public import PublicMemory
from mpi_ltcr.transfer.couriers import Draw, FrameCourier, VectorCourier

SPEC = EnvSpec((3, 5, 4), np.dtype(np.uint8), 6, 1 / 255, stacked=True)
SIZES = {"most": 9, "demonstrations": 7}
CAPACITY = 40


class CountingSeat(Seat):
    """Also counts the bytes that this rank sends and receives, as `Service` does."""

    def _count(self, payload: np.ndarray, sent: int, received: int) -> None:
        self.sent += sent * np.asarray(payload).nbytes
        self.received += received * np.asarray(payload).nbytes

    def gather(self, payload: np.ndarray) -> np.ndarray | None:
        self._count(payload, int(self.rank > 0), 0 if self.rank else self.size - 1)
        return super().gather(payload)

    def bcast(self, payload: np.ndarray) -> np.ndarray:
        self._count(payload, 0 if self.rank else self.size - 1, int(self.rank > 0))
        return super().bcast(payload)

    def allgather(self, payload: np.ndarray) -> np.ndarray:
        self._count(payload, self.size - 1, self.size - 1)
        return super().allgather(payload)


def some(count: int, seed: int) -> Features:
    """Successive stacks of one episode, so that frames repeat."""
    rng = np.random.default_rng(seed)
    film = rng.integers(256, size=(count + 2, *SPEC.obs_shape[1:]), dtype=np.uint8)
    return Features(
        np.stack([film[i : i + 3] for i in range(count)]) if count else np.zeros((0, *SPEC.obs_shape), np.uint8),
        rng.integers(6, size=count),
    )


def memory(spec: EnvSpec = SPEC, capacity: int = CAPACITY, seed: int = 8) -> PublicMemory:
    return PublicMemory(capacity=capacity, spec=spec, rng=np.random.default_rng(seed))


def rounds(way: type, size: int, samples: int, uploads: Any, count: int) -> list[list[Draw]]:
    """Each agent's draws of `count` rounds; `uploads(agent, round)` are its vectors."""
    room = Room(size)

    def part(agent: int) -> list[Draw]:
        seat: Any = Seat(room, agent)
        if way is FrameCourier:
            courier: Any = FrameCourier(service=seat, memory=memory(), spec=SPEC, samples=samples, **SIZES)
        else:
            central = memory() if agent == 0 else None
            courier = VectorCourier(service=seat, memory=central, spec=SPEC, samples=samples, ranked=True, **SIZES)
        draws = []
        for number in range(count):
            courier.upload(uploads(agent, number), recent=10.0 * agent + number)
            draws.append(courier.draw())
        return draws

    return in_threads(part, size)


def same(one: Draw, two: Draw) -> bool:
    pairs = zip(one.samples, two.samples, strict=True) if one.rows else ()
    alike = all(np.array_equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))
    return alike and one.rows == two.rows and np.array_equal(one.returns, two.returns)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("samples", [1, 3])
def test_both_ways_bring_the_same_memory_and_the_same_samples(size: int, samples: int) -> None:
    def uploads(agent: int, number: int) -> Features:
        return some([0, 9, 4, 1, 0, 7][(agent + number) % 6] if number else 0, seed=100 * agent + number)

    frames, vectors = (rounds(way, size, samples, uploads, 12) for way in (FrameCourier, VectorCourier))
    assert frames[0][0].rows == 0
    assert frames[0][-1].rows == CAPACITY  # it has wrapped around
    for mine in frames:
        assert all(same(a, b) for a, b in zip(mine, vectors[0], strict=True))


def test_copies_that_differ_end_the_job() -> None:
    room = Room(2)

    def part(agent: int) -> None:
        seat: Any = Seat(room, agent)
        courier = FrameCourier(service=seat, memory=memory(), spec=SPEC, samples=1, **SIZES)
        courier.upload(some(5, seed=agent), 0.0)
        if agent == 1:
            courier.checksum ^= 1
        courier.upload(some(5, seed=agent), 0.0)

    with pytest.raises(WireError, match="copies of M0 differ"):
        in_threads(part, 2)


def test_distinct_frames_say_where_each_frame_of_each_stack_is() -> None:
    stacks = some(9, seed=1).obs
    frames, numbers = distinct_frames(stacks)
    assert len(frames) == 11
    assert (frames[numbers] == stacks).all()
    still = np.zeros((6, 3, 5, 4), np.uint8)
    assert len(distinct_frames(still)[0]) == 1
    nothing, none = distinct_frames(still[:0])
    assert (len(nothing), none.shape) == (0, (0, 3))


class Wanderer:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def act(self, obs: np.ndarray) -> int:
        return int(self.rng.integers(18))

    def observe(self, transition: Transition) -> None:
        pass


def test_a_round_of_atari_costs_what_the_docstring_says() -> None:
    """Two agents, 40 frames each, a sample of 32."""
    kwargs = {"game": "Phoenix", "preprocessing": "dqn"}
    spec = envs.spec_of("mpi_ltcr/Atari-v0", envs.make("mpi_ltcr/Atari-v0", kwargs))
    met = []
    for agent in range(2):
        loop = EnvLoop(env=envs.make("mpi_ltcr/Atari-v0", kwargs), seed_of=lambda episode: episode, discount=0.9)
        list(islice(loop.steps(Wanderer(agent)), 30))
        met.append(explore(loop, Wanderer(agent), 40)[0])
    sizes: dict[str, Any] = {"most": 40, "samples": 1, "demonstrations": 32}

    def part(way: type, room: Room, agent: int) -> tuple[int, int]:
        seat: Any = CountingSeat(room, agent)
        if way is FrameCourier:
            courier: Any = FrameCourier(service=seat, memory=memory(spec, 200), spec=spec, **sizes)
        else:
            central = memory(spec, 200) if agent == 0 else None
            courier = VectorCourier(service=seat, memory=central, spec=spec, ranked=False, **sizes)
        courier.upload(met[agent], 0.0)
        courier.draw()
        return seat.sent, seat.received

    stacks, frames = (in_threads(partial(part, way, Room(2)), 2) for way in (VectorCourier, FrameCourier))
    assert stacks == [(903_432, 1_129_288), (1_129_288, 903_432)]
    assert frames[0] == frames[1]
    assert frames[0][0] == frames[0][1] <= 304_500
