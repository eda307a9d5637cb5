"""A rank that waits stays awake for as long as its node has room for that, and then sleeps longer and longer."""

from __future__ import annotations

import pytest

from mpi_ltcr.comm import waiting
from mpi_ltcr.comm.waiting import AWAKE, CROWDED, Waiting


class Late:
    """A request that completes at a certain look."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def Test(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize(
    ("ranks", "cores", "looks"), [(1, 1, AWAKE), (2, 2, AWAKE), (4, 2, AWAKE), (5, 2, CROWDED), (64, 2, CROWDED)]
)
def test_it_sleeps_only_after_the_looks_that_its_node_has_room_for(
    ranks: int, cores: int, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(waiting.time, "sleep", slept.append)
    here = Waiting()
    here.share(ranks, cores)
    here.until(Late(looks))  # type: ignore[arg-type]
    assert slept == []
    here.until(Late(looks + 100))  # type: ignore[arg-type]
    assert slept == [min(1e-3, 2e-5 * n) for n in range(1, 101)]


def test_before_anybody_has_counted_it_gives_its_core_back_soon() -> None:
    assert Waiting().looks == CROWDED
