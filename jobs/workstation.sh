#!/usr/bin/env bash
# Train on this machine, from nothing: installs once, then runs under mpirun. Ctrl-C saves; `mpi-ltcr resume` goes on.
#
#   bash jobs/workstation.sh                                   two agents that teach each other on CartPole, two that
#                                                              learn alone, and the figure that compares them
#   bash jobs/workstation.sh PRESET -n N [--FIELD VALUE ...]   any preset (`.venv/bin/mpi-ltcr presets`) on N ranks
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$here/jobs/install.sh" mpich,analysis
bin=$here/.venv/bin

if [ $# -gt 0 ]; then
    preset=$1
    shift
    ranks=2
    if [ "${1:-}" = "-n" ]; then
        ranks=${2:?"-n needs the number of ranks"}
        shift 2
    fi
    exec "$bin/mpi-ltcr" launch -n "$ranks" -- train "$preset" "$@"
fi

folder=$here/runs/demo-$(date +%Y%m%d-%H%M%S)
for preset in ltcr-cartpole-9-1 ltcr-cartpole-alone; do
    "$bin/mpi-ltcr" launch -n 2 -- train "$preset" --out "$folder/$preset" \
        --frames 12000 --agent.epsilon_frames 4000 --agent.backend fused
done
"$bin/python" "$here/analysis/learning_curve.py" "$folder"/ltcr-cartpole-* -o "$folder/learning_curve.png"
