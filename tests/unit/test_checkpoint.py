"""A checkpoint is whole or it does not exist, and no damage to one goes unseen."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fault_report import Tally

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.checkpoint import CheckpointError
from mpi_ltcr.archive.verification import verify_run

DAMAGED = pytest.mark.fault(
    "C26", "damage to a file of a checkpoint: cut, bit flipped, empty, zeroed, missing, swapped, older, of another kind"
)
HOSTILE_MANIFEST = pytest.mark.fault("C27", "a hostile manifest")
FILES = ("rank0000.h5", "rank0001.h5", "memory.h5", "manifest.json")


def state(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"frames": seed, "agent": {"weights": rng.random(50).astype(np.float32), "rng": rng.bit_generator.state}}


def write(checkpoints: Path, frames: int) -> Path:
    """A checkpoint of two ranks and M0."""
    draft = checkpoint.begin(checkpoints, frames)
    entries = [checkpoint.write_file(draft, name, state(frames + i)) for i, name in enumerate(FILES[:3])]
    return checkpoint.commit(checkpoints, frames, entries, {"world_size": 2, "updates": 7})


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """An older and a newer one."""
    for frames in (100, 200):
        write(tmp_path, frames)
    return tmp_path


def reason_of_refusal(checkpoints: Path) -> str:
    """Why the newer one is refused; the older one must be offered instead."""
    folder, refused = checkpoint.newest_whole(checkpoints)
    assert folder.name == "step_000000100", f"used {folder.name}"
    assert len(refused) == 1
    return refused[0]


def rewrite_manifest(folder: Path, **changes: Any) -> None:
    """An edited manifest whose digest is right: what somebody would write who knows the format."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest = {**manifest, **changes}
    manifest.pop("digest")
    manifest["digest"] = checkpoint._digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


# The commit protocol


def test_the_newest_whole_checkpoint_is_found_and_holds_what_was_written(checkpoints: Path) -> None:
    folder, refused = checkpoint.newest_whole(checkpoints)
    assert (folder.name, refused) == ("step_000000200", [])
    saved = dict(checkpoint.flatten(checkpoint.load_file(folder / "rank0001.h5")))
    expected = dict(checkpoint.flatten(state(201)))
    assert saved.keys() == expected.keys()
    assert all(np.array_equal(saved[name], expected[name]) for name in saved)
    assert (checkpoints / "latest").read_text() == "step_000000200\n"


def test_before_the_commit_nothing_is_there_to_be_loaded(tmp_path: Path) -> None:
    draft = checkpoint.begin(tmp_path, 100)
    checkpoint.write_file(draft, "rank0000.h5", state(0))
    assert checkpoint.folders(tmp_path) == []
    with pytest.raises(CheckpointError, match="there is none"):
        checkpoint.newest_whole(tmp_path)


def test_the_manifest_is_written_after_all_files_and_before_the_folder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], list[str]]] = []
    write_json = checkpoint.write_json

    def spy(path: Path, content: dict[str, Any]) -> None:
        seen.append((sorted(p.name for p in path.parent.iterdir()), [f.name for f in checkpoint.folders(tmp_path)]))
        write_json(path, content)

    monkeypatch.setattr(checkpoint, "write_json", spy)
    write(tmp_path, 100)
    assert seen == [(sorted(FILES[:3]), [])]


def test_leftovers_of_a_cut_off_attempt_do_not_get_into_the_next(tmp_path: Path) -> None:
    (checkpoint.begin(tmp_path, 100) / "rank0007.h5").write_bytes(b"half")
    assert sorted(p.name for p in write(tmp_path, 100).iterdir()) == sorted(FILES)


def test_only_the_newest_are_kept_and_drafts_are_swept_away(tmp_path: Path) -> None:
    for frames in (100, 200, 300):
        write(tmp_path, frames)
    checkpoint.begin(tmp_path, 400)
    checkpoint.prune(tmp_path, 2, 300)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step_000000200", "step_000000300"]


def test_a_damaged_newer_checkpoint_does_not_push_out_the_whole_one_that_was_just_written(tmp_path: Path) -> None:
    for frames in (100, 350):
        write(tmp_path, frames)
    (tmp_path / "step_000000350" / "memory.h5").unlink()
    write(tmp_path, 200)  # resumed from 100, stopped again before 350
    checkpoint.prune(tmp_path, 1, 200)
    assert checkpoint.newest_whole(tmp_path)[0].name == "step_000000200"


def test_the_same_step_written_again_replaces_the_old_one(checkpoints: Path) -> None:
    (checkpoints / "step_000000200" / "rank0000.h5").write_bytes(b"damaged")
    write(checkpoints, 200)
    assert checkpoint.newest_whole(checkpoints) == (checkpoints / "step_000000200", [])


def test_what_the_same_step_replaces_is_in_force_until_the_new_one_stands(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def cut_off(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise KeyboardInterrupt
        return rename(path, target)

    before = (checkpoints / "step_000000200" / "rank0000.h5").read_bytes()
    monkeypatch.setattr(Path, "rename", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write(checkpoints, 200)
    monkeypatch.undo()
    old, refused = checkpoint.newest_whole(checkpoints)
    assert (old.name, refused, checkpoint.frames_of(old)) == ("step_000000200.old", [], 200)
    assert (old / "rank0000.h5").read_bytes() == before
    checkpoint.prune(checkpoints, 1, 200)
    assert checkpoint.folders(checkpoints) == [old], "it is the newest that there is"
    new = write(checkpoints, 200)
    assert checkpoint.newest_whole(checkpoints) == (new, [])
    checkpoint.prune(checkpoints, 2, 200)
    assert checkpoint.folders(checkpoints) == [new]


def test_what_a_refused_step_replaced_stays_in_force_while_it_is_written_anew(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = (checkpoints / "step_000000200").rename(checkpoints / "step_000000200.old")
    (write(checkpoints, 200) / "rank0000.h5").write_bytes(b"damaged")
    seen: list[str] = []
    rename = Path.rename

    def spy(path: Path, target: Path) -> Path:
        seen.append(checkpoint.newest_whole(checkpoints)[0].name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", spy)
    assert checkpoint.newest_whole(checkpoints)[0] == old
    write(checkpoints, 200)
    assert seen == [old.name]
    assert checkpoint.newest_whole(checkpoints)[0].name == "step_000000200"


def test_steps_beyond_nine_digits_are_still_the_newest(tmp_path: Path) -> None:
    for frames in (999_999_900, 10**9):
        write(tmp_path, frames)
    assert checkpoint.newest_whole(tmp_path)[0].name == "step_1000000000"


# Damage


@DAMAGED
@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_anywhere_is_detected_and_named(checkpoints: Path, name: str, tally: Tally) -> None:
    path = checkpoints / "step_000000200" / name
    whole = path.read_bytes()
    last = len(whole.rstrip()) - 1  # the manifest ends with a newline that says nothing
    for size in {0, 1, 8, 24, 96, 512, 2048, len(whole) // 2, last - 9, last}:
        path.write_bytes(whole[: min(size, last)])
        assert name in reason_of_refusal(checkpoints), size
        tally.add()


@DAMAGED
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_detected_and_named(checkpoints: Path, name: str, tally: Tally) -> None:
    path = checkpoints / "step_000000200" / name
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    injected = detected = 0
    for offset in rng.choice(len(whole), size=min(200, len(whole)), replace=False):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        injected += 1
        detected += name in reason_of_refusal(checkpoints)
    tally.add(injected, expected=detected)
    assert (injected, detected) == (200, 200)


@DAMAGED
@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_detected_and_named(checkpoints: Path, name: str) -> None:
    (checkpoints / "step_000000200" / name).unlink()
    assert re.search(f"{name} is missing|no {name}", reason_of_refusal(checkpoints))


@DAMAGED
@pytest.mark.parametrize("name", FILES[:3])
def test_an_empty_or_zeroed_or_longer_file_is_detected_and_named(checkpoints: Path, name: str, tally: Tally) -> None:
    path = checkpoints / "step_000000200" / name
    whole = path.read_bytes()
    for content in (b"", whole[:512] + bytes(512) + whole[1024:], whole + b"\0"):
        path.write_bytes(content)
        assert name in reason_of_refusal(checkpoints)
        tally.add()


@DAMAGED
def test_swapped_rank_files_are_detected(checkpoints: Path) -> None:
    a, b = (checkpoints / "step_000000200" / name for name in FILES[:2])
    bytes_a = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(bytes_a)
    assert "rank0000.h5" in reason_of_refusal(checkpoints)


@DAMAGED
def test_a_file_of_the_older_checkpoint_in_the_newer_one_is_detected(checkpoints: Path) -> None:
    shutil.copy(checkpoints / "step_000000100" / "memory.h5", checkpoints / "step_000000200" / "memory.h5")
    assert "memory.h5" in reason_of_refusal(checkpoints)


@DAMAGED
def test_an_older_checkpoint_under_a_newer_name_is_detected(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints / "step_000000200")
    shutil.copytree(checkpoints / "step_000000100", checkpoints / "step_000000200")
    assert "not those of a whole team at this frame" in reason_of_refusal(checkpoints)


@DAMAGED
def test_a_directory_or_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(checkpoints: Path) -> None:
    folder, kept = checkpoints / "step_000000200", checkpoints / "kept"
    shutil.copytree(folder, kept)
    for name in FILES[:2]:
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert name in reason_of_refusal(checkpoints)
        (folder / name).unlink()
        (folder / name).mkdir()
        assert name in reason_of_refusal(checkpoints)
        (folder / name).rmdir()
        shutil.copy(kept / name, folder / name)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    assert "manifest.json" in reason_of_refusal(checkpoints)


@DAMAGED
def test_another_format_version_is_refused_by_its_number(checkpoints: Path) -> None:
    rewrite_manifest(checkpoints / "step_000000200", format_version=99)
    assert "format version 99, this program reads 2" in reason_of_refusal(checkpoints)


@DAMAGED
def test_a_rank_file_of_another_format_version_is_refused_by_name(checkpoints: Path) -> None:
    path = checkpoints / "step_000000200" / "rank0000.h5"
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(CheckpointError, match=r"rank0000\.h5: not a checkpoint file of format version 2"):
        checkpoint.load_file(path)


HOSTILE = {
    "a path out of the folder": {"files": {"../../../etc/passwd": {"sha256": "0", "bytes": 1}}},
    "an absolute path": {"files": {"/etc/passwd": {"sha256": "0", "bytes": 1}}},
    "no files": {"files": {}},
    "no rank files": {"files": {"memory.h5": {"sha256": "0", "bytes": 1}}},
    "files that are a list": {"files": ["rank0000.h5"]},
    "files without hashes": {"files": {"rank0000.h5": {"bytes": 1}, "rank0001.h5": {"bytes": 1}}},
    "entries that are numbers": {"files": {"rank0000.h5": 1, "rank0001.h5": 2}},
    "a team of ten to the nine": {"world_size": 10**9},
    "a team of none": {"world_size": 0},
    "a team that is a text": {"world_size": "2"},
    "a team that is NaN": {"world_size": float("nan")},
    "a number of teams that is a text": {"team": "../1"},
    "another program": {"format": "pickle"},
    "another frame": {"frames": 300},
}


@HOSTILE_MANIFEST
@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_manifest_is_refused_and_the_older_checkpoint_used(
    checkpoints: Path, changes: dict[str, Any]
) -> None:
    rewrite_manifest(checkpoints / "step_000000200", **changes)
    start = time.process_time()
    assert "manifest.json" in reason_of_refusal(checkpoints)
    assert time.process_time() - start < 1


@HOSTILE_MANIFEST
@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "3", '"format"', "{", "\ud800", "[" * 10**5, "\0" * 100, '{"format": "mpi-ltcr-checkpoint"}'],
    ids=lambda text: ascii(text[:12]),
)
def test_a_manifest_that_is_no_manifest_is_refused(checkpoints: Path, text: str) -> None:
    path = checkpoints / "step_000000200" / "manifest.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert "manifest.json" in reason_of_refusal(checkpoints)


@HOSTILE_MANIFEST
def test_a_manifest_of_a_gigabyte_is_not_read(checkpoints: Path) -> None:
    with open(checkpoints / "step_000000200" / "manifest.json", "wb") as file:
        file.truncate(10**9)
    assert "more than" in reason_of_refusal(checkpoints)


def test_without_a_whole_checkpoint_every_reason_is_told(checkpoints: Path) -> None:
    (checkpoints / "step_000000100" / "manifest.json").unlink()
    (checkpoints / "step_000000200" / "rank0001.h5").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"(?s)step_000000200: rank0001.*step_000000100: no manifest"):
        checkpoint.newest_whole(checkpoints)


@DAMAGED
@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95pickle", b"PK\x03\x04 a .pt of torch", b"\x89HDF\r\n\x1a\n"])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rank0000.h5").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"rank0000\.h5"):
        checkpoint.load_file(tmp_path / "rank0000.h5")


def test_a_format_that_is_an_array_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rank0000.h5", "w") as file:
        file.attrs["format"] = np.arange(3)
    with pytest.raises(CheckpointError, match=r"rank0000\.h5"):
        checkpoint.load_file(tmp_path / "rank0000.h5")


def test_verify_names_the_damaged_part_and_only_that(checkpoints: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("frames: 100\n")
    (run / "checkpoints").mkdir()
    for name in ("step_000000100", "step_000000200"):
        shutil.move(checkpoints / name, run / "checkpoints" / name)
    assert {problem for _, problem in verify_run(run)} == {""}
    path = run / "checkpoints" / "step_000000100" / "rank0000.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    faulty = {name: problem for name, problem in verify_run(run) if problem}
    assert list(faulty) == ["checkpoints/step_000000100"]
    assert "rank0000.h5" in faulty["checkpoints/step_000000100"]
