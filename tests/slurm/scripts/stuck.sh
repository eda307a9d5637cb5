#!/usr/bin/env bash
# Plays mpi-ltcr: the first start saves at frame 100, later ones get no further; all say that they were stopped.
set -euo pipefail
if [ "$1" = status ]; then
    exit 85
fi
run=$2
if [ "$1" = train ]; then
    run=${*: -1}
    mkdir -p "$run/checkpoints/step_000000100"
    touch "$run/config.yaml" "$run/status.json"
fi
exit 85
