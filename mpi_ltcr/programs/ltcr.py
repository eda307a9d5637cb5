"""Learning and Teaching Categorical Reinforcement (LTCR, Figure 1), as it runs on each rank.

mpirun -n 2 mpi-ltcr train ltcr-cartpole-9-1
mpirun -n 2 mpi-ltcr train ltcr-cartpole-alone
"""

from __future__ import annotations

from mpi_ltcr.assembly import Member
from mpi_ltcr.config import Config
from mpi_ltcr.interaction import explore
from mpi_ltcr.programs.session import Session


def ltcr(config: Config, member: Member, session: Session) -> None:
    """Collective. The iteration of the four phases, until the frames are used up or the job is asked to stop."""
    agent, loop, transfer, ratio = member.agent, member.loop, member.transfer, config.transfer

    for turn in session.rounds():
        with turn.phase("explore"):
            # Phase 1. Each student explores the environment into its private experience buffer.
            fresh, episodes = explore(loop, agent, config.round_frames)

        with turn.phase("communicate"):
            # Phase 2. Feature vectors to M0, a subset of it back, everyone's distributions on it to their students.
            lesson = transfer.exchange(agent, fresh, episodes)

        with turn.phase("digest"):
            # Phase 3. Distil the teammates' distributions, Eq. 6. (No lesson: learning alone, or too early.)
            digested = [agent.mimic(lesson) for _ in range(ratio.digest_slots)] if lesson else []

        with turn.phase("revisit"):
            # Phase 4. Train on private experience, Eq. 3.
            revisited = [agent.revisit() for _ in range(ratio.revisit_slots)]

        turn.record(episodes, transfer.last, digested, revisited)
