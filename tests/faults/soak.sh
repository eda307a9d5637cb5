#!/usr/bin/env bash
# Usage: bash tests/faults/soak.sh MINUTES
# Trains, kills, stops, freezes and resumes at random for so long. Every run must end as the one that was left alone, and
# the attempts must not use more and more memory; nor must a training that is left alone beside them, but for its log.
# Prints what was done and notes it in soak.jsonl, for the report; exits with 1 if anything was not as expected.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
minutes=${1:?how many minutes}
folder=$(mktemp -d)
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD:$PWD/tests
mkdir "$folder/runs"
nice .venv/bin/python tests/faults/scripts/steady.py "$folder" "$minutes" > "$folder/steady.json" &
steady=$!
trap 'kill $steady 2>/dev/null || true; rm -rf "$folder"' EXIT
nice .venv/bin/python tests/faults/scripts/forked.py "$folder/runs" soak "$minutes" "$$" > "$folder/found.json"
wait $steady
exec 3> tests/faults/soak.jsonl
FAULTS_ROWS=/dev/fd/3 .venv/bin/python tests/faults/scripts/soaked.py "$folder" "$minutes"
