"""--plan: who does what, where, and how much is sent and saved; nothing is started."""

from __future__ import annotations

import numpy as np

from mpi_ltcr import assembly, assembly_agents
from mpi_ltcr import assembly_ca3c as ca3c
from mpi_ltcr.comm.collectives import HEADER, TAIL
from mpi_ltcr.comm.roles import ca3c_roles, ltcr_roles
from mpi_ltcr.comm.wire import REPLY_HEADER, REQUEST_HEADER
from mpi_ltcr.config import CA3CConfig, Config, TaskConfig
from mpi_ltcr.devices import torch_device
from mpi_ltcr.interfaces import EnvSpec
from mpi_ltcr.programs.needs import PARAMETER_BYTES, spec_of


def describe_ltcr(config: Config, size: int) -> str:
    """The plan of an LTCR run on `size` ranks, as text. Sizes are in bytes, computed from shapes."""
    if size == 1 and config.transfer.method != "none":
        few = config.transfer.k + 1 if config.transfer.topology.endswith("-k") else 2
        size = len(config.agents) or max(2, few)  # --plan is asked for without mpirun: the paper's team
    spec = spec_of(config)
    lines = [f"{config.name}: {config.frames} frames, {size} agents, {config.env.id}"]
    saved = 0
    for role in ltcr_roles(size):
        settings, need = config.agent_of(role.agent), assembly.memory_need(config, spec, role)
        parameters = assembly_agents.parameters_of(settings, spec)
        saved += PARAMETER_BYTES * parameters + need
        device = torch_device(config.device_of(role.agent), role.rank)
        memory = ", keeps M0" if role.keeps_memory and config.transfer.method != "none" else ""
        what = f"{parameters} parameters, {need / 1e6:.1f} MB of memories"
        lines.append(f"  rank {role.rank}: agent {role.agent}, {what}, {device}{memory}")
    t = config.transfer
    if t.method == "none":
        lines.append("  round: nothing is exchanged")
    else:
        messages = _ltcr_messages(config, size, spec)
        lines.append(f"  round of {config.round_frames} frames: {t.revisit_slots} Revisit, {t.digest_slots} Digest")
        lines += [f"    {name}: {bytes_} bytes from each sender" for name, bytes_ in messages.items()]
    once = ", of frames only those that are new" if spec.stacked else ""
    lines.append(f"  checkpoint: at most {saved / 1e6:.1f} MB, every {config.checkpoint.every} frames{once}")
    lines.append(f"  start it: mpirun -n {size} mpi-ltcr train ...")
    return "\n".join(lines) + "\n"


def _ltcr_messages(config: Config, size: int, spec: EnvSpec) -> dict[str, int]:
    """Bytes of each message of a round, from its sender."""
    t = config.transfer
    itemsize = np.dtype(spec.obs_dtype).itemsize
    phi = int(np.prod(spec.obs_shape)) * itemsize + 8
    teachers = size if t.subset == "per_teacher" else 1
    returns = 8 if t.topology == "best-k" else 0
    masses = t.demonstrations * (config.agent.atoms if t.lesson == "values" else spec.num_actions)
    way = {
        "all": "allgather of distributions",
        "ring": "distributions to the next agent",
        "random-k": f"distributions to each student ({t.k} teachers each)",
        "best-k": f"distributions to each student ({t.k} teachers each)",
    }[t.topology]
    answers = (way, HEADER.size + 4 * masses)
    if t.exchange == "allreduce":
        answers = ("sum of distributions", 8 * (masses + 1 + TAIL))
    if spec.stacked:
        stack, *frame = spec.obs_shape
        frames = (config.round_frames + stack - 1) * int(np.prod(frame)) * itemsize
        rows = config.round_frames * (4 * stack + 8)
        return {"allgather of frames, of one episode": HEADER.size + frames + rows, answers[0]: answers[1]}
    return {
        "gather of features": HEADER.size + 8 + returns + config.round_frames * phi,
        "bcast of the sample": HEADER.size + 8 + size * returns + teachers * t.demonstrations * phi,
        answers[0]: answers[1],
    }


def describe_ca3c(config: CA3CConfig, size: int) -> str:
    """The plan of a cA3C run; it tells the number of ranks that it needs, whatever `size` is."""
    lines = [f"{config.name}: {config.frames} frames of each task, {config.ranks} ranks"]
    roles = ca3c_roles([config.workers_of(t) for t in config.tasks], shared=config.server == "shared")
    stores = []
    for number, task in enumerate(config.tasks):
        teachings = [ca3c.load_teaching(config, task, teacher) for teacher in task.teachers]
        stores.append(ca3c.build_store(config, number, teachings))
    for role in roles:
        task = config.tasks[role.task]
        part = ["serves"] if role.serves else []
        games = f" in {task.env.copies} games" if task.env.copies > 1 else ""
        part += [] if role.worker is None else [f"worker {role.worker}{games}{_lessons(task)}"]
        lines.append(f"  rank {role.rank}: {task.name} ({task.env.id}), {' and '.join(part)}")
    saved = 0
    for task, store in zip(config.tasks, stores, strict=True):
        saved += 4 * (len(store.values) + 2 * sum(store.sizes.values()))
        down = REPLY_HEADER.itemsize + store.values.nbytes
        up = ", ".join(f"{REQUEST_HEADER.itemsize + 4 * n} with {kind}" for kind, n in store.sizes.items())
        lines.append(f"  {task.name}: {store.network} parameters; {down} bytes to a worker, back: {up}")
    lines.append(f"  checkpoints: {saved / 1e6:.1f} MB, every {config.checkpoint.every} frames of a task")
    lines.append(f"  start it: mpirun -n {config.ranks} mpi-ltcr train ...")
    return "\n".join(lines) + "\n"


def _lessons(task: TaskConfig) -> str:
    """From whom a task's workers learn, and when."""
    words = ""
    for t in task.teachers:
        end = "" if t.t_stop is None else f" until {t.t_stop}"
        words += f", learns from {t.task} ({t.checkpoint or 'its newest weights'}; T1 {t.t1}, T2 {t.t2}{end})"
    return words
