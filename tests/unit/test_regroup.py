"""Who sits where in a team of another size, and what a newcomer brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.checkpoint import CheckpointError
from mpi_ltcr.archive.reader import read_logs
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.regroup import (
    REGROUPED,
    Regrouping,
    Seat,
    begun_by,
    best_agent,
    config_file,
    keep_old_team,
    put_in_force,
    regroup,
    write_files,
)
from mpi_ltcr.programs.regrouping import newcomer


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A checkpoint of four, of whom agent 2 has been best of late."""
    draft = checkpoint.begin(tmp_path / "checkpoints", 200)
    entries = [checkpoint.write_file(draft, checkpoint.rank_file(agent), {}) for agent in range(4)]
    checkpoint.commit(tmp_path / "checkpoints", 200, entries, {"world_size": 4})
    (tmp_path / "logs").mkdir()
    (tmp_path / "config.yaml").write_text("frames: 200\n")
    for agent, late in enumerate((5.0, 7.0, 9.0, 1.0)):
        recorder = Recorder(path=tmp_path / "logs" / f"agent{agent:04d}.h5", attributes={"agent": agent})
        for value in [100.0 - agent] * 5 + [late] * 10:
            row = {"return": value, "length": 1, "episode": 0, "lives": 1}
            recorder.add("eval", frames=100, updates=1, wall_s=1.0, **row)
        recorder.publish()
    return tmp_path


@pytest.mark.parametrize(
    ("size", "keep", "clone", "seats"),
    [
        (2, None, False, [Seat(0), Seat(1)]),
        (2, [0, 2], False, [Seat(0), Seat(2)]),
        (2, [3, 1], True, [Seat(3), Seat(1)]),
        (5, None, False, [Seat(0), Seat(1), Seat(2), Seat(3), Seat(None)]),
        (3, [1], True, [Seat(1), Seat(None, 2), Seat(None, 2)]),
        (4, None, False, [Seat(0), Seat(1), Seat(2), Seat(3)]),
    ],
)
def test_those_who_stay_sit_down_in_order_and_new_ones_behind_them(
    run: Path, size: int, keep: list[int] | None, clone: bool, seats: list[Seat]
) -> None:
    assert regroup(run, size, keep, clone_best=clone) == Regrouping(4, tuple(seats))


@pytest.mark.parametrize(("size", "keep"), [(2, [0, 4]), (2, [1, 1]), (1, [0, 1])])
def test_who_is_not_there_or_too_many_cannot_stay(run: Path, size: int, keep: list[int]) -> None:
    with pytest.raises(ValueError, match="--keep"):
        regroup(run, size, keep, clone_best=False)


def test_settings_of_unlike_agents_move_with_them() -> None:
    change = Regrouping(3, (Seat(2), Seat(None, 1), Seat(None)))
    assert change.settings([{"lr": 0}, {"lr": 1}, {"lr": 2}]) == [{"lr": 2}, {"lr": 1}, {}]
    assert change.settings([]) == []


def test_the_best_is_found_by_its_newest_evaluations(run: Path) -> None:
    assert best_agent(run, range(4)) == 2
    assert best_agent(run, range(2)) == 1
    (run / "logs" / "agent0000.h5").unlink()
    assert best_agent(run, range(4)) == 2, "counted by its number, whose log is missing or not"


def test_the_old_teams_logs_are_set_aside_once(run: Path) -> None:
    folder = keep_old_team(run, 200, 4)
    (run / "logs" / "agent0000.h5").write_bytes(b"of the new team")
    assert keep_old_team(run, 200, 4) == folder
    assert best_agent(folder, range(4)) == 2


def commit(run: Path, change: Regrouping, config: str) -> None:
    """As the ranks of the new team do."""
    folder, _ = checkpoint.newest_whole(run / "checkpoints")
    draft = checkpoint.begin(run / "checkpoints", 200)
    files = [file for number in range(len(change.seats)) for file, _ in write_files(folder, number, {}, None, draft)]
    put_in_force(run, folder, change, config, {"world_size": len(change.seats)}, files, [])


def test_the_same_command_once_more_changes_nothing_until_the_new_team_has_saved_again(run: Path) -> None:
    asked = {"size": 2, "keep": [3, 1], "clone_best": False}
    change = regroup(run, **asked)
    assert change == Regrouping(4, (Seat(3), Seat(1)))
    commit(run, change, "frames: 300\n")
    assert regroup(run, **asked) is None
    assert regroup(run, 2, [1, 0], clone_best=False) == Regrouping(2, (Seat(1), Seat(0)))
    assert regroup(run, 3, [0, 1], clone_best=False) == Regrouping(2, (Seat(0), Seat(1), Seat(None)))
    draft = checkpoint.begin(run / "checkpoints", 300)
    entries = [checkpoint.write_file(draft, checkpoint.rank_file(agent), {}) for agent in range(2)]
    checkpoint.commit(run / "checkpoints", 300, entries, {"world_size": 2})
    with pytest.raises(ValueError, match=r"\[3, 1\] are not different agents of 0 to 1"):
        regroup(run, **asked)


def test_the_best_of_a_team_whose_logs_have_yet_to_follow_is_found_in_what_is_kept(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mpi_ltcr.archive.regroup.settle", cut_off)
    with pytest.raises(KeyboardInterrupt):
        commit(run, Regrouping(4, (Seat(3), Seat(0), Seat(1))), "frames: 9\n")
    assert (config_file(run).read_text(), (run / "config.yaml").read_text()) == ("frames: 9\n", "frames: 200\n")
    change = regroup(run, 4, None, clone_best=True)
    assert change is not None
    assert change.seats[3] == Seat(None, 2), "who was 1, and better than those who were 3 and 0"


def test_a_new_one_and_a_clone_are_not_the_same_wish(run: Path) -> None:
    for clone_best in (False, True):
        change = regroup(run, 5, None, clone_best=clone_best)
        assert change is not None
        assert change.grants(5, [0, 1, 2, 3], clone_best=clone_best)
        assert not change.grants(5, [0, 1, 2, 3], clone_best=not clone_best)


def test_teams_that_end_at_the_same_frame_each_keep_their_logs(run: Path) -> None:
    for size, keep in ((2, [3, 1]), (4, None), (2, [1, 2])):
        change = regroup(run, size, keep, clone_best=False)
        assert change is not None
        for number in range(change.before):
            if not (run / "logs" / f"agent{number:04d}.h5").exists():  # of a new one
                Recorder(path=run / "logs" / f"agent{number:04d}.h5", attributes={"agent": number}).publish()
        commit(run, change, f"frames: {size}\n")
        assert (run / "config.yaml").read_text() == f"frames: {size}\n"
        assert config_file(run) == run / "config.yaml"
    kept = {folder.name: [log.agent for log in read_logs(folder)] for folder in (run / "teams").iterdir()}
    first, second, third = "until-000000200-of-4", "until-000000200-of-2-1", "until-000000200-of-4-2"
    assert kept == {first: [0, 1, 2, 3], second: [3, 1], third: [3, 1, 2, 3]}


NOT_A_CHANGE = [4, {}, {"before": 4}, {"before": 4, "seats": 1}, {"before": 4, "seats": [["../x", None]]}]


@pytest.mark.parametrize("told", NOT_A_CHANGE)
def test_a_manifest_that_tells_no_change_is_refused(told: Any) -> None:
    with pytest.raises(CheckpointError, match="is no change of a team"):
        begun_by({REGROUPED: told})


def test_what_was_prepared_by_an_attempt_that_was_cut_off_is_prepared_anew(run: Path) -> None:
    kept = keep_old_team(run, 200, 4)
    (kept / "next.yaml").write_text("frames: 7\n")
    (kept / "logs" / "agent0003.h5").write_bytes(b"of that time")
    assert config_file(run) == run / "config.yaml", "nothing was committed"
    commit(run, Regrouping(4, (Seat(3), Seat(0))), "frames: 8\n")
    assert (run / "config.yaml").read_text() == "frames: 8\n"
    assert [log.agent for log in read_logs(run)] == [3, 0]


def state(number: int) -> dict[str, Any]:
    """As a session saves it, in small; every leaf tells whose it is."""
    replay = {"store": {"rows": np.full(3, number)}, "order": {"rng": {"s": number}}, "n_step": {"open": number}}
    agent = {"frames": number, "weights": np.full(2, number), "explore_rng": {"s": number}, "replay": replay}
    clocks = {"frames": 10 * number, "updates": number, "evaluations": number, "wall_s": 1.0 * number}
    transfer = {"rounds": number, "upload_rng": {"s": number}, "topology_rng": {"s": number}}
    return {
        "session": {**clocks, "log_rows": {"eval": number, "train": number}},
        "agent": agent,
        "loop": {"frames": number, "episode": number, "actions": np.full(number, number)},
        "transfer": transfer,
    }


def test_a_fresh_agent_has_the_teams_clocks_and_nothing_else_of_it() -> None:
    made = newcomer(state(7), state(1), cloned=False)
    assert made["session"] == {
        **{"frames": 70, "updates": 0, "evaluations": 7, "wall_s": 7.0},
        "log_rows": {"eval": 0, "train": 0},
    }
    assert (made["agent"]["frames"], made["agent"]["weights"].tolist(), made["loop"]["episode"]) == (1, [1, 1], 1)
    assert made["transfer"] == {"rounds": 7, "upload_rng": {"s": 1}, "topology_rng": {"s": 7}}


def test_a_clone_knows_what_its_model_knows_and_draws_its_own_random_numbers() -> None:
    made = newcomer(state(7), state(1), cloned=True)["agent"]
    assert (made["frames"], made["weights"].tolist(), made["replay"]["store"]["rows"].tolist()) == (7, [7, 7], [7] * 3)
    assert (made["explore_rng"], made["replay"]["order"]["rng"]) == ({"s": 1}, {"s": 1})
    assert made["replay"]["n_step"] == {"open": 1}, "its episode is not its model's"


def test_a_clone_of_a_memory_of_frames_has_its_open_segment_too() -> None:
    model, own = state(7), state(1)
    model["agent"]["replay"]["store"] = {"open": {"columns": {"action": np.full(3, 7)}}}
    own["agent"]["replay"]["store"] = {"open": None}
    made = newcomer(model, own, cloned=True)["agent"]
    assert made["replay"]["store"]["open"]["columns"]["action"].tolist() == [7] * 3
