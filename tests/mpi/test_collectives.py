"""Collectives on real ranks. What each rank asserts stands in `scripts/collectives.py`, under the same name."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_report import LARGE

from mpi_ltcr.comm.node import available_memory

DAMAGED = pytest.mark.fault(
    "E40", "a message damaged, repeated, of another round, operation, size or version (collectives)"
)
pytestmark = pytest.mark.mpi

SCRIPT = str(Path(__file__).parent / "scripts" / "collectives.py")


@pytest.fixture
def check(mpirun):
    """Run one named check on so many ranks: it fails if any rank fails."""

    def run(ranks: int, name: str, timeout: float = 30) -> None:
        done = mpirun(ranks, [SCRIPT, name], timeout=timeout)
        assert done.rc == 0, done.err
        assert done.out.strip() == f"passed: {name}"

    return run


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_collectives_give_what_was_sent_in_the_order_of_agents_and_not_of_ranks(ranks, check):
    check(ranks, "results")


@LARGE
@pytest.mark.timeout(300)
@pytest.mark.fault("E41", "more than 2^31 bytes in a message, and in what a rank receives")
def test_more_bytes_than_a_c_int_counts_arrive(check):
    if (available_memory() or 0) < 20e9:
        pytest.skip("takes 20 GB of memory")
    check(2, "enormous", timeout=240)


def test_agents_hear_those_whom_the_table_names_and_nobody_else(check):
    check(4, "deliveries")


def test_a_sum_is_exact_whoever_sits_where_and_its_message_does_not_grow_with_the_team(check):
    check(3, "sums")


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_bytes_are_counted_exactly_with_their_headers(ranks, check):
    check(ranks, "bytes_counted")


def test_two_services_on_the_same_ranks_do_not_take_each_others_messages(check):
    check(3, "independent")


def test_a_rank_that_waits_gives_its_core_back(check):
    check(2, "waiting")


def test_an_exchange_between_ranks_that_are_there_takes_no_nap(check):
    check(2, "fast")


def test_the_ranks_of_a_machine_count_themselves_and_the_cores_of_all(check):
    check(2, "cores")


@DAMAGED
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_flipped_bit_is_noticed_by_every_rank_that_receives_it(ranks, check):
    check(ranks, "flipped_bit")


@DAMAGED
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_damaged_broadcast_or_upload_is_noticed_where_it_arrives(ranks, check):
    check(ranks, "damaged_broadcast")


@DAMAGED
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_message_of_another_round_is_refused_and_both_rounds_are_named(ranks, check):
    check(ranks, "another_round")


@DAMAGED
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_message_of_another_operation_is_refused_and_named(ranks, check):
    check(ranks, "another_operation")


@DAMAGED
def test_a_message_of_another_size_or_type_is_refused_and_both_are_told(check):
    check(2, "another_size")


@pytest.mark.fault("A9", "one exchange fewer, or another collective, on one rank")
def test_ranks_that_took_another_branch_are_told_of_at_their_next_meeting(check):
    check(3, "another_branch")


@DAMAGED
def test_a_message_that_is_delivered_twice_is_noticed(check):
    check(2, "delivered_twice")
