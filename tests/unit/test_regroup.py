"""Who sits where in a team of another size, and what a newcomer brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.regroup import Regrouping, Seat, best_agent, keep_old_team, regroup
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
    assert best_agent(run, 4) == 2
    assert best_agent(run, 2) == 1
    (run / "logs" / "agent0000.h5").unlink()
    assert best_agent(run, 4) == 2, "counted by its number, whose log is missing or not"


def test_the_old_teams_logs_are_set_aside_once(run: Path) -> None:
    folder = keep_old_team(run, 200, 4)
    (run / "logs" / "agent0000.h5").write_bytes(b"of the new team")
    assert keep_old_team(run, 200, 4) == folder
    assert best_agent(folder, 4) == 2


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
