"""What `test_collectives.py` runs on each rank: one named check, failing by assertion on the rank that sees it.

mpirun -n 3 python collectives.py CHECK
"""

from __future__ import annotations

import os
import sys
import time
import traceback

import numpy as np

import mpi_ltcr.comm  # noqa: F401  (so that mpi4py does not initialise MPI at import)

from mpi4py import MPI  # isort: skip

from mpi_ltcr.comm.collectives import BCAST, FIELDS, HEADER, Service, WireError, seal
from mpi_ltcr.comm.node import cores_of_node

HEAD = HEADER.size
ROW = np.dtype([("count", "<i8"), ("phi", "<f4", (3, 2))])


def payload_of(agent: int) -> np.ndarray:
    """A structured scalar, as the transfer sends."""
    row = np.zeros((), ROW)
    row["count"], row["phi"] = agent, np.arange(6).reshape(3, 2) + 100 * agent
    return row


def results(comm: MPI.Intracomm) -> None:
    """Every collective gives what its docstring says, agents in reversed order of ranks."""
    size, rank = comm.size, comm.rank
    agent = size - 1 - rank
    service = Service(comm, agent)
    everybody = np.stack([payload_of(a) for a in range(size)])

    gathered = service.gather(payload_of(agent))
    assert (gathered is None) == (rank != 0)
    assert rank or (gathered == everybody).all()
    for root_says in (3.5, -1.0):
        assert (service.bcast(np.full((2, 2), root_says if rank == 0 else 9.9)) == root_says).all()
    allgathered = service.allgather(payload_of(agent))
    assert (allgathered == everybody).all()
    assert allgathered.dtype == ROW
    assert service.allgather(np.float32(agent)).tolist() == list(range(size))
    assert service.allgather(np.zeros((2, 0))).shape == (size, 2, 0)
    columns = np.arange(12.0).reshape(3, 4).T + agent  # not contiguous
    assert (service.allgather(columns) == np.stack([np.arange(12.0).reshape(3, 4).T + a for a in range(size)])).all()
    assert service.any(rank == size - 1)
    assert not service.any(False)
    assert service.texts(f"agent {agent}" + "ü" * agent) == [f"agent {a}" + "ü" * a for a in range(size)]
    assert service.texts("") == [""] * size
    assert service.announce("Zürich" if rank == 0 else "elsewhere") == "Zürich"
    assert service.announce("" if rank == 0 else "elsewhere") == ""


def enormous(comm: MPI.Intracomm) -> None:
    """More bytes than a signed 32-bit integer counts: in one message, and in all that a rank receives together."""
    service, size = Service(comm, comm.rank), 2**31 + 8
    told = service.bcast(np.full(size, 7 if comm.rank == 0 else 0, np.uint8))
    assert told.size == size
    assert told[[0, size // 2, -1]].tolist() == [7, 7, 7]
    del told
    heard = service.allgather(np.full(size // comm.size, comm.rank + 1, np.uint8))
    assert heard[:, [0, -1]].tolist() == [[rank + 1] * 2 for rank in range(comm.size)]


def deliveries(comm: MPI.Intracomm) -> None:
    """Each agent hears exactly those whom the table names for it, in that order; agents in reversed order of ranks."""
    size = comm.size
    agent = size - 1 - comm.rank
    service = Service(comm, agent)
    rng = np.random.default_rng(size)
    for k in (*range(1, size), *range(1, size)):
        table = np.stack([rng.permutation(np.delete(np.arange(size), i))[:k] for i in range(size)])
        sent, received = service.sent, service.received
        heard = service.hear(payload_of(agent), table)
        assert (heard == np.stack([payload_of(a) for a in table[agent]])).all()
        message = HEAD + ROW.itemsize
        assert service.received - received == k * message
        assert service.sent - sent == (table == agent).sum() * message
    assert service.any(agent == 0)  # nothing is left over that the next collective could take for its own


def sums(comm: MPI.Intracomm) -> None:
    """A sum is right, the same bits whoever sits where, of a size that does not grow; faults are noticed."""
    values = np.random.default_rng(0).uniform(-1, 1, (comm.size, 50)) * np.logspace(0, -12, 50)
    results, sizes = [], []
    for order in (range(comm.size), reversed(range(comm.size))):
        agent = list(order)[comm.rank]
        service = Service(comm, agent)
        sent = service.sent
        results.append(service.total(values[agent]))
        sizes.append(service.sent - sent)
    assert (results[0] == results[1]).all()
    assert sizes == [8 * (50 + 4)] * 2
    assert np.abs(results[0] - values.sum(0)).max() < 1e-14 * comm.size
    assert "largest magnitude 8.0" in complaint(lambda: service.total(np.array([8.0])), ValueError)
    if comm.size > 1:
        service.round += comm.rank == 0
        assert "out of step" in complaint(lambda: service.total(np.ones(3)))


def bytes_counted(comm: MPI.Intracomm) -> None:
    """Sent and received are payloads with their headers, to the byte."""
    size, others, is_root = comm.size, comm.size - 1, comm.rank == 0
    service = Service(comm, comm.rank)

    def counted(action: object) -> tuple[int, int]:
        before = service.sent, service.received
        action()
        return service.sent - before[0], service.received - before[1]

    for payload in (np.zeros(1000, np.float32), np.zeros((2, 3), np.int64), np.zeros(0)):
        message = HEAD + payload.nbytes
        assert counted(lambda p=payload: service.gather(p)) == ((0, others * message) if is_root else (message, 0))
        assert counted(lambda p=payload: service.bcast(p)) == ((others * message, 0) if is_root else (0, message))
        assert counted(lambda p=payload: service.allgather(p)) == (others * message, others * message)
    assert counted(lambda: service.any(True)) == (others * (HEAD + 1), others * (HEAD + 1))
    assert service.seconds > 0 or size == 1


def independent(comm: MPI.Intracomm) -> None:
    """A message for another service on the same ranks is not taken for ours, whatever the order."""
    one, two = Service(comm, comm.rank), Service(comm, comm.rank)
    first, second = (one, two) if comm.rank % 2 else (two, one)
    sums = {s: np.empty(1, int) for s in (one, two)}
    MPI.Request.Waitall([s.comm.Iallreduce(np.array([1 if s is one else 2]), sums[s]) for s in (first, second)])
    assert (int(sums[one][0]), int(sums[two][0])) == (comm.size, 2 * comm.size)
    assert one.allgather(np.array(1)).tolist() == [1] * comm.size
    assert two.allgather(np.array(2)).tolist() == [2] * comm.size


def waiting(comm: MPI.Intracomm) -> None:
    """Who waits two seconds for a teammate spends nearly no time of the core."""
    service = Service(comm, comm.rank)
    service.any(False)  # all are there
    wall, core = time.perf_counter(), time.process_time()
    service.any(False)  # rank 0 has its sleep still before it
    if comm.rank == 0:
        time.sleep(2)
    service.any(True)
    wall, core = time.perf_counter() - wall, time.process_time() - core
    assert comm.rank == 0 or wall > 1.5, wall
    assert core < 0.5, core


def cores(comm: MPI.Intracomm) -> None:
    """All ranks of this machine count themselves and the processors that one of them or another may use."""
    able = set.union(*comm.allgather(os.sched_getaffinity(0)))
    assert cores_of_node(comm) == (comm.size, len(able))


def fast(comm: MPI.Intracomm) -> None:
    """A small exchange between ranks that are there already takes far less than the nap of a waiting rank."""
    service = Service(comm, comm.rank)
    payload = np.zeros((32, 51), np.float32)
    service.allgather(payload)
    start = time.perf_counter()
    for _ in range(200):
        service.allgather(payload)
    each = (time.perf_counter() - start) / 200
    assert each < 0.02, each


def complaint(action: object, kind: type[Exception] = WireError) -> str:
    try:
        action()
    except kind as error:
        return str(error)
    raise AssertionError("the fault went unnoticed")


class Tampered(Service):
    """Damages each message that this rank packs."""

    def __init__(self, comm: MPI.Intracomm, damage: object) -> None:
        self.damage = lambda message: None
        super().__init__(comm, comm.rank)
        self.damage = damage

    def _pack(self, payload: np.ndarray, operation: int) -> np.ndarray:
        message = super()._pack(payload, operation)
        self.damage(message)
        return message


def flipped_bit(comm: MPI.Intracomm) -> None:
    """One bit of the last rank's message is damaged, at each byte of it in turn: all ranks notice."""
    last = comm.size - 1
    service = Tampered(comm, lambda message: None)
    for place in range(HEAD + 40):

        def damage(message: np.ndarray, place: int = place) -> None:
            message[place] ^= 1 << place % 8

        service.damage = damage if comm.rank == last else lambda message: None
        told = complaint(lambda: service.allgather(np.arange(5.0)))
        assert f"message of rank {last}" in told, told
        program, sizes = range(4, 10), range(28, 36)  # of the magic number and the version, and of `bytes`
        assert ("another program" if place in program else "out of step" if place in sizes else "damaged") in told, told
    service.damage = lambda message: None
    assert service.allgather(np.float64(3)).tolist() == [3] * comm.size


def damaged_broadcast(comm: MPI.Intracomm) -> None:
    """Of a broadcast, those who receive it notice; of a gathering, rank 0 does."""

    def damage(message: np.ndarray) -> None:
        message[-1] ^= 1

    root, last = comm.rank == 0, comm.rank == comm.size - 1
    told = complaint(lambda: Tampered(comm, damage if root else lambda message: None).bcast(np.arange(5.0)))
    assert "damaged" in told
    gather = Tampered(comm, damage if last else lambda message: None).gather
    if root:
        assert f"message of rank {comm.size - 1} was damaged" in complaint(lambda: gather(np.arange(5.0)))
    else:
        gather(np.arange(5.0))


def another_round(comm: MPI.Intracomm) -> None:
    """A rank that has taken one exchange more is named, and so are both rounds."""
    service = Service(comm, comm.rank)
    service.round += comm.rank == comm.size - 1
    told = complaint(lambda: service.allgather(np.arange(5)))
    assert "out of step" in told
    assert "round 1" in told
    assert "round 2" in told


def another_operation(comm: MPI.Intracomm) -> None:
    """A rank that is at another collective of the same size is named."""
    last = comm.rank == comm.size - 1

    def damage(message: np.ndarray) -> None:
        head = dict(zip(FIELDS, HEADER.unpack_from(message), strict=True))
        HEADER.pack_into(message, 0, *{**head, "operation": BCAST}.values())
        seal(message)

    told = complaint(lambda: Tampered(comm, damage if last else lambda message: None).allgather(np.arange(5)))
    here = sys._getframe().f_lineno - 1
    assert f"rank {comm.size - 1} is of bcast at " in told, told
    assert f"due here: allgather at collectives:{here}, round 1" in told


def another_size(comm: MPI.Intracomm) -> None:
    """A rank that sends less, or other numbers of the same size, is named with what it sent."""
    last = comm.rank == comm.size - 1
    for mine, words in ((np.zeros(4, np.float32), "16 bytes of f4 for 40 of i8"), (np.zeros(5), "40 bytes of f8")):
        service = Service(comm, comm.rank)
        told = complaint(lambda: service.allgather(mine if last else np.arange(5)))  # noqa: B023
        assert words in told or (last and "out of step" in told), told


def another_branch(comm: MPI.Intracomm) -> None:
    """A rank that went elsewhere in an `if` is told of at the next meeting, with its line and ours."""
    service = Service(comm, comm.rank)
    last = comm.rank == comm.size - 1
    small, wide = np.zeros(1, np.int32), np.zeros(1, np.float32)
    if last:
        service._pack(wide, BCAST)  # what this rank believes to have taken part in
    else:
        service._pack(small, BCAST)
    told = complaint(lambda: service.any(True))
    assert "out of step" in told, told
    assert "allgather at collectives:" in told


def delivered_twice(comm: MPI.Intracomm) -> None:
    """A message that comes in another one's place as well is noticed: of the last round, or of another rank."""
    service = Service(comm, comm.rank)
    kept = service._pack(np.arange(5), 3)
    service._run(comm.Ibarrier(), operation=3)
    fresh = service._pack(np.arange(5), 3)
    service._run(comm.Ibarrier(), operation=3)
    assert "round 1, due here" in complaint(lambda: service._unpack(np.stack([kept] * comm.size), np.arange(5), 3))
    told = complaint(lambda: service._unpack(np.stack([fresh] * comm.size), np.arange(5), 3))
    assert f"is agent {comm.rank}'s; it was delivered twice" in told, told


CHECKS = {
    check.__name__: check
    for check in (
        results,
        enormous,
        deliveries,
        sums,
        bytes_counted,
        independent,
        waiting,
        cores,
        fast,
        flipped_bit,
        damaged_broadcast,
        another_round,
        another_operation,
        another_size,
        another_branch,
        delivered_twice,
    )
}

if __name__ == "__main__":
    MPI.Init_thread(MPI.THREAD_MULTIPLE)
    for name in sys.argv[1:]:
        try:
            CHECKS[name](MPI.COMM_WORLD)
        except BaseException:
            traceback.print_exc()
            MPI.COMM_WORLD.Abort(1)
        if MPI.COMM_WORLD.rank == 0:
            print("passed:", name, flush=True)
    MPI.Finalize()
