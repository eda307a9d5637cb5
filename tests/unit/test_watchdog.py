"""The watchdog blames the rank that holds the job up, and nobody while all is well. Clock and board are played."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from mpi_ltcr.archive.heartbeats import Heartbeats, read_heartbeats
from mpi_ltcr.comm.pulse import Pulse, Wait
from mpi_ltcr.comm.verdict import HANG, INTERNAL, Seen, Verdict, judge
from mpi_ltcr.comm.watchdog import START_S, Watchdog, within

LIMIT = 100.0


def in_gather(*ranks: int, number: int = 7, on: int = 1) -> Wait:
    return Wait(f"the others in gather at here:{number}", ranks, (on, number))


def seen(rank: int, silence: float, waits: Wait | None = None, *, steady: bool = True, been: int = 0) -> Seen:
    """`been`: number of the last collective that it has come to on communicator 1; at least what it waits in."""
    entered = {1: been} if been else {}
    return Seen(
        rank,
        "communicate" if waits else "revisit",
        silence,
        waits,
        steady,
        entered | dict([waits.place] if waits else []),
    )


TEAM = (0, 1, 2)


def test_nobody_is_blamed_before_the_limit() -> None:
    assert judge(seen(0, 99), [], LIMIT) is None
    assert judge(seen(0, 99, in_gather(*TEAM)), [seen(1, 99), seen(2, 99, in_gather(*TEAM))], LIMIT) is None


def test_who_does_not_wait_and_is_silent_blames_himself() -> None:
    verdict = judge(seen(1, 101), [seen(0, 101, in_gather(*TEAM))], LIMIT)
    assert verdict is not None
    assert (verdict.guilty, verdict.code) == (1, HANG)
    assert verdict.text == "rank 1 holds the job up: rank 1 is in phase revisit, no progress for 101 s"


def test_who_waits_blames_the_one_that_is_not_in_the_collective_although_others_have_waited_longer() -> None:
    others = [seen(1, 101), seen(2, 500, in_gather(*TEAM))]
    verdict = judge(seen(0, 300, in_gather(*TEAM)), others, LIMIT)
    assert verdict is not None
    assert (verdict.guilty, verdict.code) == (1, HANG)
    assert "rank 0 waits for the others in gather at here:7" in verdict.text


def test_a_rank_that_is_only_slow_is_waited_for() -> None:
    for silence in (0, 50, 99):
        assert (
            judge(seen(0, 10_000, in_gather(*TEAM)), [seen(1, silence), seen(2, 9000, in_gather(*TEAM))], LIMIT) is None
        )


def test_one_that_came_later_to_the_same_collective_is_not_taken_for_progress() -> None:
    verdict = judge(seen(0, 300, in_gather(*TEAM)), [seen(1, 200), seen(2, 5, in_gather(*TEAM))], LIMIT)
    assert verdict is not None
    assert verdict.guilty == 1


def test_a_chain_of_waiting_is_followed_to_its_end() -> None:
    """A worker waits for its server, that one for a worker, that one for the other task's server, which sleeps."""
    server, worker = Wait("rank 0 to answer", (0,)), Wait("rank 3 to answer", (3,))
    others = [seen(0, 200, Wait("requests", (1, 2))), seen(2, 190, worker), seen(3, 180), seen(4, 900)]
    verdict = judge(seen(1, 150, server), others, LIMIT)
    assert verdict is not None
    assert verdict.guilty == 3


def test_a_server_that_answers_others_is_no_hang() -> None:
    others = [seen(0, 0.1, Wait("requests", (1, 2))), seen(2, 0.2)]
    assert judge(seen(1, 1e4, Wait("rank 0 to answer", (0,))), others, LIMIT) is None


def test_if_all_wait_together_nobody_of_them_is_blamed() -> None:
    verdict = judge(seen(0, 101, in_gather(*TEAM)), [seen(1, 101, in_gather(*TEAM))], LIMIT)
    assert verdict is not None
    assert "the network or MPI itself" in verdict.text


def test_ranks_that_wait_where_the_other_has_not_been_are_out_of_step_long_before_the_limit() -> None:
    other = seen(1, 12, in_gather(*TEAM, on=2), been=6)
    verdict = judge(seen(0, 11, in_gather(*TEAM)), [other, seen(2, 0.1)], LIMIT)
    assert verdict == Verdict(1, verdict.text if verdict else "", INTERNAL)
    assert verdict is not None
    assert "rank 0 waits for the others in gather at here:7 (number 7), rank 1 waits for " in verdict.text


def test_ranks_are_out_of_step_only_if_both_are_there_for_a_while_and_need_each_other() -> None:
    other = in_gather(*TEAM, on=2)
    assert judge(seen(0, 11, in_gather(*TEAM)), [seen(1, 12, other, steady=False)], LIMIT) is None
    assert judge(seen(0, 11, in_gather(*TEAM)), [seen(1, 9, other)], LIMIT) is None
    assert judge(seen(0, 11, in_gather(0, 2)), [seen(1, 12, in_gather(1, 2, on=2)), seen(2, 0)], LIMIT) is None


@pytest.mark.parametrize("ahead", [in_gather(*TEAM, number=8), in_gather(*TEAM, on=2)])
def test_a_rank_that_has_left_its_part_behind_is_not_out_of_step_but_waits_for_a_third_one(ahead: Wait) -> None:
    """A gather sends its part and goes on; who collects the parts waits there for the slowest."""
    me, other = seen(0, 50, in_gather(*TEAM)), seen(1, 60, ahead, been=8)
    assert judge(me, [other, seen(2, 50)], LIMIT) is None
    assert judge(other, [me, seen(2, 50)], LIMIT) is None
    verdict = judge(seen(0, 101, in_gather(*TEAM)), [seen(1, 110, ahead, been=8), seen(2, 101)], LIMIT)
    assert verdict is not None
    assert (verdict.guilty, verdict.code) == (2, HANG)


def test_two_of_whom_one_is_ahead_have_lost_each_other_and_not_their_step() -> None:
    """What the one that is ahead has sent has never come: the network between them is gone."""
    me, other = seen(0, 101, in_gather(0, 1)), seen(1, 102, in_gather(0, 1, on=2), been=7)
    verdicts = judge(me, [other], LIMIT), judge(other, [me], LIMIT)
    assert [verdict.code if verdict else None for verdict in verdicts] == [HANG, HANG]


class Board:
    """Pulses in a dict."""

    def __init__(self) -> None:
        self.pulses: dict[int, dict[str, Any]] = {}
        self.reports: dict[int, str] = {}
        self.reads = 0

    def publish(self, rank: int, content: dict[str, Any]) -> None:
        self.pulses[rank] = {**content, "pid": 0}  # nobody who could be asked for a stack

    def read(self) -> dict[int, dict[str, Any]]:
        self.reads += 1
        return self.pulses

    def report(self, rank: int, text: str) -> None:
        self.reports[rank] = text

    def reported(self, rank: int) -> bool:
        return rank in self.reports


class Rank:
    """A watchdog on played time; `ended` is what it ended the job with."""

    def __init__(self, rank: int, board: Board, size: int = 2, patience: float = 1.0) -> None:
        self.pulse, self.ended = Pulse(), []
        self.dog = Watchdog(
            pulse=self.pulse, rank=rank, size=size, abort=lambda *how: self.ended.append(how), launched=False
        )
        self.dog.attach(board, patience)
        self.pulse.enter("revisit")

    def until(self, start: float, end: float, *others: Rank) -> None:
        """Look every tenth of a second, others too; stop at the first end."""
        for turn in range(round(10 * (end - start))):
            for rank in (self, *others):
                if not rank.ended:
                    rank.dog.look(start + turn / 10)


def test_a_rank_that_sleeps_is_named_by_itself_and_by_the_one_that_waits() -> None:
    board = Board()
    waiting, asleep = Rank(0, board), Rank(1, board)
    waiting.pulse.join(in_gather(0, 1))
    waiting.until(0, 4, asleep)
    for rank in (waiting, asleep):
        [(text, code)] = rank.ended
        assert code == HANG
        assert text.startswith("rank 1 holds the job up: rank 1 is in phase revisit")
    assert "Thread MainThread" in board.reports[0]
    assert "rank 0 waits for the others in gather at here:7, no progress for" in board.reports[0]


def test_a_rank_that_cannot_speak_is_named_by_the_others() -> None:
    """It holds Python's lock: its pulse was published once and never again."""
    board = Board()
    waiting, mute = Rank(0, board), Rank(1, board)
    mute.dog.look(0.0)
    waiting.pulse.join(in_gather(0, 1))
    waiting.until(0, 4)
    assert [text[:24] for text, _ in waiting.ended] == ["rank 1 holds the job up:"]


def test_a_rank_that_never_published_is_named() -> None:
    waiting = Rank(0, Board())
    waiting.pulse.join(in_gather(0, 1))
    waiting.until(0, 4)
    assert [text[:24] for text, _ in waiting.ended] == ["rank 1 holds the job up:"]


def test_a_slow_rank_ends_nothing_as_long_as_its_pulse_goes_on() -> None:
    board = Board()
    waiting, slow = Rank(0, board), Rank(1, board)
    waiting.pulse.join(in_gather(0, 1))
    for start in range(40):  # something every half of the limit, for twenty times the limit
        waiting.until(start / 2, start / 2 + 0.5, slow)
        slow.pulse.beat()
    assert (waiting.ended, slow.ended) == ([], [])


def test_others_are_looked_at_only_by_who_waits_long() -> None:
    board = Board()
    rank = Rank(0, board, patience=1000)
    for start in range(60):
        rank.until(start, start + 1)
        rank.pulse.beat()
    assert board.reads == 0
    assert board.pulses[0]["beats"] > 1


def test_a_process_that_was_stopped_as_a_whole_is_not_blamed_for_it() -> None:
    rank = Rank(0, Board())
    rank.until(0, 0.5)
    rank.until(60, 60.3)
    assert rank.ended == []
    rank.until(61, 63)
    assert len(rank.ended) == 1


def test_the_start_has_ten_minutes() -> None:
    rank = Rank(0, Board())
    rank.pulse.enter("start")
    for end in (100.0, START_S - 1):
        rank.dog.look(end)
    assert rank.dog.limit_s == START_S
    assert rank.ended == []


def test_a_rank_whose_launcher_has_died_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[str, int]] = []
    dog = Watchdog(pulse=Pulse(), rank=0, size=2, abort=lambda *how: ended.append(how), launched=True)
    dog.look(0.0)
    assert ended == []
    monkeypatch.setattr(os, "getppid", lambda: 1)
    dog.look(0.1)
    assert [code for _, code in ended] == [HANG]


def test_a_lost_rank_that_waits_for_another_is_not_blamed_for_it() -> None:
    board = Board()
    server, worker, other = Rank(0, board, 3), Rank(1, board, 3), Rank(2, board, 3)
    worker.pulse.waits = Wait("rank 2 to answer", (2,))
    for rank in (server, worker, other):
        rank.dog.look(0.0)
    assert server.dog.explain(1).startswith("rank 2 holds the job up")
    assert server.dog.explain(2).startswith("rank 2 holds the job up")
    assert board.reported(0)


def test_what_a_mute_rank_waited_for_when_it_last_spoke_does_not_clear_it() -> None:
    board = Board()
    server, worker = Rank(0, board), Rank(1, board)
    worker.pulse.waits = Wait("rank 0 to answer", (0,))
    worker.dog.look(0.0)
    board.pulses[1]["time"] -= 60
    assert server.dog.explain(1).startswith("rank 1 holds the job up: rank 1 is in phase revisit")


def test_one_that_is_slow_to_answer_but_makes_progress_or_waits_for_one_that_does_is_told_from_a_lost_one() -> None:
    board = Board()
    server, worker, other = Rank(0, board, 3), Rank(1, board, 3), Rank(2, board, 3)
    assert not Rank(0, Board(), 3).dog.moves(1), "nobody has ever seen it"
    for rank in (server, worker, other):
        rank.dog.look(0.0)
    assert server.dog.moves(1)
    board.pulses[1]["silence_s"] = 5.0
    assert not server.dog.moves(1)
    board.pulses[1]["waits"] = {"what": "rank 2 to answer", "ranks": [2], "place": [0, 0]}
    assert server.dog.moves(1)
    board.pulses[1]["waits"] = {"what": "rank 0 to answer", "ranks": [0], "place": [0, 0]}
    assert not server.dog.moves(1), "it waits for the one that asks"
    board.pulses[2]["time"] -= 60
    assert not server.dog.moves(2), "mute since a minute"


def test_a_dead_file_system_holds_the_watchdog_up_for_a_moment_only() -> None:
    start = time.monotonic()
    assert not within(0.05, lambda: time.sleep(5))
    assert time.monotonic() - start < 4
    assert not within(1, lambda: 1 / 0)
    assert within(1, lambda: None)


def test_what_is_published_is_read_back_and_what_is_no_pulse_is_passed_over(tmp_path: Any) -> None:
    board, later = Heartbeats(tmp_path, 1), Heartbeats(tmp_path, 2)
    rank = Rank(1, board)  # type: ignore[arg-type]
    rank.pulse.join(in_gather(0, 1))
    rank.dog.look(0.0)
    folder = tmp_path / "heartbeat"
    for name, text in (("2", "{"), ("3", "[]"), ("4", '{"rank": 4}'), ("5", "1" * 100_000), ("6", "[" * 50_000)):
        (folder / f"rank000{name}.json").write_text(text)
    [(number, pulse)] = board.read().items()
    assert (number, pulse["pid"], pulse["phase"]) == (1, os.getpid(), "revisit")
    assert pulse["waits"] == {"what": "the others in gather at here:7", "ranks": [0, 1], "place": [1, 7]}
    assert later.read() == {}
    assert set(read_heartbeats(folder)) == {1}
    assert not board.reported(1)
    board.report(1, "stacks")
    assert (tmp_path / "hang" / "attempt1-rank0001.txt").read_text() == "stacks"
    assert (board.reported(1), later.reported(1)) == (True, False)
