#!/usr/bin/env bash
# Usage: bash tests/faults/soak.sh MINUTES [RANKS]
# Trains, kills, stops, freezes and resumes at random for so long: jobs of so many ranks under mpirun, both MPIs by turns;
# without RANKS thousands of trainings of one process without mpirun. Every run must end as the one that was left alone,
# and neither the attempts nor a training that is left alone beside them may use more and more memory, but for its log.
# Prints what was done and notes it in soak-team.jsonl or soak-alone.jsonl, for the report; exits with 1 if anything was
# not as expected.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
minutes=${1:?how many minutes} ranks=${2:-} kind=soak-alone
folder=$(mktemp -d)
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=$PWD:$PWD/tests:$PWD/tests/faults
mkdir "$folder/runs"
nice .venv/bin/python tests/faults/scripts/steady.py "$folder" "$minutes" > "$folder/steady.json" &
steady=$!
trap 'kill $steady 2>/dev/null || true; rm -rf "$folder"' EXIT
if [ -n "$ranks" ]; then
    kind=soak-team
    nice .venv/bin/python tests/faults/scripts/team_soak.py "$folder/runs" "$minutes" "$ranks" "$$" > "$folder/found.json"
else
    nice .venv/bin/python tests/faults/scripts/forked.py "$folder/runs" soak "$minutes" "$$" > "$folder/found.json"
fi
wait $steady
rows=tests/faults/$kind.jsonl
: > "$rows"
FAULTS_ROWS=$rows .venv/bin/python tests/faults/scripts/soaked.py "$folder" "$minutes"
