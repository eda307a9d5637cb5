"""When a log is written again, and what becomes of an error."""

from __future__ import annotations

from itertools import pairwise

import pytest
from conftest import Clock

from mpi_ltcr.programs import publishing
from mpi_ltcr.programs.publishing import SHARE, Publishing


class Slow:
    """A log that takes its time to be written, or cannot be."""

    def __init__(self, clock: Clock, seconds: float = 0.0, error: str = "") -> None:
        self.clock, self.seconds, self.error, self.written = clock, seconds, error, 0

    def publish(self) -> None:
        self.clock.sleep(self.seconds)
        if self.error:
            raise OSError(self.error)
        self.written += 1


def publishes(log: Slow, every_s: float, clock: Clock, seconds: int) -> list[float]:
    """At which seconds a log begins to be written, by one who asks all the time."""
    out, start, times = Publishing(log, every_s, print), clock.now, []  # type: ignore[arg-type]
    while clock.now < start + seconds:
        clock.now += 0.25
        if out.due:
            times.append(clock.now - start)
            out.publish()
    return times


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(publishing, "time", clock)
    return clock


def test_a_log_that_is_soon_written_is_written_as_often_as_was_asked(clock: Clock) -> None:
    times = publishes(Slow(clock), 5.0, clock, 60)
    assert times == [5.25 * n for n in range(1, len(times) + 1)]
    assert len(times) == 11


def test_a_log_that_takes_long_to_write_takes_no_more_than_its_share_of_the_time(clock: Clock) -> None:
    log = Slow(clock, seconds=4.0)
    times = publishes(log, 5.0, clock, 1000)
    assert times[0] == 5.25
    assert all(later - earlier > 4 / SHARE for earlier, later in pairwise(times))
    assert 4 * len(times) == pytest.approx(1000 * SHARE, rel=0.15)


def test_what_the_disk_refuses_is_told_and_tried_again_when_it_is_time(clock: Clock) -> None:
    told: list[tuple[str, str]] = []
    log = Slow(clock, error="No space left on device")
    out = Publishing(log, 5.0, lambda level, text: told.append((level, text)))  # type: ignore[arg-type]
    clock.now += 6
    out.publish()
    assert told == [("error", "log not written: No space left on device")]
    assert not out.due
    clock.now += 6
    log.error = ""
    assert out.due
    out.publish()
    assert log.written == 1
