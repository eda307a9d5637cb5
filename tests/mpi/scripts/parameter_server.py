"""What `test_parameter_server.py` runs on each rank: one named check, failing by assertion on the rank that sees it.

mpirun -n 3 python parameter_server.py CHECK FOLDER

Rank 0 serves, the others are fake workers and guests: their gradients are counters.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import mpi_ltcr.comm  # noqa: F401  (so that mpi4py does not initialise MPI at import)

from mpi4py import MPI  # isort: skip

from mpi_ltcr.archive import checkpoint
from mpi_ltcr.archive.reader import open_log
from mpi_ltcr.comm import runtime, wire
from mpi_ltcr.comm.collectives import WireError
from mpi_ltcr.comm.mailbox import SAVED, Mailbox
from mpi_ltcr.comm.parameter_server import ParameterServer, ServerLink
from mpi_ltcr.comm.wire import REPLY_HEADER, REQUEST_HEADER, SAVE, STOP, Push

FOLDER = Path(sys.argv[2] if len(sys.argv) > 2 else "/nowhere")
NEVER = 10**9
PATIENCE_S = 60.0
CHAT_S = 5.0
"""Patience where somebody is to fall silent."""


class Counters:
    """Parameters that count: `rl` gradients go to the first half, those of `align0` to the second."""

    def __init__(self, size: int) -> None:
        self.values = np.zeros(2 * size, np.float32)
        self.parts = {"rl": self.values[:size], "align0": self.values[size:]}
        self.sizes = dict.fromkeys(self.parts, size)

    def apply(self, kind: str, gradient: np.ndarray) -> None:
        self.parts[kind] += gradient

    def state(self) -> dict[str, Any]:
        return {"values": self.values.copy()}


def one(place: int, size: int) -> np.ndarray:
    """A gradient that counts one push of a rank."""
    return np.eye(size, dtype=np.float32)[place]


def server_of(comm: MPI.Intracomm, store: Counters, guests: int = 0, **options: Any) -> ParameterServer:
    """On rank 0, for all other ranks; the last ones are guests."""
    ranks = list(range(1, comm.size))
    workers = ranks[: len(ranks) - guests]
    settings = {"games": 3, "limit": NEVER, "save_every": NEVER, "patience_s": PATIENCE_S, **options}
    return ParameterServer(
        comm=comm, store=store, workers=workers, guests=ranks[len(workers) :], sizes=store.sizes, **settings
    )


def link_of(comm: MPI.Intracomm, patience_s: float = PATIENCE_S) -> ServerLink:
    return ServerLink(comm=comm, server=0, kinds=["rl", "align0"], values=2 * comm.size, patience_s=patience_s)


def serve(server: ParameterServer, until: Callable[[], bool] | None = None) -> None:
    while not (until or (lambda: server.done))():
        if not server.poll():
            time.sleep(2e-4)


# Exactly once


def under_load(comm: MPI.Intracomm, slowness: float = 1) -> None:
    """Workers of different speed, each with its own count of pushes; the last one is `slowness` times slower."""
    ledger, workers = comm.Dup(), comm.Split(comm.rank == 0)
    if comm.rank == 0:
        store = Counters(comm.size)
        server = server_of(comm, store, limit=400 * comm.size)
        pushes: list[Push] = []
        frames: list[int] = []
        server.on_push = lambda push, returns: (pushes.append(push), frames.append(server.frames))
        serve(server)
        _check_ledger(ledger.gather(None), store, server, pushes, frames)
        return
    rng, link = np.random.default_rng(comm.rank), link_of(comm)
    pace = 5e-4 * (slowness if comm.rank == comm.size - 1 else 1)
    reply = link.exchange(0)
    sent: list[tuple[int, int, int]] = []
    while not reply.order & STOP:
        time.sleep(pace * rng.uniform(0, 2))
        link.stage("rl", one(comm.rank, comm.size))
        twice = len(sent) % 3 == 0
        if twice:  # several of a kind are added up
            link.stage("align0", one(comm.rank, comm.size))
            link.stage("align0", one(comm.rank, comm.size))
        before, steps = reply, int(rng.integers(1, 6))
        reply = link.exchange(steps)
        sent.append((steps, 2 * twice, before.version))
        if len(sent) == 4:
            workers.Barrier()  # so that all have a part in it, however late: the limit is far away
        assert reply.frames >= before.frames + steps  # T never goes back, and has our steps in it
        assert reply.version > before.version
        assert link.values[: comm.size].sum() == reply.version  # every update is there, whole
        assert link.values[comm.rank] == len(sent)
        assert link.sent == REQUEST_HEADER.itemsize + 4 * comm.size * (1 + twice)
        assert link.received == REPLY_HEADER.itemsize + 8 * comm.size
    ledger.gather(sent)


def _check_ledger(books: Any, store: Counters, server: ParameterServer, pushes: list[Push], frames: list[int]) -> None:
    steps = {rank: [s for s, _, _ in book] for rank, book in enumerate(books) if book}
    assert store.parts["rl"].tolist() == [len(steps.get(rank, [])) for rank in range(len(books))]
    assert store.parts["align0"].tolist() == [sum(a for _, a, _ in book) if book else 0 for book in books]
    assert server.frames == sum(sum(counts) for counts in steps.values()) >= server.limit
    assert server.version == len(pushes) == sum(len(counts) for counts in steps.values())
    assert frames == np.cumsum([push.steps for push in pushes]).tolist()
    for rank, book in enumerate(books):
        mine = [(number, push) for number, push in enumerate(pushes) if push.worker == rank]
        assert [push.steps for _, push in mine] == steps.get(rank, [])
        assert [number - push.staleness for number, push in mine] == [version for _, _, version in book or []]
    assert min(len(counts) for counts in steps.values()) > 3
    assert all(1 <= push.queue <= len(books) - 1 for push in pushes)
    if len(books) > 3:
        assert len({len(counts) for counts in steps.values()}) > 1  # they finished with different counts


def slow_worker(comm: MPI.Intracomm) -> None:
    under_load(comm, 20)


# What is told of a push


RETURNS = [7.5, -0.1, 1e300]
"""Of three games that ended in one rollout."""


def staleness_and_queue(comm: MPI.Intracomm) -> None:
    """Pushes in a given order, then two at once."""
    baton = comm.Dup()
    order, stale = [1, 1, 2, 1, 2, 2], [0, 0, 2, 1, 1, 0]  # by hand: updates since that worker's last answer
    if comm.rank == 0:
        server = server_of(comm, Counters(comm.size))
        pushes: list[Push] = []
        told_returns: list[list[float]] = []
        server.on_push = lambda push, returns: (pushes.append(push), told_returns.append(returns))
        serve(server, lambda: sum(server.received.values()) == 2)  # both have the first weights
        for number, rank in enumerate(order):
            baton.send("push", rank)
            serve(server, lambda number=number: len(pushes) > number)
        for rank in (1, 2):
            baton.send("push", rank)
            baton.recv(source=rank)  # it has sent its request
        time.sleep(0.3)
        server.stop_asked = True
        serve(server)
        assert [push.worker for push in pushes[:-2]] == order
        assert [push.staleness for push in pushes[:-2]] == stale
        last = [(push.worker, push.staleness) for push in pushes[-2:]]  # who of the two comes first is open
        assert last in ([(1, 2), (2, 1)], [(2, 0), (1, 3)])
        assert [push.queue for push in pushes] == [1] * len(order) + [2, 1]
        plain = REQUEST_HEADER.itemsize + 4 * comm.size
        assert [push.bytes for push in pushes] == [plain + 8 * 3 * (push.worker == 2) for push in pushes]
        assert told_returns == [RETURNS if push.worker == 2 else [] for push in pushes]
        return
    link = link_of(comm)

    def tell() -> None:
        """Called while it waits, so after it has sent its request."""
        if len(baton_passed) > order.count(comm.rank) and not told:
            told.append(baton.send("sent", 0))

    baton_passed: list[object] = []
    told: list[object] = []
    link.idle = tell
    reply = link.exchange(0)
    while not reply.order & STOP:
        baton_passed.append(baton.recv(source=0))
        link.stage("rl", one(comm.rank, comm.size))
        reply = link.exchange(1, returns=RETURNS if comm.rank == 2 else ())


def stop_asked_by_a_worker(comm: MPI.Intracomm) -> None:
    """All are told to stop, each after the push that it is at; nothing of it is lost."""
    workers = comm.Split(comm.rank == 0)
    if comm.rank == 0:
        store = Counters(comm.size)
        server = server_of(comm, store)
        serve(server)
        assert server.stop_asked
        assert store.parts["rl"].sum() == server.version >= comm.size - 1 + 4
        return
    link = link_of(comm)
    reply, count = link.exchange(0), 0
    workers.Barrier()  # so that all push before one of them asks for a stop
    while not reply.order & STOP:
        link.stage("rl", one(comm.rank, comm.size))
        reply, count = link.exchange(3, stop_asked=comm.rank == 1 and count == 4), count + 1
    assert link.values[comm.rank] == count


# Damage


def complaint(action: Callable[[], object], kind: type[Exception] = WireError) -> str:
    try:
        action()
    except kind as error:
        return str(error)
    raise AssertionError("nothing was complained of")


@contextlib.contextmanager
def fresh(comm: MPI.Intracomm) -> Iterator[tuple[MPI.Intracomm, Counters | None, ParameterServer | None]]:
    """A communicator of its own for a dialogue that goes wrong, with a server on rank 0."""
    lane = comm.Dup()
    store = Counters(comm.size) if comm.rank == 0 else None
    server = server_of(lane, store) if store else None
    yield lane, store, server
    comm.Barrier()
    for request in server._receives if server else []:
        if request != MPI.REQUEST_NULL:
            request.Cancel()
            request.Wait()
    lane.Free()


def push_message(link: ServerLink, comm: MPI.Intracomm) -> np.ndarray:
    return link._message(1, [one(comm.rank, comm.size)], 4, [2.5])


def damaged_requests(comm: MPI.Intracomm) -> None:
    """One flipped bit anywhere: nothing is applied, and the rank is named."""
    for place in range(REQUEST_HEADER.itemsize + 8 + 4 * comm.size):
        with fresh(comm) as (lane, store, server):
            if comm.rank == 1:
                message = push_message(link_of(lane), comm)
                message[place] ^= 1 << place % 8
                lane.Send(message, 0, wire.REQUEST)
            elif server and store:
                told = complaint(lambda server=server: serve(server))
                assert told == "request of rank 1 was damaged on its way, or is of another version", (place, told)
                assert not store.values.any()
                assert (server.frames, server.version) == (0, 0)


def requests_of_wrong_length(comm: MPI.Intracomm) -> None:
    size = REQUEST_HEADER.itemsize + 8 + 4 * comm.size
    for length in (0, 3, REQUEST_HEADER.itemsize - 1, REQUEST_HEADER.itemsize, size - 4, size + 4):
        with fresh(comm) as (lane, store, server):
            if comm.rank == 1:
                message = np.resize(push_message(link_of(lane), comm), length)
                lane.Send(message, 0, wire.REQUEST)
            elif server and store:
                assert "request of rank 1 was damaged" in complaint(lambda server=server: serve(server))
                assert not store.values.any()
    with fresh(comm) as (lane, _, server):  # longer than any can be
        if comm.rank == 1:
            lane.Send(np.zeros(10 * size, np.uint8), 0, wire.REQUEST)
        elif server:
            complaint(lambda: serve(server), MPI.Exception)


def repeated_and_skipped_requests(comm: MPI.Intracomm) -> None:
    for step in (0, 2):
        with fresh(comm) as (lane, store, server):
            if comm.rank == 1:
                link = link_of(lane)
                link.stage("rl", one(1, comm.size))
                link.exchange(4)
                link.sequence += step - 1
                lane.Send(push_message(link, comm), 0, wire.REQUEST)
            elif server and store:
                told = complaint(lambda server=server: serve(server))
                assert told == f"request {1 + step} of rank 1 came after request 1"
                assert store.values.sum() == 1
                assert server.frames == 4


def gradients_of_wrong_size(comm: MPI.Intracomm) -> None:
    """A message that is whole, but of other networks: nothing of it is applied."""
    for content, numbers in ((1, 1), (3, comm.size), (2, 2 * comm.size), (4, comm.size)):
        with fresh(comm) as (lane, store, server):
            if comm.rank == 1:
                lane.Send(link_of(lane)._message(content, [np.ones(numbers, np.float32)], 4, ()), 0, wire.REQUEST)
            elif server and store:
                assert f"has {numbers} numbers, its content says" in complaint(lambda server=server: serve(server))
                assert not store.values.any()
                assert server.version == 0


def damaged_answers(comm: MPI.Intracomm) -> None:
    for place in range(REPLY_HEADER.itemsize + 8 * comm.size):
        lane = comm.Dup()
        if comm.rank == 0:
            lane.Recv(np.empty(1000, np.uint8), 1, wire.REQUEST)
            answer = np.zeros(REPLY_HEADER.itemsize + 8 * comm.size, np.uint8)
            wire.fill_header(answer, REPLY_HEADER, 0, 3, 40, 0, 0, away=True)
            answer[place] ^= 1 << place % 8
            lane.Send(answer, 1, wire.REPLY)
        else:
            link = link_of(lane)
            told = complaint(lambda link=link: link.exchange(0))
            assert told == "the answer of rank 0 was damaged on its way, or is of another version"
            assert not link.values.any()
        lane.Free()


# Silence and death: the job is to end, so none of these passes


def chat(comm: MPI.Intracomm, silent: int, act: Callable[[], object]) -> None:
    """Everybody exchanges without end; rank `silent` does something else after a while."""
    if comm.rank == 0:
        server = server_of(comm, Counters(comm.size), patience_s=CHAT_S)
        serve(server, lambda: silent == 0 and server.version > 20)
        act()
    link, count = link_of(comm, patience_s=CHAT_S if silent == 0 else PATIENCE_S), 0
    link.exchange(0)
    while True:
        count += 1
        if comm.rank == silent and count > 5:
            act()
        link.stage("rl", one(comm.rank, comm.size))
        link.exchange(1)


def silent_worker(comm: MPI.Intracomm) -> None:
    chat(comm, comm.size - 1, lambda: time.sleep(100))


def silent_server(comm: MPI.Intracomm) -> None:
    chat(comm, 0, lambda: time.sleep(100))


def dead_worker(comm: MPI.Intracomm) -> None:
    chat(comm, comm.size - 1, lambda: os.kill(os.getpid(), signal.SIGKILL))


def dead_server(comm: MPI.Intracomm) -> None:
    chat(comm, 0, lambda: os.kill(os.getpid(), signal.SIGKILL))


def poisoned(comm: MPI.Intracomm) -> None:
    """A repeated request in the middle of the job."""

    def act() -> None:
        link = link_of(comm)
        comm.Send(push_message(link, comm), 0, wire.REQUEST)
        time.sleep(100)

    chat(comm, 1, act)


# Guests


def guests(comm: MPI.Intracomm) -> None:
    """Rank 1 works; the others fetch now and then, are silent for longer than anyone's patience, and say goodbye."""
    if comm.rank == 0:
        store = Counters(comm.size)
        server = server_of(comm, store, guests=comm.size - 2, limit=60, patience_s=3.0)
        pushes: list[Push] = []
        server.on_push = lambda push, returns: pushes.append(push)
        serve(server, lambda: not server.workers_left)
        before = dict(server.received)
        serve(server)
        assert all(server.received[guest] > before[guest] for guest in server.guests)  # when its own task was done, too
        assert {push.worker for push in pushes} == {1}
        assert store.values.sum() == server.version == 60
        return
    link = link_of(comm)
    reply = link.exchange(0)
    if comm.rank == 1:
        while not reply.order & STOP:
            time.sleep(0.1)
            link.stage("rl", one(1, comm.size))
            reply = link.exchange(1)
        return
    seen = []
    while not seen or seen[-1] < 60:
        time.sleep(0.05 if seen else 4)
        reply = link.exchange(0)
        assert not reply.order  # neither to stop nor to save
        seen.append(reply.version)
        assert link.values.sum() == reply.version
    assert seen == sorted(seen)
    time.sleep(1)
    link.exchange(0)
    assert link.values[1] == 60
    link.bye()


# With the log and the checkpoints of a real task


def serving_of(comm: MPI.Intracomm, **options: Any) -> Any:
    """Rank 0's `Serving` over such a server."""
    from mpi_ltcr.archive.recorder import Recorder
    from mpi_ltcr.archive.rundir import RunDirectory
    from mpi_ltcr.programs.serving import Serving

    run, store = RunDirectory(FOLDER), Counters(comm.size)
    run.logs.mkdir()
    serving = Serving(
        name="task",
        server=server_of(comm, store, **options),
        store=store,  # type: ignore[arg-type]
        mailbox=Mailbox(comm.Dup()),
        others=[],
        run=run,
        recorder=Recorder(path=run.logs / "server0000.h5", attributes={}),
        signals=runtime.StopSignals(),
        publish_s=600,
        keep=3,
        facts={"world_size": comm.size},
        first=False,
    )
    comm.Barrier()
    return serving


def run_serving(serving: Any, until: Callable[[], bool] = lambda: False) -> None:
    """To the end, or until something is so."""
    while not until() and serving.step():
        serving.rest()


class Hand:
    """A fake worker that saves what it is told to; `delay(label)` is called before it tells that it has saved."""

    def __init__(self, comm: MPI.Intracomm, delay: Callable[[int], object] = lambda label: None) -> None:
        self.comm, self.link, self.mailbox, self.delay = comm, link_of(comm), Mailbox(comm.Dup()), delay
        self.pushed = 0
        self.saved: list[int] = []
        self.ok = True
        comm.Barrier()

    def exchange(self, steps: int) -> int:
        """Push, save if told to; the order."""
        if steps:
            self.link.stage("rl", one(self.comm.rank, self.comm.size))
            self.pushed += 1
        reply = self.link.exchange(steps)
        if reply.order & SAVE:
            self.save(reply.label)
        return reply.order

    def save(self, label: int) -> None:
        self.saved.append(label)
        self.delay(label)
        draft = checkpoint.draft_folder(FOLDER / "checkpoints" / "task", label)
        entry = checkpoint.write_file(draft, checkpoint.rank_file(self.comm.rank), {"pushed": self.pushed})
        self.mailbox.send(0, SAVED, ok=self.ok, label=label, size=entry.bytes, sha256=entry.sha256)


def whole(comm: MPI.Intracomm) -> dict[int, tuple[int, list[float], list[int]]]:
    """T in its name -> T inside, counters, pushes of each worker when it saved; of every checkpoint there is."""
    found = {}
    for folder in checkpoint.folders(FOLDER / "checkpoints" / "task"):
        checkpoint.verify(folder)
        state = checkpoint.load_file(folder / "server.h5")
        files = [checkpoint.load_file(folder / checkpoint.rank_file(rank)) for rank in range(1, comm.size)]
        counters = state["store"]["values"][1 : comm.size].tolist()
        found[checkpoint.frames_of(folder)] = (state["server"]["frames"], counters, [f["pushed"] for f in files])
    return found


def events(serving: Any) -> list[str]:
    """Texts of the log."""
    serving.recorder.publish()
    return list(open_log(serving.recorder.path).table("events")["text"])


def checkpoints(comm: MPI.Intracomm) -> None:
    """Periodic ones and a last one, under load; each is named after the T of the server's file in it."""
    if comm.rank == 0:
        serving = serving_of(comm, save_every=100)
        # a worker that is slow to save holds up its checkpoint only: the end waits for two of them
        run_serving(serving, lambda: len(checkpoint.folders(FOLDER / "checkpoints" / "task")) == 2)
        serving.server.limit = limit = serving.server.frames + 100
        run_serving(serving)
        found = whole(comm)
        assert max(found) == serving.server.frames >= limit >= 300
        assert list((FOLDER / "checkpoints" / "task").glob(".*")) == []  # no drafts
        assert len(found) == 3  # the newest ones
        for frames, (inside, counters, pushed) in found.items():
            assert inside == frames
            assert sum(counters) * 5 == frames
            # a worker saves with its next exchange, when the server's file may be some pushes older
            assert all(0 <= after - applied <= 1 for applied, after in zip(counters, pushed, strict=True))
        assert found[max(found)][1] == found[max(found)][2]  # of the last one no push is missing
        assert serving.problem == ""
        assert events(serving) == []
        return
    hand = Hand(comm)
    order = hand.exchange(0)
    while not order & STOP:
        time.sleep(2e-3 * comm.rank)
        order = hand.exchange(5)
    assert len(hand.saved) >= 3


def stop_while_saving(comm: MPI.Intracomm) -> None:
    """A periodic checkpoint of T=10 is being gathered when a stop comes at the same T; rank 3 is a guest."""
    baton = comm.Dup()
    if comm.rank == 0:
        serving = serving_of(comm, guests=1, save_every=10)
        run_serving(serving, lambda: serving.server.frames == 10)
        serving.server.stop_asked = True
        baton.send("fetch", 3)
        run_serving(serving, lambda: serving.server.received[3] == 1)
        assert not serving.server.closing  # its draft would be the same folder
        baton.send("go on", 1)
        run_serving(serving, lambda: serving.server.frames == 15)
        assert serving.server.closing
        baton.send("push", 2)
        run_serving(serving)
        found = checkpoint.folders(FOLDER / "checkpoints" / "task")
        assert [folder.name for folder in found] == ["step_000000016"], found
        state = checkpoint.load_file(found[0] / "server.h5")
        assert state["server"] == {"frames": 16, "version": 3}
        assert set(checkpoint.verify(found[0])["files"]) == {"rank0001.h5", "rank0002.h5", "server.h5"}
        assert serving.problem == ""
    elif comm.rank == 1:
        hand = Hand(comm, lambda label: baton.recv(source=0) if label == 10 else None)
        assert hand.exchange(0) == 0
        baton.recv(source=2)  # whose first exchange would otherwise be told to save as well
        assert hand.exchange(10) == SAVE
        assert hand.exchange(5) == SAVE | STOP
        assert hand.saved == [10, 15]
    elif comm.rank == 2:
        hand = Hand(comm)
        assert hand.exchange(0) == 0
        baton.send("go on", 1)
        baton.recv(source=0)
        assert hand.exchange(1) == SAVE | STOP
        assert hand.saved == [15]
    else:
        comm.Dup()  # of the hands' mailboxes
        comm.Barrier()
        link = link_of(comm)
        baton.recv(source=0)
        assert link.exchange(0).order == 0
        link.bye()


def stop_before_the_first_push(comm: MPI.Intracomm) -> None:
    if comm.rank == 0:
        serving = serving_of(comm)
        serving.server.stop_asked = True
        run_serving(serving)
        assert whole(comm) == {0: (0, [0.0] * (comm.size - 1), [0] * (comm.size - 1))}
        return
    hand = Hand(comm)
    assert hand.exchange(0) == SAVE | STOP


def worker_that_cannot_save(comm: MPI.Intracomm) -> None:
    """A periodic checkpoint is given up, the next one is whole; if it is the last one, the problem is told."""
    if comm.rank == 0:
        serving = serving_of(comm, limit=40, save_every=10)
        run_serving(serving, lambda: serving.server.frames >= 30)
        assert "checkpoint at frame 10 was not written: rank 1 could not write rank0001.h5" in events(serving)
        assert serving.problem == ""
        run_serving(serving)
        assert serving.problem == "rank 1 could not write rank0001.h5"
        assert 10 not in whole(comm)
        assert 20 in whole(comm)
        return
    hand = Hand(comm)
    order = hand.exchange(0)
    while not order & STOP:
        hand.ok = hand.pushed in (1, 2)
        order = hand.exchange(10)
        if not order & STOP:
            order = hand.exchange(0)  # before it serves the next push the server hears how the saving went


def three_failed_checkpoints(comm: MPI.Intracomm) -> None:
    """The run stops by itself, long before its end, and saves that if it can."""
    if comm.rank == 0:
        serving = serving_of(comm, save_every=10)
        run_serving(serving)
        assert len([event for event in events(serving) if "was not written" in event]) == 3
        assert serving.problem == ""
        (folder,) = checkpoint.folders(FOLDER / "checkpoints" / "task")
        assert checkpoint.frames_of(folder) == serving.server.frames <= 60
        return
    hand = Hand(comm)
    hand.ok = False
    order, saves = hand.exchange(0), 0
    while not order & STOP:
        order = hand.exchange(10)
        if order & SAVE and not order & STOP:
            saves = len(hand.saved)
            hand.ok = saves == 3
            order = hand.exchange(0)  # before it serves the next push the server hears of it
    assert saves == 3


def idle(comm: MPI.Intracomm) -> None:
    """A server to which nobody speaks for three seconds."""
    from mpi_ltcr.programs.serving import IDLE_S

    if comm.rank == 0:
        serving = serving_of(comm)
        looks, used, until = 0, time.process_time(), time.monotonic() + 3
        while time.monotonic() < until and serving.step():
            serving.rest()
            looks += 1
        used = time.process_time() - used
        assert looks <= 3 / IDLE_S
        assert used < 0.5, f"{used:.2f} s, {looks} looks"
        comm.Ibarrier().Wait()
        serving.server.stop_asked = True
        run_serving(serving)
        return
    hand = Hand(comm)
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(0.05)
    hand.exchange(0)


def shared(comm: MPI.Intracomm) -> None:
    """Rank 0 is the server and a worker as well, which serves the others after each of its own steps."""
    ranks = comm.size
    if comm.rank == 0:
        store = Counters(ranks)
        server = ParameterServer(
            comm=comm, store=store, workers=list(range(ranks)), guests=[], sizes=store.sizes, games=1, limit=200,
            save_every=NEVER, patience_s=PATIENCE_S,
        )  # fmt: skip
        poll: Callable[[], object] = server.poll
        link = ServerLink(comm=comm, server=0, kinds=["rl", "align0"], values=2 * ranks, patience_s=5, here=server)
    else:
        poll, link = lambda: None, link_of(comm)
    reply, count = link.exchange(0), 0
    while not reply.order & STOP:
        link.stage("rl", one(comm.rank, ranks))
        reply, count = link.exchange(1), count + 1
        poll()
    assert link.values[comm.rank] == count
    if comm.rank == 0:
        serve(server)
        assert store.values.sum() == server.version == server.frames >= 200


if __name__ == "__main__":
    world = runtime.start()
    globals()[sys.argv[1]](world)
    world.Barrier()
    if world.rank == 0:
        print("passed:", sys.argv[1], flush=True)
    runtime.leave(0)
