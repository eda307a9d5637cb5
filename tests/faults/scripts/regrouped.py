"""A team of three that is regrouped, with the real functions: resume --agents 3 --keep 2,0 --new-agents clone-best.

2 moves to 0, 0 to 1, 1 leaves, and a clone of 2 comes. It may be cut off anywhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mpi_ltcr import options
from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import open_log
from mpi_ltcr.archive.recorder import Recorder
from mpi_ltcr.archive.regroup import (
    Regrouping,
    Seat,
    begun_by,
    config_file,
    kept_folder,
    put_in_force,
    regroup,
    settle,
    write_files,
)
from mpi_ltcr.archive.rundir import RunDirectory
from mpi_ltcr.archive.schema import TABLES, columns
from mpi_ltcr.archive.segments import Shelf
from mpi_ltcr.archive.verification import verify_run
from mpi_ltcr.interfaces import Sealed, State

AT, BEFORE = 200, 3
CHANGE = Regrouping(BEFORE, (Seat(2), Seat(0), Seat(None, 2)))
ASKED = {"size": 3, "keep": [2, 0], "clone_best": True}
SETTINGS = {"previous": [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}], "new": [{"lr": 0.3}, {"lr": 0.1}, {"lr": 0.3}]}
OWNERS = {"previous": [0, 1, 2], "new": [2, 0, 2]}
"""Whose state and settings each number has."""
LOGS: dict[str, list[int | None]] = {"previous": [0, 1, 2], "new": [2, 0, None]}
"""Whose log each number goes on with."""


def state(agent: int, rows: int) -> State:
    """With a part that is sealed, as of a memory of frames."""
    pixels = np.random.default_rng(agent).integers(0, 255, 2000, np.uint8)
    log_rows = {**dict.fromkeys(TABLES, 0), "eval": rows}
    segments = {"000003": Sealed({"pixels": pixels})}
    return {"session": {"log_rows": log_rows}, "agent": {"weights": np.full(9, agent), "segments": segments}}


def memory() -> State:
    """M0."""
    return {"ring": {"segments": {"000000": Sealed({"pixels": np.arange(500)})}}, "rng": 7}


def yaml(agents: list[dict[str, Any]]) -> str:
    return f"agents: {agents}\n"


def recorder(root: Path, number: int) -> Recorder:
    return Recorder(path=RunDirectory(root).log(number), attributes={"agent": number})


def filled(one: Recorder, agent: int, rows: int) -> Recorder:
    """Rows that tell whose they are; later agents do better."""
    for row in range(one.rows()["eval"], rows):
        one.add("eval", **dict.fromkeys(columns("eval"), 1) | {"frames": row, "return": float(agent)})
    return one


def save(root: Path, frames: int, states: list[State], shelf: Shelf) -> None:
    """As a session of all ranks."""
    run = RunDirectory(root)
    draft, files, segments = checkpoint.begin(run.checkpoints, frames), [], []
    parts = {checkpoint.rank_file(number): part for number, part in enumerate(states)} | {"memory.h5": memory()}
    for name, part in parts.items():
        slim, found = shelf.put_away(part, name)
        files.append(checkpoint.write_file(draft, name, slim))
        segments += found
    facts = {"world_size": len(states), checkpoint.TEAM: shelf.team}
    checkpoint.commit(run.checkpoints, frames, files, facts, segments)
    checkpoint.prune(run.checkpoints, 2, frames)
    run.write_status(state="running", frames=frames, checkpoint=frames)


def made(root: Path) -> Callable[[], None]:
    """A run of the old team, with two checkpoints; the change."""
    RunDirectory(root).create(yaml(SETTINGS["previous"]), {})
    shelf = Shelf(root / "checkpoints")
    for frames in (AT - 100, AT):
        for agent in range(BEFORE):
            filled(recorder(root, agent), agent, frames // 10 + agent).publish()
        save(root, frames, [state(agent, frames // 10 + agent) for agent in range(BEFORE)], shelf)
    return lambda: change(root)


def change(root: Path) -> None:
    """As the ranks of the new team."""
    folder, _ = checkpoint.newest_whole(root / "checkpoints")
    draft = checkpoint.begin(root / "checkpoints", AT)
    written = [one for number in range(len(CHANGE.seats)) for one in seat_files(folder, draft, number)]
    files, segments = [file for file, _ in written], [one for _, found in written for one in found]
    put_in_force(root, folder, CHANGE, yaml(SETTINGS["new"]), {"world_size": len(CHANGE.seats)}, files, segments)


def seat_files(folder: Path, draft: Path, number: int) -> Iterator[Any]:
    seat = CHANGE.seats[number]
    slim = checkpoint.load_file(folder / checkpoint.rank_file(OWNERS["new"][number]))
    if seat.source is None:
        slim["session"]["log_rows"] = dict.fromkeys(TABLES, 0)
    return write_files(folder, number, slim, None if number else "memory.h5", draft)


def outcome(root: Path) -> str:
    """Which team is in force, whole. Then it goes on, and another time the same command is given again."""
    RunDirectory(root).open(force_unlock=True)  # the lock is of the parent, which lives
    found = in_force(root)
    if found == "previous":
        assert (root / "config.yaml").read_text() == yaml(SETTINGS["previous"]), "its configuration was touched"
        assert sorted(path.name for path in (root / "logs").iterdir()) == [f"agent000{k}.h5" for k in range(BEFORE)]
    again = root.with_name("again")
    shutil.rmtree(again, ignore_errors=True)
    shutil.copytree(root, again)

    go_on(root, found)
    asked = regroup(again, **ASKED)
    assert asked == (CHANGE if found == "previous" else None)
    settle(again, checkpoint.newest_whole(again / "checkpoints")[0])
    if asked:
        change(again)
    go_on(again, "new")
    return found


def in_force(root: Path) -> str:
    """What a plain resume finds before it changes anything; the logs of all of the old team are somewhere."""
    folder, _ = checkpoint.newest_whole(root / "checkpoints")
    found = "previous" if begun_by(checkpoint.read_manifest(folder)) is None else "new"
    assert config_file(root).read_text() == yaml(SETTINGS[found])
    logs = root if found == "previous" else kept_folder(root, AT, BEFORE)
    for agent in range(BEFORE):
        table = open_log(logs / "logs" / f"agent{agent:04d}.h5").table("eval")
        assert table["return"].tolist() == [float(agent)] * (AT // 10 + agent)
    return found


def go_on(root: Path, team: str) -> None:
    """A plain resume, to the next checkpoint: all states, segments and logs are this team's."""
    folder, _ = checkpoint.newest_whole(root / "checkpoints")
    settle(root, folder)
    assert options.yaml.safe_load((root / "config.yaml").read_text())["agents"] == SETTINGS[team]
    states, shelf = [], Shelf(folder.parent)
    shelf.know(folder)
    for number, (owner, log) in enumerate(zip(OWNERS[team], LOGS[team], strict=True)):
        rows = 0 if log is None else AT // 10 + log
        states.append(fetched(folder, checkpoint.rank_file(number), shelf))
        assert same(states[-1], state(owner, rows)), f"{number} is not what {owner} was"
        one = recorder(root, number)
        one.rewind(states[-1]["session"]["log_rows"])
        filled(one, owner, AT // 10 + 9).publish()
        table = open_log(one.path).table("eval")
        assert table["return"].tolist() == [float(owner)] * (AT // 10 + 9)
        assert table["frames"].tolist() == list(range(AT // 10 + 9)), "rows are missing or twice"
    assert same(fetched(folder, "memory.h5", shelf), memory())
    before = {path.name: path.stat().st_ino for path in shelf.folder.iterdir()}
    save(root, AT + 100, states, shelf)
    after = {path.name: path.stat().st_ino for path in shelf.folder.iterdir()}
    assert after.items() <= before.items(), "segments were written again"
    assert [problem for _, problem in verify_run(root) if problem] == []
    assert not list(root.rglob("*.tmp")), "leftovers"
    assert not [old for old in root.rglob("*.old") if old.with_suffix("").exists()], "what was replaced is still there"
    expected = [folder.name for folder in checkpoint.folders(root / "checkpoints")]
    assert expected == ["step_000000300", "step_000000200"] or team == "previous"


def fetched(folder: Path, name: str, shelf: Shelf) -> State:
    return shelf.fetch(checkpoint.load_file(folder / name), name)


def same(a: State, b: State) -> bool:
    x, y = dict(checkpoint.flatten(a)), dict(checkpoint.flatten(b))
    return x.keys() == y.keys() and all(np.array_equal(x[place], y[place]) for place in x)
