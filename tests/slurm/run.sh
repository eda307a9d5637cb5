#!/usr/bin/env bash
# Usage: bash tests/slurm/run.sh [all]
# The batch files under a real SLURM on this machine, which needs root and Debian. `all`: the slow proofs too, and what
# they prove is noted in slow.jsonl as rows of the fault report (tests/fault_report.py).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export SLURM_TESTS=${1:-}
if [ "$SLURM_TESTS" = all ]; then
    export FAULTS_ROWS=$PWD/tests/slurm/slow.jsonl
    : > "$FAULTS_ROWS"
fi
exec .venv/bin/python -m pytest -rs -v --durations=0 tests/slurm
