"""Train with the agents in another order of ranks: `mpirun -n 3 python permuted.py 2,0,1 ARGUMENTS OF TRAIN`.

Rank 0 then plays agent 2 (and keeps M0, as rank 0 always does), rank 1 agent 0, and rank 2 agent 1.
"""

from __future__ import annotations

import functools
import sys

from mpi_ltcr import options
from mpi_ltcr.comm import runtime
from mpi_ltcr.comm.roles import Role
from mpi_ltcr.programs.job import Job
from mpi_ltcr.programs.ltcr_job import prepare_ltcr

if __name__ == "__main__":
    order = [int(agent) for agent in sys.argv[1].split(",")]
    config, _ = options.load(sys.argv[2:])
    roles = [Role(rank, agent, keeps_memory=rank == 0) for rank, agent in enumerate(order)]
    prepare = functools.partial(prepare_ltcr, roles=lambda size: roles)
    Job(config=config).run(runtime.start(), prepare, runtime.StopSignals())
    runtime.leave(0)
