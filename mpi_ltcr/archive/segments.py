"""Parts of checkpoints that never change again: each written once, into a file that later manifests refer to.

    checkpoints/segments/rank0000-000012.h5     of the state in rank0000.h5, what was found there under the name 000012
    checkpoints/segments/rank0000-000012-1.h5   the same, of a team that was regrouped once

A checkpoint of a large memory costs what is new in it. Segments are written before the manifest that names them, with
hash and size. A crash in between leaves files that no manifest knows: they are written again when their turn comes,
and swept away together with those that no kept manifest needs any more.

A regrouping writes none: who moves to another number keeps the files that it has, and a clone shares its model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mpi_ltcr.archive.checkpoint import SEGMENTS, TEAM, Entry, flatten, load_file, read_manifest, write_file
from mpi_ltcr.archive.tree import SegmentName
from mpi_ltcr.interfaces import Sealed, State


class Shelf:
    """The segments of one process.

    Args:
        checkpoints: the folder that holds the checkpoints of a run.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.folder = checkpoints / SEGMENTS
        self.known: dict[str, Entry] = {}
        """What lies there and belongs to this attempt: written by it, or named by the manifest that it resumed from."""
        self.team = 0
        """How often the team was regrouped; the numbers of its members, and so its names, are its own."""
        self.held: dict[str, str] = {}
        """Where what came with a loaded state lies: rank0001-000012 of this team -> a file, perhaps of another name."""

    def know(self, folder: Path) -> None:
        """Take the segments of this whole checkpoint for written."""
        manifest = read_manifest(folder)
        self.team = int(manifest.get(TEAM, 0))
        for name, facts in manifest.get(SEGMENTS, {}).items():
            self.known[name] = Entry(name, facts["sha256"], facts["bytes"])

    def put_away(self, state: State, owner: str) -> tuple[State, list[Entry]]:
        """A state with the names of files in place of its sealed parts, and the entries of these files.

        Args:
            owner: the file that the state goes to.

        Raises:
            OSError: the disk does not take a segment that is new.
        """
        entries: list[Entry] = []
        end = f"-{self.team}.h5" if self.team else ".h5"

        def slim(tree: State) -> State:
            return {name: replaced(name, value) for name, value in tree.items()}

        def replaced(name: str, value: object) -> object:
            if isinstance(value, Sealed):
                own = _place(owner, name)
                entries.append(self._on_disk(self.held.get(own, own + end), value.tree))
                return SegmentName(entries[-1].name)
            return slim(value) if isinstance(value, dict) else value

        return slim(state), entries

    def _on_disk(self, name: str, tree: State) -> Entry:
        if name not in self.known or not (self.folder / name).is_file():
            self.folder.mkdir(exist_ok=True)
            self.known[name] = write_file(self.folder, name, tree)
        return self.known[name]

    def fetch(self, state: State, owner: str = "") -> State:
        """A loaded state with its sealed parts in their places. Raises CheckpointError like `load_file`.

        Args:
            owner: the file that will hold this state from now on.
        """

        def whole(name: str, value: object) -> object:
            if isinstance(value, SegmentName):
                self.held[_place(owner, name)] = value
                return Sealed(load_file(self.folder / value))
            return self.fetch(value, owner) if isinstance(value, dict) else value

        return {name: whole(name, value) for name, value in state.items()}


def _place(owner: str, name: str) -> str:
    """What a sealed part of a file's state is called within its team."""
    return f"{owner.removesuffix('.h5')}-{name}"


def segments_of(state: State, manifest: dict[str, Any]) -> Iterator[Entry]:
    """The files that a loaded state, of a checkpoint with this manifest, still refers to."""
    for _, leaf in flatten(state):
        if isinstance(leaf, SegmentName):
            facts = manifest[SEGMENTS][leaf]
            yield Entry(str(leaf), facts["sha256"], facts["bytes"])
