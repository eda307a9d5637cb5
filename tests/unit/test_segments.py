"""What never changes again is written once, named by every manifest that needs it, and gone when none does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.checkpoint import CheckpointError
from mpi_ltcr.archive.segments import Shelf, segments_of
from mpi_ltcr.archive.tree import SegmentName
from mpi_ltcr.archive.verification import verify_run
from mpi_ltcr.interfaces import Sealed, State

FOLDER = checkpoint.SEGMENTS


def state(frames: int, rank: int = 0) -> State:
    """Of a memory that seals a part every 100 frames and forgets those before the last three."""
    sealed = range(max(0, frames // 100 - 3), frames // 100)
    parts = {f"{k:06d}": Sealed({"pixels": np.full(1000, 10 * rank + k, np.uint8)}) for k in sealed}
    return {"agent": {"replay": {"segments": parts, "open": {"pixels": np.arange(frames % 100)}}}, "frames": frames}


def save(checkpoints: Path, frames: int, shelves: list[Shelf], *, commit: bool = True) -> Path:
    """A checkpoint of a team, a shelf for each rank; without a commit the job was killed just before it."""
    draft = checkpoint.begin(checkpoints, frames)
    files, segments = [], []
    for rank, shelf in enumerate(shelves):
        name = checkpoint.rank_file(rank)
        slim, entries = shelf.put_away(state(frames, rank), name)
        files.append(checkpoint.write_file(draft, name, slim))
        segments += entries
    if commit:
        checkpoint.commit(checkpoints, frames, files, {"world_size": len(shelves)}, segments)
        checkpoint.prune(checkpoints, 2, frames)
    return checkpoint.step_folder(checkpoints, frames)


def load(folder: Path, rank: int = 0) -> State:
    return Shelf(folder.parent).fetch(checkpoint.load_file(folder / checkpoint.rank_file(rank)))


def bits(state: State) -> dict[str, Any]:
    leaves = dict(checkpoint.flatten(state))
    return {place: (v.dtype, v.tobytes()) if isinstance(v, np.ndarray) else v for place, v in leaves.items()}


def on_disk(checkpoints: Path) -> dict[str, tuple[int, int]]:
    """Each segment's inode and time of writing."""
    facts = {path.name: path.stat() for path in (checkpoints / FOLDER).iterdir()}
    return {name: (fact.st_ino, fact.st_mtime_ns) for name, fact in facts.items()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two checkpoints of a team of two; the checkpoints' folder."""
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (tmp_path / "config.yaml").write_text("")
    shelves = [Shelf(checkpoints), Shelf(checkpoints)]
    for frames in (250, 350):
        save(checkpoints, frames, shelves)
    return checkpoints


def test_what_was_put_away_comes_back_as_it_was(run: Path) -> None:
    for frames in (250, 350):
        for rank in (0, 1):
            assert bits(load(checkpoint.step_folder(run, frames), rank)) == bits(state(frames, rank))


def test_a_checkpoint_file_holds_the_names_of_its_segments_and_not_their_content(run: Path) -> None:
    folder = checkpoint.step_folder(run, 350)
    parts = checkpoint.load_file(folder / "rank0001.h5")["agent"]["replay"]["segments"]
    assert parts == {f"{k:06d}": f"rank0001-{k:06d}.h5" for k in range(3)}
    assert all(isinstance(name, SegmentName) for name in parts.values())
    listed = checkpoint.read_manifest(folder)[FOLDER]
    assert sorted(listed) == [f"rank{rank:04d}-{k:06d}.h5" for rank in (0, 1) for k in range(3)]


def test_each_segment_is_written_once_and_removed_when_no_kept_manifest_needs_it(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    seen: dict[str, tuple[int, int]] = {}
    for frames in range(50, 1000, 70):
        save(tmp_path, frames, [shelf])
        kept = checkpoint.folders(tmp_path)
        needed = {name for folder in kept for name in checkpoint.read_manifest(folder).get(FOLDER, {})}
        now = on_disk(tmp_path) if (tmp_path / FOLDER).is_dir() else {}
        assert set(now) == needed
        assert all(seen[name] == fact for name, fact in now.items() if name in seen)
        assert all(bits(load(folder)) == bits(state(checkpoint.frames_of(folder))) for folder in kept)
        seen.update(now)
    assert len(seen) == 9


def test_small_checkpoints_are_as_they_were_without_segments(tmp_path: Path) -> None:
    folder = save(tmp_path, 50, [Shelf(tmp_path)])
    assert FOLDER not in checkpoint.read_manifest(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", folder.name]


def test_killed_between_segments_and_manifest_the_older_checkpoint_is_whole_and_the_next_one_too(run: Path) -> None:
    shelves = [Shelf(run), Shelf(run)]
    for shelf in shelves:
        shelf.know(checkpoint.step_folder(run, 350))
    save(run, 420, shelves, commit=False)
    orphan = run / FOLDER / "rank0000-000003.h5"
    assert orphan.is_file()
    orphan.write_bytes(b"half of it")  # and even if the disk had it only in part

    folder, refused = checkpoint.newest_whole(run)
    assert (folder.name, refused) == ("step_000000350", [])
    before = on_disk(run)
    resumed = [Shelf(run), Shelf(run)]
    for shelf in resumed:
        shelf.know(folder)
    save(run, 420, resumed)
    after = on_disk(run)
    assert checkpoint.newest_whole(run) == (checkpoint.step_folder(run, 420), [])
    assert bits(load(checkpoint.step_folder(run, 420), 0)) == bits(state(420, 0))
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    assert changed == {"rank0000-000003.h5", "rank0001-000003.h5"}  # what the older manifest names was not touched


def test_segments_of_a_save_that_another_rank_failed_are_not_written_again(run: Path) -> None:
    shelf = Shelf(run)
    shelf.know(checkpoint.step_folder(run, 350))
    save(run, 420, [shelf], commit=False)
    before = on_disk(run)
    slim, entries = shelf.put_away(state(430), "rank0000.h5")
    assert on_disk(run) == before
    assert [entry.name for entry in entries] == [f"rank0000-{k:06d}.h5" for k in (1, 2, 3)]
    assert slim["agent"]["replay"]["segments"]["000003"] == "rank0000-000003.h5"


def test_who_moves_to_another_number_keeps_its_files_and_takes_nobodys_name_for_new_ones(run: Path) -> None:
    folder, before = checkpoint.step_folder(run, 350), on_disk(run)
    shelf = Shelf(run)
    shelf.know(folder)
    moved = shelf.fetch(checkpoint.load_file(folder / "rank0001.h5"), "rank0000.h5")
    shelf.team = 1
    slim, entries = shelf.put_away(moved, "rank0000.h5")
    listed = checkpoint.read_manifest(folder)[FOLDER]
    assert [entry.name for entry in entries] == [f"rank0001-{k:06d}.h5" for k in range(3)]
    assert all(entry.sha256 == listed[entry.name]["sha256"] for entry in entries)
    assert list(segments_of(slim, {FOLDER: listed})) == entries
    assert on_disk(run) == before

    _, entries = shelf.put_away(state(420, rank=1), "rank0000.h5")
    assert [entry.name for entry in entries] == ["rank0001-000001.h5", "rank0001-000002.h5", "rank0000-000003-1.h5"]
    assert on_disk(run).items() - before.items() == {("rank0000-000003-1.h5", on_disk(run)["rank0000-000003-1.h5"])}


@pytest.mark.parametrize("damage", ["a bit", "cut short", "missing", "a directory"])
def test_a_damaged_segment_is_named_for_every_checkpoint_that_needs_it(run: Path, damage: str) -> None:
    path = run / FOLDER / "rank0001-000002.h5"  # only the newer one has it
    content = path.read_bytes()
    path.unlink()
    if damage == "a bit":
        path.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    elif damage == "cut short":
        path.write_bytes(content[:-1])
    elif damage == "a directory":
        path.mkdir()
    folder, refused = checkpoint.newest_whole(run)
    assert folder.name == "step_000000250"
    assert len(refused) == 1
    assert "step_000000350: rank0001-000002.h5" in refused[0]
    faults = {name: problem for name, problem in verify_run(run.parent) if problem}
    assert list(faults) == ["checkpoints/step_000000350"]


def test_verify_looks_at_every_segment_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    sha256 = checkpoint.sha256
    monkeypatch.setattr(checkpoint, "sha256", lambda path: looked.append(path.name) or sha256(path))
    assert [problem for _, problem in verify_run(run.parent) if problem] == []
    assert sorted(name for name in looked if "-" in name) == sorted(on_disk(run))


def test_a_segment_that_both_checkpoints_need_spoils_both(run: Path) -> None:
    (run / FOLDER / "rank0000-000001.h5").write_bytes(b"")
    faults = [name for name, problem in verify_run(run.parent) if problem]
    assert faults == ["checkpoints/step_000000350", "checkpoints/step_000000250"]
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        checkpoint.newest_whole(run)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "rank0000.h5", "rank0000-1.h5/x", "", "-1.h5"])
def test_a_name_that_leads_elsewhere_is_refused_in_the_file_and_in_the_manifest(tmp_path: Path, name: str) -> None:
    checkpoint.write_file(tmp_path, "rank0000.h5", {"part": SegmentName(name)})
    with pytest.raises(CheckpointError, match="unknown kind 'segment'"):
        checkpoint.load_file(tmp_path / "rank0000.h5")
    draft = checkpoint.begin(tmp_path, 100)
    entry = checkpoint.write_file(draft, "rank0000.h5", {})
    folder = checkpoint.commit(tmp_path, 100, [entry], {"world_size": 1}, [checkpoint.Entry(name, "0", 1)])
    with pytest.raises(CheckpointError, match=r"manifest\.json cannot be used"):
        checkpoint.verify(folder)


def test_a_full_disk_leaves_the_segments_as_they_were(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    shelf = Shelf(run)
    shelf.know(checkpoint.step_folder(run, 350))
    before = on_disk(run)
    monkeypatch.setattr("mpi_ltcr.archive.atomic.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        shelf.put_away(state(420), "rank0000.h5")
    assert on_disk(run) == before
    monkeypatch.undo()
    assert shelf.put_away(state(420), "rank0000.h5")[1][-1].name == "rank0000-000003.h5"
