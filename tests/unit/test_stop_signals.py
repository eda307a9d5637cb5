"""The first signal asks a job to stop in order, a SIGINT after it ends the job, its own echo does not."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from mpi_ltcr.comm import runtime


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Exit codes with which the job was ended."""
    handlers = {number: signal.getsignal(number) for number in runtime.STOP_SIGNALS}
    codes: list[int] = []
    monkeypatch.setattr(runtime.guard, "abort", lambda text, code: codes.append(code))
    yield codes
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("first", "then", "after_s", "codes"),
    [
        (signal.SIGINT, signal.SIGINT, 0.1, []),
        (signal.SIGINT, signal.SIGINT, 0.6, [130]),
        (signal.SIGUSR1, signal.SIGINT, 0.1, [130]),
        (signal.SIGTERM, signal.SIGTERM, 9.0, []),
        (signal.SIGINT, signal.SIGUSR1, 9.0, []),
    ],
)
def test_a_sigint_after_any_signal_ends_the_job_unless_it_is_the_echo_of_one(
    first: int, then: int, after_s: float, codes: list[int], ended: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(runtime.time, "monotonic", lambda: now[0])
    signals = runtime.StopSignals()
    signal.raise_signal(first)
    assert (signals.received, ended) == (signal.Signals(first).name, [])
    now[0] += after_s
    signal.raise_signal(then)
    assert ended == codes
