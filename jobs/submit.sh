#!/usr/bin/env bash
# sbatch with the settings of jobs/site.sh, and without hours in the queue for a typing error:
#
#   bash jobs/submit.sh jobs/train.sbatch ltcr-cartpole-9-1 --seed 2
#   bash jobs/submit.sh --qos long -n 4 jobs/seeds.sbatch ltcr-space-battle-4v4-9-1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=jobs/site.sh
source jobs/site.sh

own=()
[ -z "$PARTITION" ] || own+=("--partition=$PARTITION")
[ -z "$ACCOUNT" ] || own+=("--account=$ACCOUNT")
[ "$GPUS_PER_TASK" = 0 ] || own+=("--gpus-per-task=$GPUS_PER_TASK")

asked=("$@")
while [ $# -gt 0 ] && [[ $1 != *.sbatch ]]; do
    shift
done
if [ $# -lt 2 ]; then
    echo "submit: name a batch file and a preset: bash jobs/submit.sh jobs/train.sbatch ltcr-cartpole-9-1" >&2
    exit 2
fi
preset=$2
shift 2
# A teacher that another job is still training cannot be looked at yet: `--dependency` postpones the check to the job.
if [[ " ${asked[*]} " != *" --dependency"* ]]; then
    "$VENV/bin/mpi-ltcr" train "$preset" "$@" --plan >/dev/null
fi
exec sbatch ${own[@]+"${own[@]}"} "${asked[@]}"
