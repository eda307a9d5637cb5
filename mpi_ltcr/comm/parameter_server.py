"""The dialogue between a task's parameter server and its workers: both halves on one page.

A worker sends what it has (flat gradients, with a fixed header, by Isend) and gets the newest weights back; that is one
`exchange`, once a rollout. The server answers whoever has asked since its last look, applies each gradient exactly
once, and counts the task's steps T. A worker on the server's own rank calls it instead. Workers of other tasks may
fetch weights without sending anything (collaborative teachers).

While nothing arrives the server sleeps between looks: there may be more ranks than cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from mpi4py import MPI

from mpi_ltcr.comm.collectives import WireError
from mpi_ltcr.comm.pulse import Wait, pulse
from mpi_ltcr.comm.runtime import bear_with
from mpi_ltcr.comm.waiting import waiting
from mpi_ltcr.comm.wire import (
    BYE,
    PULL,
    REPLY,
    REPLY_HEADER,
    REQUEST,
    REQUEST_HEADER,
    SAVE,
    STOP,
    STOP_ASKED,
    Push,
    Reply,
    Request,
    checked_header,
    fill_header,
)
from mpi_ltcr.interfaces import State, Store


class ParameterServer:
    """The serving half. `poll` serves whoever is waiting; call it again and again until `done`.

    Args:
        comm: of all ranks; is not duplicated here, pass a communicator of this service.
        workers: ranks that push gradients of this task.
        guests: ranks that only fetch weights.
        sizes: numbers in a gradient of each kind; the order is that of the kinds in a message.
        games: of each worker: so many episodes can end in one rollout at most.
        limit: T at which the workers are told to stop.
        save_every: T between checkpoints.
        patience_s: seconds of silence from a worker that makes no progress, after which the job ends. Guests may be
            silent as long as they like: they fetch between T1 and t_stop only, and their own server watches over them.

    Attributes:
        on_push: told of every served push, and of the returns of the training episodes that ended with it.
        on_save: told (label, whether it is the last) when a checkpoint begins, before any worker learns of it.
    """

    def __init__(
        self,
        *,
        comm: MPI.Intracomm,
        store: Store,
        workers: list[int],
        guests: list[int],
        sizes: dict[str, int],
        games: int,
        limit: int,
        save_every: int,
        patience_s: float,
    ) -> None:
        self.comm, self.store, self.sizes = comm, store, sizes
        self.workers, self.guests = workers, guests
        self.limit, self.save_every, self.patience_s = limit, save_every, patience_s
        self.on_push: Callable[[Push, list[float]], object] = lambda push, returns: None
        self.on_save: Callable[[int, bool], object] = lambda label, last: None
        self.frames = self.version = 0
        self.clients = [*workers, *guests]
        self.received = dict.fromkeys(self.clients, 0)
        self.stop_asked = False
        self.closing = False
        self._next_save = save_every
        self.label: int | None = None
        """T at which the checkpoint being gathered was begun, and that names its draft; None: none is."""
        self._to_save: set[int] = set()
        self._active = set(self.clients)
        self._heard: dict[int, float] = {}
        longest = REQUEST_HEADER.itemsize + 8 * games + 4 * sum(sizes.values())
        self._inbox = [np.empty(longest, np.uint8) for _ in self.clients]
        self._outbox = [np.empty(REPLY_HEADER.itemsize + store.values.nbytes, np.uint8) for _ in self.clients]
        self._receives = [self._listen(index) for index in range(len(self.clients))]
        self._sends: list[MPI.Request] = [MPI.REQUEST_NULL] * len(self.clients)

    @property
    def done(self) -> bool:
        """Every worker has been told to stop, every guest has said goodbye, and every answer has been taken."""
        return not self._active and all(bool(send.Test()) for send in self._sends)

    @property
    def workers_left(self) -> bool:
        """Whether some worker has not been told to stop yet, and so may still push."""
        return any(rank in self._active for rank in self.workers)

    @property
    def stopping(self) -> bool:
        """The workers are being told to stop."""
        return self.stop_asked or self.frames >= self.limit

    def _listen(self, index: int) -> MPI.Request:
        """For the next request; the worker of this very rank calls `answer`."""
        rank, here = self.clients[index], self.comm.rank
        return MPI.REQUEST_NULL if rank == here else self.comm.Irecv(self._inbox[index], rank, REQUEST)

    def answer(self, message: np.ndarray) -> np.ndarray:
        """Serve the worker of this very rank: a request -> the reply, which stands until the next one.

        Through MPI both would be copied four times, and a piece at each look.
        """
        index = self.clients.index(self.comm.rank)
        pulse.beat()
        self._serve(index, message, 1)
        return self._outbox[index]

    def poll(self) -> int:
        """Serve everyone who is waiting; how many those were.

        Raises:
            WireError: a request that is damaged, repeated or missing one before it.
            LostRankError: a worker has been silent for too long.
        """
        arrived = self._arrived()
        if arrived:
            pulse.beat()
        for place, (index, size) in enumerate(arrived):
            self._serve(index, self._inbox[index][:size], len(arrived) - place)
        if not arrived:
            self._check_silence()
        return len(arrived)

    def _arrived(self) -> list[tuple[int, int]]:
        """(client, bytes) of each request that has come; one look does not find all that lie there."""
        found: list[tuple[int, int]] = []
        status = [MPI.Status() for _ in self.clients]
        while ready := MPI.Request.Testsome(self._receives, status):
            found += [(index, status[place].Get_count(MPI.BYTE)) for place, index in enumerate(ready)]
        return found

    def _check_silence(self) -> None:
        now = time.monotonic()
        for rank in self.workers:  # counted from the first look on: who is still starting is not silent
            if rank in self._active and now - self._heard.setdefault(rank, now) > self.patience_s:
                self._heard[rank] += bear_with(rank, "has not been heard of", self.patience_s)

    def _serve(self, index: int, box: np.ndarray, queue: int) -> None:
        rank = self.clients[index]
        head = checked_header(box, REQUEST_HEADER, f"request of rank {rank}", away=rank != self.comm.rank)
        self._count(rank, int(head["sequence"]))
        content = int(head["content"])
        self.stop_asked |= bool(content & STOP_ASKED)
        if content & BYE:
            self._active.discard(rank)
            return
        if not content & PULL:
            staleness = self.version - int(head["version"])
            start = REQUEST_HEADER.itemsize + 8 * int(head["episodes"])
            returns = box[REQUEST_HEADER.itemsize : start].view(np.float64).tolist()
            self._apply(content, box[start:].view(np.float32), int(head["steps"]))
            self.on_push(Push(rank, staleness, queue, int(head["steps"]), box.size), returns)
        self._consider_saving()
        self._answer(index)

    def _count(self, rank: int, sequence: int) -> None:
        if sequence != self.received[rank] + 1:
            raise WireError(f"request {sequence} of rank {rank} came after request {self.received[rank]}")
        self.received[rank] += 1
        self._heard[rank] = time.monotonic()

    def _apply(self, content: int, gradients: np.ndarray, steps: int) -> None:
        """Line 24, 27 and 31 of Algorithm 1 on the server; line 14's T."""
        sizes = {kind: size for bit, (kind, size) in enumerate(self.sizes.items()) if content & (1 << bit)}
        if len(gradients) != sum(sizes.values()):
            raise WireError(f"a request has {len(gradients)} numbers, its content says {sum(sizes.values())}")
        start = 0
        for kind, size in sizes.items():
            self.store.apply(kind, gradients[start : start + size])
            start += size
        self.frames += steps
        self.version += 1

    def _consider_saving(self) -> None:
        """Begin a checkpoint at each multiple of `save_every`, unless one is being gathered, and one at the end.

        The last one takes the place of one that is being gathered, unless both are of the same T: their drafts would be
        one folder, so that it waits for the next push.
        """
        if self.stopping and not self.closing and self.label != self.frames:
            self.closing = True
            self._begin_save()
        elif not self.stopping and self.label is None and self.frames >= self._next_save:
            self._begin_save()

    def _begin_save(self) -> None:
        self.label, self._to_save = self.frames, set(self.workers)
        self._next_save = (self.frames // self.save_every + 1) * self.save_every
        self.on_save(self.label, self.closing)

    def end_save(self) -> None:
        """The checkpoint has been committed, or given up."""
        self.label = None
        self._to_save.clear()

    def _answer(self, index: int) -> None:
        rank, box = self.clients[index], self._outbox[index]
        order = 0
        if rank in self._to_save:
            self._to_save.discard(rank)
            order |= SAVE
        if self.closing and rank in self.workers:
            order |= STOP
            self._active.discard(rank)
        self._sends[index].Wait()  # the client asks again only after it has taken the last answer
        box[REPLY_HEADER.itemsize :] = self.store.values.view(np.uint8)
        told = order, self.version, self.frames, self.label or 0, 0
        away = rank != self.comm.rank
        fill_header(box, REPLY_HEADER, *told, away=away)
        if away:
            self._sends[index] = self.comm.Isend(box, rank, REPLY)
        if rank in self._active:
            self._receives[index] = self._listen(index)

    def state(self) -> State:
        return {"frames": self.frames, "version": self.version}

    def load_state(self, state: State) -> None:
        self.frames, self.version = state["frames"], state["version"]
        self._next_save = (self.frames // self.save_every + 1) * self.save_every


class ServerLink:
    """The asking half, of one worker towards one server.

    Args:
        server: rank of the server.
        kinds: of gradients, in the order of the server's `sizes`.
        values: length of the vector that it serves.
        patience_s: seconds without an answer after which the job ends, unless the server makes progress.
        idle: called again and again while waiting (a server of others on the same rank is polled here).
        here: the server itself, if it is on this rank.
    """

    def __init__(
        self,
        *,
        comm: MPI.Intracomm,
        server: int,
        kinds: Sequence[str] = (),
        values: int,
        patience_s: float,
        idle: Callable[[], object] = lambda: None,
        here: ParameterServer | None = None,
    ) -> None:
        self.comm, self.server, self.here, self.kinds = comm, server, here, tuple(kinds)
        self.patience_s, self.idle = patience_s, idle
        self.version = self.sequence = 0
        self._request = Request()
        self._reply, self._last = np.zeros((2, REPLY_HEADER.itemsize + 4 * values), np.uint8)
        """The one that comes, and the last one that came whole, in which `values` are."""
        self.wait_s = 0.0
        self.sent = self.received = 0
        self._staged: set[str] = set()
        self._gradients: dict[str, np.ndarray] = {}

    @property
    def values(self) -> np.ndarray:
        """The newest weights, until the next exchange."""
        return self._last[REPLY_HEADER.itemsize :].view(np.float32)

    def stage(self, kind: str, gradient: np.ndarray) -> None:
        """Put a gradient into the next exchange; several of one kind (several teachers) are added up."""
        if kind not in self._gradients:
            self._gradients[kind] = np.empty_like(gradient)
        if kind in self._staged:
            self._gradients[kind] += gradient
        else:
            self._gradients[kind][:] = gradient
        self._staged.add(kind)

    def exchange(self, steps: int, *, returns: Sequence[float] = (), stop_asked: bool = False) -> Reply:
        """Send what is staged and wait for the newest weights, which are in `values` afterwards.

        Args:
            steps: agent steps since the last exchange.
            returns: of the training episodes that ended since.
            stop_asked: this process was asked to stop.

        Raises:
            WireError: the answer is damaged.
            LostRankError: no answer came in time.
        """
        content = sum(1 << bit for bit, kind in enumerate(self.kinds) if kind in self._staged)
        content |= (0 if steps or content else PULL) | (STOP_ASKED if stop_asked else 0)
        body = [self._gradients[kind] for kind in self.kinds if kind in self._staged]
        self._staged.clear()
        return self._ask(content, body, steps, returns)

    def bye(self) -> None:
        """Tell a server that this guest will not ask again."""
        message = self._message(BYE, [], 0, ())
        self._wait(self.comm.Isend(message, self.server, REQUEST), "take the goodbye")

    def _message(self, content: int, body: Sequence[np.ndarray], steps: int, returns: Sequence[float]) -> np.ndarray:
        self.sequence += 1
        fields = content, self.sequence, self.version, steps, len(returns), 0
        return self._request.write(fields, [np.array(returns, np.float64), *body], away=self.here is None)

    def _ask(self, content: int, body: Sequence[np.ndarray], steps: int, returns: Sequence[float]) -> Reply:
        start = time.perf_counter()
        message = self._message(content, body, steps, returns)
        if self.here:
            reply = self.here.answer(message)
        else:
            reply = self._reply
            receive = self.comm.Irecv(reply, self.server, REPLY)
            self._wait(self.comm.Isend(message, self.server, REQUEST), "take a request")
            self._wait(receive, "answer")
        head = checked_header(reply, REPLY_HEADER, f"the answer of rank {self.server}", away=self.here is None)
        self._reply, self._last = self._last, reply
        self.version = int(head["version"])
        self.wait_s = time.perf_counter() - start
        self.sent, self.received = message.size, reply.size
        return Reply(self.version, int(head["frames"]), int(head["order"]), int(head["label"]))

    def _wait(self, request: MPI.Request, what: str) -> None:
        end = time.monotonic() + self.patience_s
        mark = Wait(f"rank {self.server} to {what}", (self.server,))

        def meanwhile() -> None:
            nonlocal end
            self.idle()
            pulse.waits = mark
            if time.monotonic() > end:
                end += bear_with(self.server, f"did not {what}", self.patience_s)

        waiting.until(request, meanwhile)
        pulse.beat()
