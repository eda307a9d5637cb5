"""A rank that waits stays awake for as long as its node has room for that, and then sleeps longer and longer."""

from __future__ import annotations

import itertools

import pytest
from conftest import Clock

from mpi_ltcr.comm import waiting
from mpi_ltcr.comm.waiting import AWAKE_S, CROWDED_S, Waiting

LOOK_S = 1e-5


class Late:
    """A request that completes after so many seconds."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.end = clock, clock.now + seconds

    def Test(self) -> bool:
        self.clock.now += LOOK_S
        return self.clock.now > self.end


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("ranks", "cores", "awake"),
    [(1, 1, AWAKE_S), (2, 2, AWAKE_S), (4, 2, AWAKE_S), (5, 2, CROWDED_S), (64, 2, CROWDED_S)],
)
def test_it_sleeps_only_after_the_time_that_its_node_has_room_for(
    ranks: int, cores: int, awake: float, clock: Clock
) -> None:
    here = Waiting()
    here.share(ranks, cores)
    here.until(Late(clock, awake - LOOK_S))
    assert clock.slept == []
    here.until(Late(clock, awake + 0.1))
    assert clock.slept[:3] == pytest.approx([2e-5, 4e-5, 6e-5])
    assert max(clock.slept) == clock.slept[-1] == 1e-3
    assert awake + 0.1 < clock.now - (awake - LOOK_S) < awake + 0.1 + 2e-3


def test_before_anybody_has_counted_it_gives_its_core_back_soon() -> None:
    assert Waiting().awake_s == CROWDED_S


def test_what_is_to_be_done_meanwhile_is_done_after_each_look_in_vain_and_may_end_the_waiting(clock: Clock) -> None:
    calls = itertools.count()

    def meanwhile() -> None:
        if next(calls) == 7:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        Waiting().until(Late(clock, 1.0), meanwhile)
    assert next(calls) == 8
