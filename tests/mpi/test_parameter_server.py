"""The dialogue between server and workers on real ranks. What they do stands in `scripts/parameter_server.py`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DAMAGED = pytest.mark.fault(
    "E40", "a message damaged, repeated, of another round, operation, size or version (parameter server)"
)
SILENT = pytest.mark.fault("A7", "a silent worker or parameter server: named")
pytestmark = pytest.mark.mpi

SCRIPT = str(Path(__file__).parent / "scripts" / "parameter_server.py")
SOON = 40.0
"""Seconds for a job of half a second and one second of patience, on a busy machine."""


@pytest.fixture
def check(mpirun, tmp_path):
    """Run one named check on so many ranks: it fails if any rank fails."""

    def run(ranks: int, name: str) -> None:
        done = mpirun(ranks, [SCRIPT, name, str(tmp_path / "run")], timeout=100)
        assert done.rc == 0, done.err
        assert done.out.strip() == f"passed: {name}"

    (tmp_path / "run").mkdir()
    return run


@pytest.fixture
def fails(mpirun):
    """Run a check that is to end the job; what was said."""

    def run(ranks: int, name: str) -> str:
        done = mpirun(ranks, [SCRIPT, name], timeout=100)
        assert done.seconds < SOON
        assert done.rc != 0
        assert "passed" not in done.out
        return done.err

    return run


# Exactly once


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_every_gradient_is_applied_exactly_once_and_t_is_the_sum_of_steps_and_never_goes_back(ranks, check):
    check(ranks, "under_load")


@pytest.mark.fault("A8", "a worker twenty times slower than the others: no alarm, nothing lost")
@pytest.mark.parametrize("ranks", [3, 4])
def test_a_worker_twenty_times_slower_than_the_rest_loses_nothing_and_holds_up_nobody(ranks, check):
    check(ranks, "slow_worker")


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_server_that_shares_its_rank_with_a_worker_serves_while_it_waits_for_itself(ranks, check):
    check(ranks, "shared")


def test_staleness_queue_bytes_and_returns_of_each_push_are_as_defined(check):
    check(3, "staleness_and_queue")


def test_a_stop_that_one_worker_asks_for_reaches_all_and_no_push_is_lost(check):
    check(4, "stop_asked_by_a_worker")


def test_a_server_to_which_nobody_speaks_gives_its_core_back(check):
    check(3, "idle")


# Damage


@DAMAGED
@pytest.mark.parametrize(
    "what",
    [
        "damaged_requests",
        "requests_of_wrong_length",
        "repeated_and_skipped_requests",
        "gradients_of_wrong_size",
        "damaged_answers",
    ],
)
def test_a_message_that_is_not_what_it_was_or_not_due_is_refused_and_nothing_of_it_applied(what, check):
    check(2, what)


@DAMAGED
def test_a_repeated_request_ends_the_job(fails):
    told = fails(3, "poisoned")
    assert re.search(r"WireError: request 1 of rank 1 came after request \d+", told)


# Silence and death


@SILENT
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_silent_worker_ends_the_job_and_is_named(ranks, fails):
    told = fails(ranks, "silent_worker")
    assert f"LostRankError: rank {ranks - 1} has not been heard of for 5 s (runtime.patience_s)" in told
    assert told.count("the job ends here") == 1


@SILENT
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_silent_server_ends_the_job_and_is_named(ranks, fails):
    told = fails(ranks, "silent_server")
    assert "LostRankError: rank 0 did not answer for 5 s (runtime.patience_s)" in told


@pytest.mark.fault("A2", "SIGKILL of a worker or parameter server")
@pytest.mark.parametrize("who", ["dead_worker", "dead_server"])
def test_a_rank_that_is_killed_ends_the_job(who, fails):
    fails(3, who)


# Guests


@pytest.mark.parametrize("ranks", [3, 4])
def test_guests_get_the_newest_weights_may_be_silent_for_long_and_are_served_until_they_say_goodbye(ranks, check):
    check(ranks, "guests")


# Checkpoints


@pytest.mark.parametrize("ranks", [2, 4])
def test_checkpoints_are_named_after_the_t_that_is_in_them_and_the_last_one_has_every_push(ranks, check):
    check(ranks, "checkpoints")


def test_a_stop_at_the_very_t_of_a_checkpoint_that_is_being_gathered_waits_for_the_next_push(check):
    check(4, "stop_while_saving")


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_stop_before_the_first_push_is_saved_like_any_other(ranks, check):
    check(ranks, "stop_before_the_first_push")


def test_three_checkpoints_in_a_row_that_fail_stop_the_run(check):
    check(2, "three_failed_checkpoints")


def test_a_worker_that_cannot_save_costs_one_checkpoint_and_is_told_of_if_it_was_the_last(check):
    check(2, "worker_that_cannot_save")
