"""Rows whose observations are stacks of frames, each frame kept once: Atari's memory in an eighth of the space.

A transition of 84x84 pixels, four stacked, shows eight frames of which seven were there before. Here a stack is four
numbers of frames. A frame that equals one of the last `RECENT` is not stored again, wherever in a stack it stands: so
first stacks that repeat one frame, n-step transitions and ends of episodes need no rules of their own, and nothing is
ever rebuilt from neighbours that might belong to another episode.

Rows lie in segments of `SEGMENT_ROWS`, and each segment holds all frames that its rows show (the few at its beginning
are stored again, 0.2 % of it). A full segment never changes any more: a checkpoint writes it once (`Sealed`). It leaves
with its last row, so there is room for up to one segment more than `capacity` rows.

1 000 000 transitions: 7.06 GB of frames, 0.03 GB of numbers, 0.02 GB of actions, rewards and discounts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from mpi_ltcr.interfaces import EnvSpec, Sealed, State
from mpi_ltcr.memory.ring import Columns, Ring

SEGMENT_ROWS = 4096
RECENT = 64
"""Frames that are looked through: more than a stack and any usual number of steps (`agent.n_step`) together."""


class Segment:
    """Successive rows, and the frames that they show. Sizes are reserved, and paid for when they are written to.

    Args:
        columns: as of a ring.
        stacks: names of those whose first axis is a stack of frames, all of one shape.
        rows: how many it takes.
    """

    def __init__(self, columns: Columns, stacks: tuple[str, ...], rows: int) -> None:
        self.stacks, self.capacity, self.rows = stacks, rows, 0
        self.columns: dict[str, np.ndarray] = {
            name: np.zeros((rows, shape[0]), np.int32) if name in stacks else np.zeros((rows, *shape), dtype)
            for name, (dtype, shape) in columns.items()
        }
        dtype, shape = columns[stacks[0]]
        self.frames = np.empty((rows + rows // 16 + RECENT, *shape[1:]), dtype)
        self.shown = 0
        """Frames so far."""
        self._recent: dict[bytes, int] = {}

    def add(self, row: Mapping[str, object]) -> None:
        for name, value in row.items():
            if name in self.stacks:
                self.columns[name][self.rows] = [self._place(frame) for frame in np.asarray(value)]
            else:
                self.columns[name][self.rows] = value
        self.rows += 1
        if self.full:
            self._recent.clear()

    @property
    def full(self) -> bool:
        """Whether it has taken its last row."""
        return self.rows == self.capacity

    def _place(self, frame: np.ndarray) -> int:
        """The number of a frame, new or not. A dict of the pixels themselves: equal is equal, not merely alike."""
        pixels = frame.tobytes()
        number = self._recent.get(pixels)
        if number is None:
            number = self.shown
            if number == len(self.frames):
                self.frames = np.concatenate([self.frames, np.empty_like(self.frames[: number // 2 + 1])])
            self.frames[number] = frame
            self.shown += 1
            self._recent[pixels] = number
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]  # the oldest
        return number

    def take(self, row: int, out: Mapping[str, np.ndarray], at: int) -> None:
        """Write one row, its stacks whole, into place `at` of each column of `out`."""
        for name, column in self.columns.items():
            if name in self.stacks:
                np.take(self.frames, column[row], axis=0, out=out[name][at], mode="clip")  # "raise" would buffer
            else:
                out[name][at] = column[row]

    def state(self) -> State:
        columns = {name: column[: self.rows] for name, column in self.columns.items()}
        return {"frames": self.frames[: self.shown], "columns": columns}

    def load_state(self, state: State) -> None:
        """Take over a saved state; raises ValueError if it does not fit."""
        frames, columns = state["frames"], state["columns"]
        if frames.shape[1:] != self.frames.shape[1:]:
            raise ValueError(f"saved frames have shape {frames.shape[1:]}, the ring holds {self.frames.shape[1:]}")
        for name, column in self.columns.items():
            if columns[name].shape[1:] != column.shape[1:] or len(columns[name]) > len(column):
                raise ValueError(
                    f"saved rows of {name} have shape {columns[name].shape}, the ring holds {column.shape}"
                )
            column[: len(columns[name])] = columns[name]
            self.rows = len(columns[name])
        shown = np.concatenate([columns[name].ravel() for name in self.stacks])
        if shown.size and not 0 <= shown.min() <= shown.max() < len(frames):
            raise ValueError("saved rows show frames that were not saved")
        self.shown = len(frames)
        if self.full:
            self.frames = frames  # it is only looked at from now on
            return
        self.frames = np.empty((max(len(self.frames), len(frames)), *frames.shape[1:]), frames.dtype)
        self.frames[: self.shown] = frames
        first = max(0, self.shown - RECENT)
        self._recent = {self.frames[i].tobytes(): i for i in range(first, self.shown)}


class FrameRing:
    """A `Ring` of the same verbs: named columns of `capacity` rows, the oldest leave first.

    Args:
        columns: for each name its dtype and the shape of one row's value.
        stacks: names of those whose first axis is a stack of frames, all of one dtype and shape of a frame.
    """

    def __init__(
        self, *, capacity: int, columns: Columns, stacks: tuple[str, ...], segment_rows: int = SEGMENT_ROWS
    ) -> None:
        self.capacity, self.columns, self.stacks, self.segment_rows = capacity, columns, stacks, segment_rows
        self.segments: dict[int, Segment] = {}
        self.added = 0
        """Rows ever added; row i of all time lies at place i % capacity, in segment i // segment_rows."""

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, **row: object) -> int:
        """Store one row over the oldest; its place."""
        number = self.added
        newest = number // self.segment_rows
        if newest not in self.segments:
            self.segments[newest] = self._segment()
        self.segments[newest].add(row)
        self.added += 1
        for left in [key for key in self.segments if key < self._oldest()]:
            del self.segments[left]
        return number % self.capacity

    def extend(self, **rows: np.ndarray) -> None:
        """Store several rows, in their order."""
        for row in zip(*rows.values(), strict=True):
            self.add(**dict(zip(rows, row, strict=True)))

    def _segment(self) -> Segment:
        return Segment(self.columns, self.stacks, self.segment_rows)

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Copies of the rows at these places, stacks whole."""
        last = self.added - 1
        numbers = last - (last - rows) % self.capacity
        taken = {name: np.empty((len(rows), *shape), dtype) for name, (dtype, shape) in self.columns.items()}
        for at, (key, row) in enumerate(zip(*np.divmod(numbers, self.segment_rows), strict=True)):
            self.segments[int(key)].take(row, taken, at)
        return taken

    def state(self) -> State:
        """Full segments, which never change again, and the open one."""
        *_, newest = self.segments.values() if self.segments else [None]
        return {
            "added": self.added,
            "capacity": self.capacity,
            "segment_rows": self.segment_rows,
            "segments": {f"{key:06d}": Sealed(s.state()) for key, s in self.segments.items() if s.full},
            "open": None if newest is None or newest.full else newest.state(),
        }

    def load_state(self, state: State) -> None:
        """Take over a saved state. Raises ValueError if it does not fit this ring."""
        for name in ("capacity", "segment_rows"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"saved rows are of a ring with {name} {state[name]}, this one has {getattr(self, name)}"
                )
        self.added = state["added"]
        trees = {int(key): sealed.tree for key, sealed in state["segments"].items()}
        if state["open"] is not None:
            trees[self.added // self.segment_rows] = state["open"]
        self.segments = {}
        for key, tree in sorted(trees.items()):
            self.segments[key] = self._segment()
            self.segments[key].load_state(tree)
        starts = range(self._oldest() * self.segment_rows, self.added, self.segment_rows)
        due = [min(self.segment_rows, self.added - start) for start in starts]
        if [segment.rows for segment in self.segments.values()] != due or self._oldest() not in (*self.segments, 0):
            raise ValueError(f"the saved segments are not those of {len(self)} rows up to row {self.added}")

    def _oldest(self) -> int:
        """The segment of the oldest row."""
        return (self.added - len(self)) // self.segment_rows


def distinct_frames(stacks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The frames that (N, S, H, W) stacks show, each once: (F, H, W), and their numbers (N, S) int32."""
    found: dict[bytes, int] = {}
    frames = stacks.reshape(-1, *stacks.shape[2:])
    numbers = np.array([found.setdefault(frame.tobytes(), len(found)) for frame in frames], np.int32)
    first = np.unique(numbers, return_index=True)[1]
    return frames[first], numbers.reshape(stacks.shape[:2])


def ring_for(*, capacity: int, columns: Columns, spec: EnvSpec) -> Ring | FrameRing:
    """A ring that keeps each frame once where observations are stacks of them, a plain one otherwise."""
    if not spec.stacked:
        return Ring(capacity=capacity, columns=columns)
    stacks = tuple(name for name, (_, shape) in columns.items() if shape == spec.obs_shape)
    return FrameRing(capacity=capacity, columns=columns, stacks=stacks)


def ring_bytes(*, capacity: int, columns: Columns, spec: EnvSpec) -> int:
    """What `ring_for` comes to when it is full. Of frames: one for each row, and a segment more than the capacity."""
    whole = sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in columns.values())
    if not spec.stacked:
        return capacity * whole
    stacks = sum(shape == spec.obs_shape for _, shape in columns.values())
    stack, *frame = spec.obs_shape
    frame_bytes = math.prod(frame) * np.dtype(spec.obs_dtype).itemsize
    rest = whole - stacks * stack * frame_bytes
    return (capacity + SEGMENT_ROWS) * (frame_bytes + 4 * stacks * stack + rest)
