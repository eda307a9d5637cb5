"""LTCR's communication protocol (Phase 2) through the public memory M0 on rank 0.

A round: fresh (s, a) of all agents to M0; the sample Phi_0 back; every agent answers on it; the answers to everybody.
All answers are gathered before anyone updates, so the result does not depend on the order of ranks.
"""

from __future__ import annotations

import numpy as np

from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.interfaces import Agent, EnvSpec, Features, Lesson, Metrics, State
from mpi_ltcr.memory.public import PublicMemory

AVERAGE = -1
"""`Lesson.source` of a row that several teachers gave together."""


class PublicMemoryTransfer:
    """Teammates teach each other on states that any of them has met.

    Args:
        service: the collectives of this team.
        memory: M0 on rank 0, None elsewhere.
        upload_rng: draws which of the explored vectors are uploaded; part of the state.
        round_frames: vectors that an agent explores in one round.
        demonstrations: N, vectors in Phi_0.
        subset: "common": one Phi_0 for all; "per_teacher": each teacher's own.
        target: "peer": each other agent's distributions; "mean": the average over all agents, oneself included.
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
        start: int,
    ) -> None:
        self.service, self.memory, self.upload_rng = service, memory, upload_rng
        self.upload_probability, self.target, self.start = upload_probability, target, start
        self.rounds = 0
        self.last: Metrics = {}
        vectors = np.dtype([("obs", spec.obs_dtype, spec.obs_shape), ("action", "<i8")])
        self._upload = np.zeros((), [("count", "<i8"), ("phi", vectors, (round_frames,))])
        self.teachers = service.size if subset == "per_teacher" else 1
        self._sample = np.zeros((), [("rows", "<i8"), ("phi", vectors, (self.teachers, demonstrations))])

    def exchange(self, agent: Agent, fresh: Features) -> Lesson | None:
        """Collective. One round of Phase 2; None before `start`, or while M0 is empty."""
        sent, received, seconds = self.service.sent, self.service.received, self.service.seconds
        self.rounds += 1
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
        """Upload a share of the fresh vectors; rank 0 appends them in the order of agents."""
        chosen = np.flatnonzero(self.upload_rng.random(len(fresh.action)) < self.upload_probability)
        self._upload["count"] = len(chosen)
        if len(chosen):
            self._upload["phi"]["obs"][: len(chosen)] = fresh.obs[chosen]
            self._upload["phi"]["action"][: len(chosen)] = fresh.action[chosen]
        uploads = self.service.gather(self._upload)
        if self.memory is not None and uploads is not None:
            for upload in uploads:
                phi = upload["phi"][: upload["count"]]
                self.memory.add(Features(phi["obs"], phi["action"]))

    def _communicate(self, agent: Agent) -> tuple[Lesson | None, Metrics]:
        """The lesson, and KL(teammate || self) on its vectors before anyone has learned from it."""
        rows, phi0 = self._draw()
        if rows == 0:
            return None, {}
        me = self.service.agent
        mine = phi0[me] if self.teachers > 1 else phi0[0]
        answers = self.service.allgather(agent.answer(mine))  # (N agents, demonstrations, K)
        others = [i for i in range(self.service.size) if i != me]
        lesson = _concatenate([Lesson(phi0[i % self.teachers], answers[i], _source(i, mine)) for i in others])
        own = np.tile(answers[me], (len(others), 1)) if self.teachers == 1 else agent.answer(lesson.features)
        tally = {"kl_teammates": kl_rows(lesson.target, own), "memory_rows": rows}
        if self.target == "mean":
            return Lesson(mine, answers.mean(0), _source(AVERAGE, mine)), tally
        return lesson, tally

    def _draw(self) -> tuple[int, list[Features]]:
        """Rows of M0, and Phi_0 of each teacher (one for all in "common"), the same on every rank."""
        if self.memory is not None:
            self._sample["rows"] = len(self.memory)
            for phi in self._sample["phi"] if len(self.memory) else ():
                phi["obs"], phi["action"] = self.memory.sample(len(phi))
        sample = self.service.bcast(self._sample)
        phi0 = [Features(np.ascontiguousarray(p["obs"]), np.ascontiguousarray(p["action"])) for p in sample["phi"]]
        return int(sample["rows"]), phi0

    def state(self) -> State:
        """This rank's part; M0 itself is saved apart, by rank 0 (`memory`)."""
        return {"rounds": self.rounds, "upload_rng": self.upload_rng.bit_generator.state}

    def load_state(self, state: State) -> None:
        self.rounds = state["rounds"]
        self.upload_rng.bit_generator.state = state["upload_rng"]


def kl_rows(teacher: np.ndarray, student: np.ndarray) -> float:
    """Mean over rows of KL(teacher || student), (N, K) masses each, in nats. Computed in float64."""
    p, q = teacher.astype(np.float64), student.astype(np.float64)
    tiny = np.finfo(np.float32).tiny
    return float((p * (np.log(np.maximum(p, tiny)) - np.log(np.maximum(q, tiny)))).sum(-1).mean())


def _source(agent: int, features: Features) -> np.ndarray:
    return np.full(len(features.action), agent, np.int64)


def _concatenate(lessons: list[Lesson]) -> Lesson:
    """One lesson with the rows of several."""
    obs = np.concatenate([lesson.features.obs for lesson in lessons])
    action = np.concatenate([lesson.features.action for lesson in lessons])
    target = np.concatenate([lesson.target for lesson in lessons])
    return Lesson(Features(obs, action), target, np.concatenate([lesson.source for lesson in lessons]))
