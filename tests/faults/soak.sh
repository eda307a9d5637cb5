#!/usr/bin/env bash
# Usage: bash tests/faults/soak.sh MINUTES
# Trains, kills, stops, freezes and resumes at random for so long. Every run must end as the one that was left alone, and
# the attempts must not use more and more memory. Prints what was done; exits with 1 if anything was not as expected.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
minutes=${1:?how many minutes}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD:$PWD/tests
mkdir "$folder/runs"
nice .venv/bin/python tests/faults/scripts/forked.py "$folder/runs" soak "$minutes" "$$" > "$folder/found.json"
.venv/bin/python - "$folder/found.json" <<'PYTHON'
import json
import statistics
import sys

found = json.load(open(sys.argv[1]))
rss = found["rss_mb"]
quarter = max(1, len(rss) // 4)
first, last = statistics.median(rss[:quarter]), statistics.median(rss[-quarter:])
print(f"{found['signals']} signals in {len(rss)} attempts of {found['runs']} runs; {found['equal']} runs equal the whole one")
print(f"most memory of an attempt: {first:.0f} MB in the first quarter, {last:.0f} MB in the last")
for line in found["unexpected"]:
    print("unexpected:", line)
sys.exit(bool(found["unexpected"]) or found["equal"] != found["runs"] or last > 1.1 * first)
PYTHON
