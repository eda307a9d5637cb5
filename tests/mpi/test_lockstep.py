"""One game on several ranks: replicas that exchange only actions stay one game, and notice when they do not."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import Runner

sys.path.insert(0, str(Path(__file__).parent / "scripts"))

from teammates import play

from mpi_ltcr.archive import checkpoint, reader

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(200)]
SCRIPT = Path(__file__).parent / "scripts" / "teammates.py"


def in_one_process(team: int, games: int, steps: int) -> list[dict[str, np.ndarray]]:
    """The same teammates as threads that swap their actions through a list."""
    slots: list[np.ndarray | None] = [None] * team
    barrier = threading.Barrier(team)
    results: list[dict[str, np.ndarray]] = [{}] * team

    def teammate(ship: int) -> None:
        def exchange(mine: np.ndarray) -> np.ndarray:
            slots[ship] = mine.copy()
            barrier.wait()
            everyone = np.stack([slot for slot in slots if slot is not None])
            barrier.wait()
            return everyone

        results[ship] = play(ship, team, games, steps, exchange)

    threads = [threading.Thread(target=teammate, args=(ship,)) for ship in range(team)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_four_ranks_play_the_game_that_four_agents_play_in_one_process(mpirun: Runner, tmp_path: Path) -> None:
    done = mpirun(4, [str(SCRIPT), str(tmp_path)], timeout=150)
    assert done.rc == 0, done.err
    for rank, wanted in enumerate(in_one_process(4, 2, 250)):
        with np.load(tmp_path / f"rank{rank}.npz") as found:
            for name, values in wanted.items():
                assert np.array_equal(found[name], values, equal_nan=True), (rank, name)
        assert np.isnan(wanted["rewards"]).any(), "somebody must have died, or idling was not tried"
        assert len(wanted["returns"]) >= 2
        assert np.isfinite(wanted["returns"]).all()


def test_a_diverging_replica_ends_the_job_and_names_the_teammates(mpirun: Runner, tmp_path: Path) -> None:
    done = mpirun(2, [str(SCRIPT), str(tmp_path), "diverge"], timeout=100)
    assert done.rc != 0
    assert "the world of agent 1 differs from that of agent 0 after 200 steps" in done.err


def test_a_team_trains_in_one_shared_game_and_logs_what_each_ship_did(run_tiny: Runner, tmp_path: Path) -> None:
    out = tmp_path / "team"
    preset = "small-ltcr-space-battle-2v2-9-1"
    done = run_tiny(2, preset, out, "--frames", "800", "--env.copies", "2", "--eval.every", "400", timeout=150)
    assert done.rc == 0, done.err
    first, second = (log.table("episodes") for log in reader.read_logs(out))
    assert len(first["return"]) == 4, "two games side by side, 400 steps each, 200 steps a game"
    assert np.array_equal(first["return"], second["return"]), "teammates share the game and its return"
    both = [log.table("battles") for log in reader.read_logs(out)]
    assert [b["evaluation"].tolist() for b in both] == [[0, 0, 1, 0, 0, 1]] * 2
    battles = [{name: column[b["evaluation"] == 0] for name, column in b.items()} for b in both]
    assert all(((b["fire_fraction"] >= 0) & (b["fire_fraction"] <= 1)).all() for b in battles)
    assert not np.array_equal(battles[0]["shots"], battles[1]["shots"]), "but each flies a ship of its own"
    evaluations = [log.table("eval")["return"] for log in reader.read_logs(out)]
    assert len(evaluations[0]) == 2
    assert np.array_equal(*evaluations)

    second = tmp_path / "second"
    enemies = ("--env.kwargs.enemies", f"frozen:{out}")
    done = run_tiny(2, preset, second, "--frames", "400", "--env.copies", "2", *enemies, timeout=150)
    assert done.rc == 0, done.err
    states = [checkpoint.load_file(second / "checkpoints" / "step_000000400" / f"rank000{i}.h5") for i in (0, 1)]
    flown = [state["loop"]["snapshots"]["weights"] for state in states]
    trained = [checkpoint.load_file(out / "checkpoints" / "step_000000800" / f"rank000{i}.h5") for i in (0, 1)]
    assert all((weights == state["agent"]["weights"]).all() for weights, state in zip(flown, trained, strict=True))
    worlds = [state["loop"]["games"]["world"]["position"] for state in states]
    assert np.array_equal(*worlds)
    assert not np.array_equal(*flown)


def test_a_wrong_number_of_ranks_names_the_size_of_the_team(run_tiny: Runner, tmp_path: Path) -> None:
    done = run_tiny(2, "small-ltcr-space-battle-3v3-9-1", tmp_path / "x")
    assert done.rc == 2
    assert "mpirun -n 3" in done.err
    assert not (tmp_path / "x").exists()
