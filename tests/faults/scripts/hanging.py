"""A user's environment that stops a rank in its tracks: CartPole as `--env.id hanging:Hanging-v0`.

HANG=kind:rank:step     kinds:
    sleep (file `asleep` tells), spin (a busy loop that holds Python's lock), read (of a pipe to which nobody writes)
    slow, pause (once, for 8 s)
    disk (a slow one, of STEP KiB a second)
    skip (one exchange fewer), other (another collective than the others')
    init, finalize (MPI's own start and end, which hold Python's lock)
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import gymnasium
import numpy as np

from mpi_ltcr.archive import atomic
from mpi_ltcr.comm import launch, runtime
from mpi_ltcr.comm.pulse import pulse
from mpi_ltcr.envs.cartpole import CartPole15
from mpi_ltcr.transfer.public_memory import PublicMemoryTransfer

KIND, RANK, STEP = os.environ.get("HANG", "none:0:0").split(":")
MINE = launch.rank() == int(RANK)


def spin(*_):
    re.match(r"(a|a)*b", "a" * 64)  # in C, without ever letting go of the lock


class Hanging(CartPole15):
    """Does it at its training step number STEP."""

    steps = 0

    def step(self, action):
        Hanging.steps += pulse.phase == "explore"  # and not while probe states are drawn, or in evaluations
        if MINE and KIND == "slow":
            time.sleep(0.04)
        if MINE and Hanging.steps == int(STEP) and KIND in ("sleep", "pause"):
            Hanging.steps += 1
            Path("asleep").touch()
            time.sleep({"sleep": 600, "pause": 8}[KIND])
        if MINE and Hanging.steps == int(STEP) and KIND == "spin":
            spin()
        if MINE and Hanging.steps == int(STEP) and KIND == "read":
            os.mkfifo(f"pipe{os.getpid()}")
            Path(f"pipe{os.getpid()}").read_text()
        return super().step(action)


gymnasium.register("Hanging-v0", Hanging, max_episode_steps=200)


def skipping(original):
    def exchange(self, *asked):
        if self.rounds == int(STEP) and KIND == "skip":
            self.rounds += 1
            return None
        return original(self, *asked)

    return exchange


def straying(original):
    def exchange(self, *asked):
        if self.rounds == int(STEP) and KIND == "other":
            self.service.allgather(np.zeros(3))
        return original(self, *asked)

    return exchange


def slow_disk(kib, fsync=os.fsync):
    """What a file has gained since it was last synced takes its time."""
    synced: dict[int, int] = {}

    def slowed(descriptor):
        status = os.fstat(descriptor)
        if status.st_size < synced.get(status.st_ino, 0):  # another file of an old one's number
            del synced[status.st_ino]
        time.sleep((status.st_size - synced.get(status.st_ino, 0)) / (1024 * kib))
        synced[status.st_ino] = status.st_size
        fsync(descriptor)

    return slowed


if MINE and KIND == "disk":
    os.fsync, atomic.STRIDE = slow_disk(int(STEP)), 16_384
if KIND == "init":
    runtime.START_S = 3.0
    runtime.MPI.Init_thread = spin if MINE else runtime.MPI.Init_thread
if KIND == "finalize":
    runtime.FINALIZE_S = 3.0
    runtime.MPI.Finalize = spin if MINE else runtime.MPI.Finalize
if MINE:
    PublicMemoryTransfer.exchange = skipping(straying(PublicMemoryTransfer.exchange))
