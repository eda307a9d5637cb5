"""A user's module that goes wrong: CartPole as `--env.id faulty:Faulty-v0`, and a fault in one rank's training.

    FAULT=kind:place:rank:call    e.g. raise:digest:1:3 = an exception at rank 1's third Digest; rank * = every rank
    FAULT_FOLDER                  `struck-R` is written there at the moment of the fault, `received-R` by each Allgather

Gymnasium imports it on every rank, however the job was launched.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

if os.environ["FAULT"].startswith("import:"):
    raise AttributeError("the user's module is broken")

import gymnasium
import numpy as np

from mpi_ltcr.agents.c51 import C51Agent
from mpi_ltcr.archive import checkpoint, regroup
from mpi_ltcr.comm import launch
from mpi_ltcr.comm.collectives import Service
from mpi_ltcr.envs.cartpole import CartPole15
from mpi_ltcr.interaction import EnvLoop
from mpi_ltcr.transfer.public_memory import PublicMemoryTransfer

gymnasium.register("Faulty-v0", "mpi_ltcr.envs.cartpole:CartPole15", max_episode_steps=200)

PLACES = {
    "start": (EnvLoop, "__init__"),
    "explore": (C51Agent, "observe"),
    "communicate": (PublicMemoryTransfer, "exchange"),
    "digest": (C51Agent, "mimic"),
    "revisit": (C51Agent, "revisit"),
    "evaluate": (C51Agent, "player"),
    "archive": (checkpoint, "write_file"),
    "step": (CartPole15, "step"),
    "keep": (regroup, "keep_old_team"),
    "commit": (checkpoint, "commit"),
    "settle": (regroup, "settle"),
}
KIND, PLACE, RANK, CALL = os.environ["FAULT"].split(":")
FOLDER = Path(os.environ["FAULT_FOLDER"])


def fail() -> None:
    raise LookupError("the injected fault")


class Fragile:
    def __del__(self) -> None:
        fail()


def in_thread() -> None:
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def at_exit() -> None:
    atexit.register(fail)


def out_of_memory() -> None:
    raise MemoryError


def disk_fails() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def loss_becomes_nan(agent: C51Agent, *_: Any) -> None:
    agent.replay.store.ring.data["reward"][:] = math.nan


def weights_become_nan(agent: C51Agent, *_: Any) -> None:
    agent.flat.values.detach()[:] = math.nan


def step_with(**changed: Any) -> Any:
    """A step of the environment that returns something else in place of its observation or reward."""
    return lambda *_: lambda result: (changed.get("obs", result[0]), changed.get("reward", result[1]), *result[2:])


KINDS = {
    "raise": lambda *_: fail(),
    "thread": lambda *_: in_thread(),
    "destructor": lambda *_: Fragile(),
    "atexit": lambda *_: at_exit(),
    "memory": lambda *_: out_of_memory(),
    "eio": lambda *_: disk_fails(),
    "exit0": lambda *_: sys.exit(0),
    "exit3": lambda *_: sys.exit(3),
    "_exit0": lambda *_: os._exit(0),
    "kill": lambda *_: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda *_: ctypes.string_at(0),
    "nan-loss": loss_becomes_nan,
    "nan-weights": weights_become_nan,
    "none": lambda *_: None,
    "nan-reward": step_with(reward=math.nan),
    "inf-reward": step_with(reward=math.inf),
    "wrong-shape": step_with(obs=np.zeros(3, np.float32)),
    "wrong-dtype": step_with(obs=np.zeros(4)),
    "outside": step_with(obs=np.full(4, 9, np.float32)),
}


def arm() -> None:
    """Wrap the place: its `CALL`-th call strikes, those before it and after it are as they were."""
    owner, name = PLACES[PLACE]
    original = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(CALL):
            (FOLDER / f"struck-{launch.rank()}").write_text(repr(time.time()))
            change = KINDS[KIND](*args)
            if callable(change):
                return change(original(*args, **kwargs))
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def watch_lessons() -> None:
    """Write down how many numbers came in by Allgather, and how many of them were not finite."""
    original = Service.allgather

    def wrapped(self: Service, payload: np.ndarray) -> np.ndarray:
        box = original(self, payload)
        if box.dtype.kind == "f":
            with open(FOLDER / f"received-{launch.rank()}", "a") as file:
                file.write(f"{box.size} {int((~np.isfinite(box)).sum())}\n")
        return box

    Service.allgather = wrapped


watch_lessons()
if RANK in (str(launch.rank()), "*"):
    arm()
