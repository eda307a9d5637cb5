"""The report of the fault suite claims what its rows say, and no more."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import fault_report
import pytest
from fault_report import Tally, table


def noted(row: str, fault: str, tally: Tally) -> dict[str, Any]:
    return {"row": row, "fault": fault, "skipped": "", "date": "2026-01-02", "commit": "abc1234", **asdict(tally)}


def test_only_the_hangs_whose_rank_was_named_count_as_named() -> None:
    told = table(
        [
            noted("A7", "a rank hangs: the report names it", Tally(14, 14)),
            noted("A7", "a silent worker or parameter server: named", Tally(4, 3)),
            noted("A7", "a rank hangs in MPI's own start or end: ended with its stack", Tally(4, 4)),
            noted("A7", "the network between two hosts is cut, then back: same end", Tally(1, 1)),
        ],
        [],
    )
    assert "| hangs ended, the right rank named | 17 of 18 |" in told
    assert "| hangs ended where nobody can know the rank: in MPI's own start or end, a cut cable | 5 of 5 |" in told


def test_a_process_without_mpirun_does_not_count_among_the_ends_of_jobs() -> None:
    told = table(
        [
            noted("A2", "SIGKILL of a rank", Tally(3, 3, [1.0, 2.0, 3.0], orphans=1)),
            noted("D33", "SIGKILL, without mpirun: same end", Tally(50, 50, [0.0] * 50)),
        ],
        [],
    )
    assert "median 2.0 s, at most 3.0 s, of 3 jobs |" in told
    assert "| no process outlives its job | 1 left after 3 faults |" in told


def test_rows_of_another_day_carry_its_date_and_code_and_those_of_this_run_do_not() -> None:
    today, older = noted("A2", "of this run", Tally(1, 1)), noted("B15", "SLURM", Tally(1, 1, told=["twice as fast"]))
    lines = table([today], [older]).splitlines()
    assert "| A2 | of this run | 1 | 1 |  |  |  |  |" in lines
    assert "| B15 | SLURM; twice as fast (2026-01-02, abc1234) | 1 | 1 |  |  |  |  |" in lines


def test_a_note_says_of_what_day_and_code_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAULTS_ROWS", str(tmp_path / "rows.jsonl"))
    monkeypatch.setattr(fault_report, "commit", lambda: "abc1234")
    fault_report.note("A2", "SIGKILL", Tally(1, 1, [0.12345]))
    [found] = fault_report.rows(str(tmp_path / "rows.jsonl"))
    assert (found["commit"], found["seconds"], len(found["date"])) == ("abc1234", [0.123], 10)
