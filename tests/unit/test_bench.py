"""Every part of `mpi-ltcr bench` measures what it says and tells it in one form; no speed is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from typing import Any

import pytest

from mpi_ltcr.bench import measuring
from mpi_ltcr.bench.comm import WAYS, sizes
from mpi_ltcr.bench.learn import BACKENDS
from mpi_ltcr.bench.measuring import Asked, Bench, Cost, Piece, measure, table, text_of
from mpi_ltcr.comm.collectives import HEADER

TINY = ["--seconds", "0.001", "--repeats", "2", "--json"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only when a piece lets it: [wall, cpu], in s."""
    now = [0.0, 0.0]
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(measuring.time, "process_time", lambda: now[1])
    return now


def taking(now: list[float], wall: Any, cpu: Any, tape: list[str], name: str) -> Any:
    """Work of which each unit takes so long; `wall` and `cpu` are called for each."""

    def work(n: int) -> None:
        tape.append(name)
        for _ in range(n):
            now[0] += wall()
            now[1] += cpu()

    return work


def test_pieces_are_measured_in_turn_and_the_medians_stand_against_one_slow_spell(clock: list[float]) -> None:
    tape: list[str] = []
    units = count()
    slow = taking(clock, lambda: 8.0 if 150 <= next(units) < 180 else 2.0, lambda: 1.0, tape, "slow")
    pieces = [
        Piece("quick", "units", taking(clock, lambda: 1.0, lambda: 0.25, tape, "quick")),
        Piece("slow", "units", slow, "quick"),
    ]
    costs = measure(pieces, Asked(seconds=30.0, repeats=5))
    assert tape[-10:] == ["quick", "slow"] * 5
    assert costs["quick"] == Cost(1.0, 0.25, [0.25] * 5)
    assert costs["slow"] == Cost(2.0, 1.0, [1.0] * 5)
    rows = table("a title", pieces, costs).rows
    assert [row["per_cpu_s"] for row in rows] == [4.0, 1.0]
    assert [row["per_wall_s"] for row in rows] == [1.0, 0.5]
    assert [row["times_floor"] for row in rows] == [None, 4.0]


def test_shares_are_of_the_whole_that_the_pieces_make_up() -> None:
    pieces = [
        Piece("floor", "x", print),
        Piece("act", "x", print, "floor", "a frame", 10.0),
        Piece("learn", "x", print, "", "a frame"),
    ]
    costs = {"floor": Cost(1, 1, [1, 1]), "act": Cost(1, 0.3, [0.3, 0.3]), "learn": Cost(2, 1.0, [1.0, 1.0])}
    assert [row["share"] for row in table("t", pieces, costs).rows] == [None, 0.75, 0.25]


def test_a_table_has_one_line_for_each_row_and_its_columns_stand_below_each_other() -> None:
    rows = [
        {"piece": "act", "per_cpu_s": 12345.6, "share": 0.5},
        {"piece": "learn it", "per_cpu_s": 1.5, "share": None},
    ]
    title, head, first, second = text_of(Bench("a title", rows)).split("\n")
    assert title == "a title"
    assert head.split() == ["piece", "per_cpu_s", "share"]
    assert first.split() == ["act", "12346", "50.0", "%"]
    assert second.split() == ["learn", "it", "1.5", "-"]
    assert len(head) == len(first)
    assert head.index("per_cpu_s") + 9 == first.index("12346") + 5 == second.index("1.5") + 3


def test_teams_grow_in_powers_of_two_up_to_what_was_started() -> None:
    assert sizes(2) == [2]
    assert sizes(6) == [2, 4, 6]
    assert sizes(64) == [2, 4, 8, 16, 32, 64]


def bench(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "mpi_ltcr", "bench", *arguments, *TINY],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return dict(json.loads(done.stdout))


def test_environments_learners_and_a_training_are_measured_on_one_rank() -> None:
    told = bench("env", "learn", "train", "--frames", "600")
    assert list(told) == ["facts", "env", "learn", "train"]
    assert told["facts"]["ranks"] == 1
    names = []
    for part in ("env", "learn"):
        for made in told[part]:
            names += [row["piece"] for row in made["rows"]]
            known = {row["piece"] for row in made["rows"]}
            for row in made["rows"]:
                assert row["per_cpu_s"] > 0
                assert row["per_wall_s"] > 0
                assert (row["floor"] is None) == (row["times_floor"] is None)
                assert row["floor"] is None or row["floor"] in known
    for words in ("CartPole", "a single game", "side by side", "Pong 84x84x4", "Pong 42x42", *BACKENDS):
        assert any(words in name for name in names), words
    whole: dict[str, float] = {}
    for row in told["learn"][0]["rows"]:
        backend = row["piece"].split(":")[0]
        whole[backend] = whole.get(backend, 0) + (row["share"] or 0)
    assert {name: round(share, 6) for name, share in whole.items() if share} == dict.fromkeys(BACKENDS, 1)
    trained = told["train"][0]["rows"]
    assert [row["backend"] for row in trained] == list(BACKENDS)
    for row in trained:
        phases = ("explore", "communicate", "digest", "revisit", "evaluate", "archive")
        assert sum(row[phase] for phase in phases) == pytest.approx(1)
        assert row["frames_per_cpu_s"] * row["cpu_ms_per_frame"] == pytest.approx(1000)
        assert row["waiting"] == 0
        assert row["memory_mb"] > 50
        assert row["times_floor"] > 0


@pytest.mark.mpi
def test_a_round_is_measured_for_each_size_of_team_and_topology_and_its_bytes_are_exact(mpirun: Any) -> None:
    done = mpirun(4, ["-m", "mpi_ltcr", "bench", "comm", *TINY], timeout=100)
    assert done.rc == 0, done.err
    rows = json.loads(done.out)["comm"][0]["rows"]
    assert [(row["ranks"], row["topology"]) for row in rows] == [(size, way) for size in (2, 4) for way in WAYS]
    vector, header = 4 * 4 + 8, HEADER.size
    upload, sample = header + 8 + 10 * vector, header + 8 + 32 * vector
    answer = header + 4 * 32 * 51
    for row in rows:
        others = row["ranks"] - 1
        ranked = 8 if row["topology"].startswith("best") else 0
        if row["topology"] == "all":
            assert row["bytes_sent_each"] == upload + others * answer
            assert row["bytes_received_each"] == sample + others * answer
            assert row["bytes_sent_rank0"] == others * (sample + answer)
        elif "allreduce" in row["topology"]:
            assert row["bytes_sent_each"] == upload + 8 * (32 * 51 + 5)
        else:
            assert row["bytes_received_each"] == sample + row["ranks"] * ranked + answer
        assert row["ms"] > 0
        assert row["bare_mpi_ms"] > 0
        assert row["cpu_ms_each"] > 0
