"""Parts of checkpoints that never change again: each written once, into a file that later manifests refer to.

    checkpoints/segments/rank0000-000012.h5     of the state in rank0000.h5, what was found there under the name 000012

A checkpoint of a large memory costs what is new in it. Segments are written before the manifest that names them, with
hash and size. A crash in between leaves files that no manifest knows: they are written again when their turn comes,
and swept away together with those that no kept manifest needs any more.
"""

from __future__ import annotations

from pathlib import Path

from mpi_ltcr.archive.checkpoint import SEGMENTS, Entry, load_file, read_manifest, write_file
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

    def know(self, folder: Path) -> None:
        """Take the segments of this whole checkpoint for written."""
        for name, facts in read_manifest(folder).get(SEGMENTS, {}).items():
            self.known[name] = Entry(name, facts["sha256"], facts["bytes"])

    def put_away(self, state: State, owner: str) -> tuple[State, list[Entry]]:
        """A state with the names of files in place of its sealed parts, and the entries of these files.

        Args:
            owner: the file that the state goes to.

        Raises:
            OSError: the disk does not take a segment that is new.
        """
        entries: list[Entry] = []

        def slim(tree: State) -> State:
            return {name: replaced(name, value) for name, value in tree.items()}

        def replaced(name: str, value: object) -> object:
            if isinstance(value, Sealed):
                entries.append(self._on_disk(f"{owner.removesuffix('.h5')}-{name}.h5", value.tree))
                return SegmentName(entries[-1].name)
            return slim(value) if isinstance(value, dict) else value

        return slim(state), entries

    def _on_disk(self, name: str, tree: State) -> Entry:
        if name not in self.known or not (self.folder / name).is_file():
            self.folder.mkdir(exist_ok=True)
            self.known[name] = write_file(self.folder, name, tree)
        return self.known[name]

    def fetch(self, state: State) -> State:
        """A loaded state with its sealed parts in their places. Raises CheckpointError like `load_file`."""

        def whole(value: object) -> object:
            if isinstance(value, SegmentName):
                return Sealed(load_file(self.folder / value))
            return self.fetch(value) if isinstance(value, dict) else value

        return {name: whole(value) for name, value in state.items()}
