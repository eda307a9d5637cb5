"""Collaborative asynchronous advantage actor-critic (CDRL, Algorithm 1). Its line numbers stand in the margin.

    mpirun -n 4 mpi-ltcr train small-cdrl-collaborative

Lines 24, 27 and 31 change weights on the task's server: here their gradients are staged, all of them computed with the
weights of line 3, and leave together with the next exchange. Lines 4 to 32 are of all games that the worker plays side
by side: a rollout holds up to t_max steps of one episode of each, and T counts the steps of all.
"""

from __future__ import annotations

from mpi_ltcr.assembly_ca3c import Worker
from mpi_ltcr.interaction import explore_rollout
from mpi_ltcr.programs.workshop import Workshop


# fmt: off
def ca3c(worker: Worker, workshop: Workshop) -> None:
    """One agent of one task, until its server says stop."""
    agent = worker.agent

    for frames in workshop.exchanges():                                                 #  1 -  3
        rollout, ended = explore_rollout(worker.games, agent, worker.rollout_length)    #  4 - 15
        frames += len(rollout.actions)                                                  # 14
        learned = [agent.learn(rollout)]                                                # 16 - 24

        for lesson in worker.transfers:
            if not lesson.aligning(frames):                                             # 10, 25
                continue
            logits = lesson.logits(rollout)                                             # 11
            aligned = lesson.align(logits)
            learned.append(lesson.align.train(aligned, agent.outputs(rollout).policy))  # 12, 25 - 28
            if lesson.distilling(frames):
                learned.append(agent.mimic(rollout, aligned, lesson.temperature, lesson.layer))  # 29 - 32

        workshop.record(rollout, ended, learned)
# fmt: on
