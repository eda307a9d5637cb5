"""LTCR's communication protocol (Phase 2) through the public memory M0.

A round: fresh (s, a) of all agents to M0; the sample Phi_0 back; every agent answers on it, and its students hear it.
All answers are gathered before anyone updates, so the result does not depend on the order of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.interfaces import Agent, EnvSpec, Episode, Features, Lesson, Metrics, State
from mpi_ltcr.memory.public import PublicMemory
from mpi_ltcr.transfer.couriers import Courier, FrameCourier, VectorCourier
from mpi_ltcr.transfer.topology import Topology

AVERAGE = -1
"""`Lesson.source` of a row that several teachers gave together."""
TINY = np.finfo(np.float32).tiny
"""Takes the place of 0 in a logarithm."""


class PublicMemoryTransfer:
    """Teammates teach each other on states that any of them has met.

    Args:
        service: the collectives of this team.
        memory: M0 on rank 0, None elsewhere; of stacked frames a copy on every rank (`couriers.py` says why).
        upload_rng: draws which of the explored vectors are uploaded; part of the state.
        round_frames: vectors that an agent explores in one round.
        demonstrations: N, vectors in Phi_0.
        subset: "common": one Phi_0 for all; "per_teacher": each teacher's own.
        target: "peer": each teacher's distributions; "mean": the average over one's teachers and oneself.
        topology: who teaches whom.
        summed: the average of all comes as one sum (Allreduce), whose size does not grow with the team.
        start: rounds before the first lesson.
    """

    lockstep = True

    def __init__(
        self,
        *,
        service: Service,
        memory: PublicMemory | None,
        spec: EnvSpec,
        upload_rng: np.random.Generator,
        round_frames: int,
        demonstrations: int,
        upload_probability: float,
        subset: str,
        target: str,
        topology: Topology,
        summed: bool,
        start: int,
    ) -> None:
        self.service, self.upload_rng = service, upload_rng
        self.upload_probability, self.target, self.start = upload_probability, target, start
        self.topology, self.summed = topology, summed
        self.rounds = 0
        self.last: Metrics = {}
        self.samples = service.size if subset == "per_teacher" else 1
        sizes = {"most": round_frames, "samples": self.samples, "demonstrations": demonstrations}
        self.courier: Courier
        if spec.stacked:
            assert memory is not None
            self.courier = FrameCourier(service=service, memory=memory, spec=spec, **sizes)
        else:
            self.courier = VectorCourier(service=service, memory=memory, spec=spec, ranked=topology.ranked, **sizes)

    def exchange(self, agent: Agent, fresh: Features, episodes: Iterable[Episode] = ()) -> Lesson | None:
        """Collective. One round of Phase 2; None before `start`, or while M0 is empty."""
        sent, received, seconds = self.service.sent, self.service.received, self.service.seconds
        self.rounds += 1
        self.topology.note(episodes)
        self._fill_memory(fresh)
        lesson, tally = self._communicate(agent) if self.rounds > self.start else (None, {})
        self.last = {
            "round": self.rounds,
            "demonstrations": 0 if lesson is None else len(lesson.source),
            "bytes_sent": self.service.sent - sent,
            "bytes_received": self.service.received - received,
            "comm_s": self.service.seconds - seconds,
            **tally,
        }
        return lesson

    def _fill_memory(self, fresh: Features) -> None:
        """Upload a share of the fresh vectors."""
        chosen = self.upload_rng.random(len(fresh.action)) < self.upload_probability
        self.courier.upload(Features(fresh.obs[chosen], fresh.action[chosen]), self.topology.recent)

    def _communicate(self, agent: Agent) -> tuple[Lesson | None, Metrics]:
        """The lesson, and KL(teacher || self) on its vectors before anyone has learned from it."""
        rows, returns, phi0 = self.courier.draw()
        if rows == 0:
            return None, {}
        me = self.service.agent
        mine = phi0[me % self.samples]
        answer = agent.answer(mine)  # (demonstrations, K)
        if self.summed:
            mean, kl = average_of_all(self.service, answer)
            return Lesson(mine, mean, _source(AVERAGE, mine)), {"kl_teammates": kl, "memory_rows": rows}
        table = self.topology.teachers(returns)
        teachers, heard = table[me], self._hear(answer, table)
        lesson = _concatenate(
            [Lesson(phi0[i % self.samples], z, _source(i, mine)) for i, z in zip(teachers, heard, strict=True)]
        )
        own = answer if self.samples == 1 else agent.answer(lesson.features).reshape(heard.shape)
        tally = {"kl_teammates": kl_rows(heard, own), "memory_rows": rows}
        if self.target == "mean":
            voices = np.insert(heard, np.searchsorted(teachers, me), answer, axis=0)  # in the order of agents
            return Lesson(mine, voices.mean(0), _source(AVERAGE, mine)), tally
        return lesson, tally

    def _hear(self, answer: np.ndarray, table: np.ndarray) -> np.ndarray:
        """The answers of this agent's teachers, (k, demonstrations, K)."""
        if self.topology.name == "all":
            return self.service.allgather(answer)[table[self.service.agent]]
        return self.service.hear(answer, table)

    def state(self) -> State:
        """This rank's part; M0 itself is saved apart, by rank 0 (`memory`)."""
        return {
            "rounds": self.rounds,
            "upload_rng": self.upload_rng.bit_generator.state,
            **self.topology.state(),
        }

    def load_state(self, state: State) -> None:
        self.rounds = state["rounds"]
        self.upload_rng.bit_generator.state = state["upload_rng"]
        self.topology.load_state(state)


def kl_rows(teacher: np.ndarray, student: np.ndarray) -> float:
    """Mean over rows of KL(teacher || student), (.., N, K) masses each, in nats. Summed in float64."""
    terms = teacher * np.log(_positive(teacher) / _positive(student))
    return float(terms.sum(dtype=np.float64) / (terms.size // terms.shape[-1]))


def average_of_all(service: Service, answer: np.ndarray) -> tuple[np.ndarray, float]:
    """Collective. The mean of all agents' masses (N, K) in one sum, and the mean of `kl_rows(teammate, self)`.

    The second needs no teammate's own masses: sum_i KL(Z_i || Z) = sum_i Z_i log Z_i - (sum_i Z_i) log Z, of which
    the first term is one number more in the sum.
    """
    own = answer.astype(np.float64)
    unit = np.log(own.shape[-1])  # the largest entropy: a sum holds numbers of about one
    logs = np.log(_positive(own))
    entropy = float((own * logs).sum(-1).mean())
    sums = service.total(np.append(own, entropy / unit))
    masses, entropies = sums[:-1].reshape(own.shape), float(sums[-1]) * unit
    cross = float(((masses - own) * logs).sum(-1).mean())
    kl = max(0.0, entropies - entropy - cross) / (service.size - 1)
    return (masses / service.size).astype(answer.dtype), kl


def _positive(masses: np.ndarray) -> np.ndarray:
    """So that 0 log 0 = 0."""
    return np.maximum(masses, TINY)


def _source(agent: int, features: Features) -> np.ndarray:
    return np.full(len(features.action), agent, np.int64)


def _concatenate(lessons: list[Lesson]) -> Lesson:
    """One lesson with the rows of several."""
    if len(lessons) == 1:
        return lessons[0]
    obs = np.concatenate([lesson.features.obs for lesson in lessons])
    action = np.concatenate([lesson.features.action for lesson in lessons])
    target = np.concatenate([lesson.target for lesson in lessons])
    return Lesson(Features(obs, action), target, np.concatenate([lesson.source for lesson in lessons]))
