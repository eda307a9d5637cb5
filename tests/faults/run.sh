#!/usr/bin/env bash
# Usage: bash tests/faults/run.sh [PYTEST ARGUMENT ...]
# The whole fault suite (tests/run.sh has a sample of it), and its report, tests/faults/REPORT.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT
code=0
FAULTS=all FAULTS_ROWS=$rows .venv/bin/python -m pytest -rs -m fault tests --ignore tests/slurm "$@" || code=$?
# A soak takes an hour, and SLURM needs root: their rows are those of the last time, with its date (soak.sh;
# ../slurm/run.sh all).
.venv/bin/python tests/fault_report.py "$rows" tests/faults/soak-*.jsonl tests/slurm/slow.jsonl > tests/faults/REPORT.md
exit "$code"
