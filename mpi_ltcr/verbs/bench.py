"""`mpi-ltcr bench`: what is measured, and with how much patience; refused before MPI starts if it cannot be."""

from __future__ import annotations

from typing import Any

from mpi_ltcr import options
from mpi_ltcr.bench import PARTS, run_parts
from mpi_ltcr.bench.measuring import Asked
from mpi_ltcr.comm import launch, runtime
from mpi_ltcr.config import require
from mpi_ltcr.verbs.checks import Parser, check_env, complain


def bench(arguments: list[str]) -> None:
    """Measure this program's own pieces beside the bare environment, network and MPI calls, in the same run."""
    parser = Parser("mpi-ltcr bench", description=bench.__doc__)
    known = ", ".join(PARTS)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{known} (default: all; comm under mpirun)")
    parser.add_argument("--preset", help="of LTCR, for learn and train")
    parser.add_argument("--seconds", type=float, default=0.3, help="CPU time of each measurement (default 0.3)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each piece (default 5)")
    parser.add_argument("--frames", type=int, default=3000, help="of the training in train (default 3000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = vars(parser.parse_args(arguments))
    parts = asked.pop("parts") or [part for part in PARTS if part != "comm" or launch.size() > 1]
    for part in parts:
        require(part in PARTS, f"bench: {part} is no part; take some of {known}")
    require(
        "comm" not in parts or launch.size() > 1,
        "bench: comm needs teammates, 1 rank started; use mpirun -n 4 mpi-ltcr bench comm",
    )
    require(0 < asked["seconds"] <= 60, f"--seconds: {asked['seconds']} is no time to measure in; take 0.01 to 60")
    require(asked["repeats"] > 0, f"--repeats: {asked['repeats']} measures nothing; take at least 1")
    if asked["preset"] is not None:
        options.preset_path(asked["preset"])
    if "train" in parts or "learn" in parts:
        name = asked["preset"] or ("ltcr-cartpole-9-1" if launch.size() > 1 else "ltcr-cartpole-alone")
        config, _ = options.load([name, "--frames", str(asked["frames"])])
        require(config.program == "ltcr", f"--preset: {name} is of {config.program}; take one of LTCR")
        if "train" in parts:
            config.check_team(launch.size())
        check_env(config)
    run_bench(parts, asked)


def run_bench(parts: list[str], asked: dict[str, Any]) -> None:
    """Start MPI, measure, and leave in order."""
    code, signals = runtime.COMPLETED, runtime.StopSignals()
    try:
        run_parts(runtime.start(), parts, Asked(**asked), signals)
    except runtime.JobError as error:
        complain(str(error))
        code = error.code
    runtime.leave(code)
