"""A short real training: where its time goes, and what it costs beside the bare environment and the bare network."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mpi_ltcr import envs, options
from mpi_ltcr.archive.reader import Log, read_logs
from mpi_ltcr.bench.env import bare
from mpi_ltcr.bench.learn import BACKENDS, c51_pieces
from mpi_ltcr.bench.measuring import Asked, Bench, Piece, measure
from mpi_ltcr.config import Config
from mpi_ltcr.programs.job import Job
from mpi_ltcr.programs.ltcr_job import prepare_ltcr
from mpi_ltcr.programs.session import PHASES


def measured(comm: Any, asked: Asked, signals: Any) -> list[Bench]:
    """Collective. `ltcr-cartpole-alone` on one rank, `ltcr-cartpole-9-1` on several, on each backend."""
    preset = asked.preset or ("ltcr-cartpole-alone" if comm.size == 1 else "ltcr-cartpole-9-1")
    config, _ = options.load([preset, "--frames", str(asked.frames)])
    rows = []
    for backend in BACKENDS:
        with tempfile.TemporaryDirectory() as folder:
            agent = dataclasses.replace(config.agent, backend=backend)
            run = Path(folder) / "run"
            job = Job(dataclasses.replace(config, out=str(run), agent=agent))
            cpu, wall = time.process_time(), time.perf_counter()
            job.run(comm, prepare_ltcr, signals)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if comm.rank == 0:
                rows.append(_row(backend, read_logs(run)[0], cpu, wall))
    if comm.rank == 0:
        floor = _floor_s(config, preset, asked)
        for row in rows:
            row["times_floor"] = row["cpu_ms_per_frame"] / (1e3 * floor)
    return [Bench(f"train: {preset}, {asked.frames} frames, {comm.size} ranks; rank 0", rows or [{}])]


def _row(backend: str, log: Log, cpu: float, wall: float) -> dict[str, Any]:
    """Frames per second of CPU and wall time, start-up of the job included; shares of the phases by wall time."""
    perf, exchange = log.table("perf"), log.table("exchange")
    frames = int(perf["frames"][-1])
    seconds = {phase: float(perf[f"{phase}_s"].sum()) for phase in PHASES}
    total = sum(seconds.values())
    in_mpi = float(exchange["comm_s"].sum())
    shares = {phase: seconds[phase] / total for phase in PHASES}
    return {
        "backend": backend,
        "frames_per_cpu_s": frames / cpu,
        "frames_per_wall_s": frames / wall,
        "cpu_ms_per_frame": 1e3 * cpu / frames,
        **{phase: shares[phase] for phase in PHASES},
        "waiting": in_mpi / total,
        "exchange_work": (seconds["communicate"] - in_mpi) / total,
        "memory_mb": float(perf["rss_bytes"][-1]) / 1e6,
    }


def _floor_s(config: Config, preset: str, asked: Asked) -> float:
    """CPU seconds of a frame that no program can do without: a step, a decision, and the updates' passes."""
    environment = Piece("environment", "steps", bare(envs.make(config.env.id, config.env.kwargs).unwrapped))
    acting, learning, *_ = c51_pieces(preset)
    costs = measure([environment, acting, learning], asked)
    updates = config.transfer.cycle / config.round_frames
    step, decision, update = (costs[piece.name].cpu_s for piece in (environment, acting, learning))
    return float(np.sum([step, decision, updates * update]))
