"""Checkpoints: one HDF5 file per rank, and a manifest of their hashes that is written last.

    checkpoints/step_000010000/rank0000.h5  rank0001.h5  memory.h5  manifest.json
    checkpoints/segments/rank0000-000012.h5 ...            what several of them share, see `segments.py`

The commit protocol (every rank writes into one temporary folder; the programs gather who succeeded; rank 0 commits):
a folder named step_* with a manifest is whole, anything else never existed. A checkpoint that another one of the same
frame replaces is in force as step_*.old until that one stands. Nothing here knows of MPI.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py

from mpi_ltcr.archive.atomic import fsync_folder, open_hdf5, sha256, write_hdf5, write_json, write_text
from mpi_ltcr.archive.space import require_space
from mpi_ltcr.archive.tree import SEGMENT_PATTERN, read_tree, write_tree
from mpi_ltcr.interfaces import Sealed, State

FORMAT = "mpi-ltcr-checkpoint"
FORMAT_VERSION = 2
MANIFEST = "manifest.json"
SEGMENTS = "segments"
OLD = ".old"
TEAM = "team"
"""In a manifest: how often the team was regrouped before."""
MAX_MANIFEST = 10_000_000
"""Bytes; a longer one is not read."""


class CheckpointError(Exception):
    """No usable checkpoint: torn, tampered with, foreign, or of another version. The text says which and why."""


class Entry(NamedTuple):
    """One file of a checkpoint."""

    name: str
    sha256: str
    bytes: int


def rank_file(rank: int) -> str:
    """The file that holds one rank's state."""
    return f"rank{rank:04d}.h5"


def step_folder(checkpoints: Path, frames: int) -> Path:
    """Where the checkpoint taken at this frame stands once it is whole."""
    return checkpoints / f"step_{frames:09d}"


def draft_folder(checkpoints: Path, frames: int) -> Path:
    """Where it is gathered until then."""
    return checkpoints / f".step_{frames:09d}.tmp"


def write_file(draft: Path, name: str, state: State) -> Entry:
    """Write and fsync one file of a checkpoint. Raises OSError if the disk does not take it."""
    path = draft / name
    write_hdf5(path, lambda file: _fill(file, state))
    return Entry(name, sha256(path), path.stat().st_size)


def _fill(file: h5py.File, state: State) -> None:
    file.attrs.update({"format": FORMAT, "format_version": FORMAT_VERSION})
    write_tree(file, state)


def check_space(checkpoints: Path) -> None:
    """Raise OSError unless another checkpoint like the newest one fits on the disk, and a little more."""
    for folder in folders(checkpoints)[:1]:
        with contextlib.suppress(CheckpointError):
            size = sum(entry["bytes"] for entry in read_manifest(folder)["files"].values())
            require_space(checkpoints, 1.1 * size, "a checkpoint")


def begin(checkpoints: Path, frames: int, *, more: bool = True) -> Path:
    """An empty draft folder; leftovers of a cut-off attempt are removed.

    Args:
        more: files will be written into it. Raises OSError if those of another checkpoint like the newest do not fit.
    """
    if more:
        check_space(checkpoints)
    draft = draft_folder(checkpoints, frames)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def commit(
    checkpoints: Path, frames: int, entries: list[Entry], facts: dict[str, Any], segments: Sequence[Entry] = ()
) -> Path:
    """Write the manifest of a gathered draft and put the checkpoint in its place, whole.

    Args:
        segments: those that the files refer to.
        facts: more for the manifest: `world_size`, `ranks` unless each of them has a file in it, and what else may be
            of interest.
    """
    draft, folder = draft_folder(checkpoints, frames), step_folder(checkpoints, frames)
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "frames": frames}
    manifest = {**head, **facts, "files": _listed(entries)}
    if segments:
        manifest[SEGMENTS] = _listed(segments)
    write_json(draft / MANIFEST, {**manifest, "digest": _digest(manifest)})
    old = folder.with_suffix(OLD)
    if folder.exists() and old.exists():  # it was refused, and what it replaced is in force again
        shutil.rmtree(folder)
    elif folder.exists():  # the same step again: by another team, or because this one was refused
        folder.rename(old)
    draft.rename(folder)
    fsync_folder(checkpoints)
    write_text(checkpoints / "latest", folder.name + "\n")
    return folder


def _listed(entries: Sequence[Entry]) -> dict[str, Any]:
    return {entry.name: {"sha256": entry.sha256, "bytes": entry.bytes} for entry in entries}


def _digest(manifest: dict[str, Any]) -> str:
    """Of a manifest without its digest: no bit of it changes unseen."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def prune(checkpoints: Path, keep: int, frames: int) -> None:
    """Remove all but the newest `keep` checkpoints up to `frames`, every leftover draft, and unneeded segments.

    What claims to be newer than the one just written was refused when this attempt began: it does not count.
    """
    found = [folder for folder in folders(checkpoints) if frames_of(folder) <= frames]
    replaced = [folder for folder in found if folder.suffix == OLD and folder.with_suffix("") in found]
    for folder in [*replaced, *[folder for folder in found if folder not in replaced][keep:]]:
        shutil.rmtree(folder)
    for draft in checkpoints.glob(".step_*.tmp"):
        shutil.rmtree(draft, ignore_errors=True)
    if (checkpoints / SEGMENTS).is_dir():
        needed = {name for folder in folders(checkpoints) for name in _segments_of(folder)}
        for path in (checkpoints / SEGMENTS).glob("*.h5"):
            if path.name not in needed:
                path.unlink()


def _segments_of(folder: Path) -> Iterable[str]:
    """Names of the segments that a checkpoint refers to; none where its manifest cannot be used."""
    try:
        return read_manifest(folder).get(SEGMENTS, {})
    except CheckpointError:
        return ()


def folders(checkpoints: Path) -> list[Path]:
    """Folders that claim to be checkpoints, newest first."""
    found = (p for p in checkpoints.glob("step_*") if re.fullmatch(r"step_\d{9,}(\.old)?", p.name) and p.is_dir())
    return sorted(found, key=lambda folder: (frames_of(folder), folder.suffix != OLD), reverse=True)


def frames_of(folder: Path) -> int:
    """The frame that a checkpoint's name tells."""
    return int(folder.stem.removeprefix("step_"))


def verify(folder: Path, sound: set[tuple[str, str]] | None = None) -> dict[str, Any]:
    """The manifest of a checkpoint all of whose files and segments are there, of their size and of their hash.

    Args:
        sound: names and hashes of segments that need no second look, because another checkpoint's has had one; those
            that are found sound are added.

    Raises:
        CheckpointError: naming the folder, the file and what is wrong with it.
    """
    manifest, sound = read_manifest(folder), set() if sound is None else sound
    for name, expected in manifest["files"].items():
        _check_file(folder, folder / name, expected)
    for name, expected in manifest.get(SEGMENTS, {}).items():
        if (name, expected["sha256"]) not in sound:
            _check_file(folder, folder.parent / SEGMENTS / name, expected)
            sound.add((name, expected["sha256"]))
    return manifest


def _check_file(folder: Path, path: Path, expected: dict[str, Any]) -> None:
    """Raise CheckpointError unless a file of the checkpoint in `folder` is as its manifest says."""
    name = path.name
    try:
        if not path.is_file():
            raise CheckpointError(f"{folder.name}: {name} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise CheckpointError(f"{folder.name}: {name} has {path.stat().st_size} bytes, not {expected['bytes']}")
        if sha256(path) != expected["sha256"]:
            raise CheckpointError(f"{folder.name}: {name} was changed after it was written (sha256 differs)")
    except OSError as error:
        raise CheckpointError(f"{folder.name}: {name} cannot be read ({error.strerror})") from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """A manifest of this program and format version, unchanged; raises CheckpointError otherwise."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder.name}: no {MANIFEST}, so it was never finished")
    try:
        if path.stat().st_size > MAX_MANIFEST:
            raise ValueError(f"more than {MAX_MANIFEST} bytes")
        manifest = dict(json.loads(path.read_text(encoding="utf-8")))
        digest, version = manifest.pop("digest", None), manifest["format_version"]
        if manifest["format"] != FORMAT:
            raise ValueError("not of this program")
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{folder.name}: format version {version}, this program reads {FORMAT_VERSION}")
        if digest != _digest(manifest):
            raise ValueError("it was changed after it was written")
        if not _sound(manifest, frames_of(folder)):
            raise ValueError("its files are not those of a whole team at this frame")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder.name}: {MANIFEST} cannot be used ({type(error).__name__}: {error})") from None
    return manifest


def _sound(manifest: dict[str, Any], frames: int) -> bool:
    """Whether a manifest is of this frame, and names one file for each of its ranks and nothing outside its folder."""
    files = manifest["files"]
    named = all(
        re.fullmatch(pattern, name) and {"sha256", "bytes"} <= set(e)
        for pattern, listed in ((r"[a-z]+\d*\.h5", files), (SEGMENT_PATTERN, manifest.get(SEGMENTS, {})))
        for name, e in listed.items()
    )
    size = manifest["world_size"]
    ranks = manifest["ranks"] if "ranks" in manifest else range(size)
    return (
        manifest["frames"] == frames
        and isinstance(manifest.get(TEAM, 0), int)
        and named
        and size > 0
        and len(files) > 0
        and len(ranks) <= len(files)
        and all(rank_file(rank) in files for rank in ranks)
    )


def newest_whole(checkpoints: Path) -> tuple[Path, list[str]]:
    """The newest checkpoint that passes `verify`, and why each newer one does not.

    Raises:
        CheckpointError: there is none; the text holds every reason.
    """
    refused: list[str] = []
    for folder in folders(checkpoints):
        try:
            verify(folder)
        except CheckpointError as error:
            refused.append(str(error))
        else:
            return folder, refused
    reasons = "; ".join(refused) if refused else "there is none"
    raise CheckpointError(f"{checkpoints}: no whole checkpoint ({reasons}); start anew with mpi-ltcr train")


def load_file(path: Path) -> State:
    """The state in one file of a verified checkpoint. Raises CheckpointError for a foreign or damaged file."""
    try:
        with open_hdf5(path) as file:
            if file.attrs.get("format") != FORMAT or file.attrs.get("format_version") != FORMAT_VERSION:
                raise CheckpointError(f"{path}: not a checkpoint file of format version {FORMAT_VERSION}")
            return read_tree(file)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def flatten(tree: State, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) pairs of a state in a fixed order: to compare or to hash two states."""
    for name in sorted(tree):
        value = tree[name].tree if isinstance(tree[name], Sealed) else tree[name]
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
