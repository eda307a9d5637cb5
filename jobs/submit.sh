#!/usr/bin/env bash
# sbatch with the settings of jobs/site.sh, and without hours in the queue for a typing error:
#
#   bash jobs/submit.sh jobs/train.sbatch ltcr-cartpole-9-1 --seed 2
#   bash jobs/submit.sh --qos long -n 4 jobs/seeds.sbatch ltcr-space-battle-4v4-9-1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=jobs/site.sh
source jobs/site.sh

read -ra own <<< "$SBATCH_OPTIONS"
[ -z "$PARTITION" ] || own+=("--partition=$PARTITION")
[ -z "$ACCOUNT" ] || own+=("--account=$ACCOUNT")
[ "$GPUS_PER_TASK" = 0 ] || own+=("--gpus-per-task=$GPUS_PER_TASK")

asked=("$@") tasks=
while [ $# -gt 0 ] && [[ $1 != *.sbatch ]]; do
    case $1 in
    -n | --ntasks) tasks=${2:-} ;;
    -n*) tasks=${1#-n} ;;
    --ntasks=*) tasks=${1#--ntasks=} ;;
    esac
    shift
done
if [ $# -lt 2 ] || [ ! -e "$1" ]; then
    echo "submit: name a batch file and a preset: bash jobs/submit.sh jobs/train.sbatch ltcr-cartpole-9-1" >&2
    exit 2
fi
if [ ! -x "$VENV/bin/mpi-ltcr" ]; then
    echo "submit: no mpi-ltcr in $VENV: bash jobs/install.sh mpich makes one, or set VENV in jobs/site.sh" >&2
    exit 2
fi
tasks=${tasks:-$(sed -n 's/^#SBATCH --ntasks=//p' "$1")}
preset=$2
shift 2
# A teacher that another job is still training cannot be looked at yet: `--dependency` postpones the check to the job.
if [[ " ${asked[*]} " != *" --dependency"* ]]; then
    # As one of so many ranks would: a team of another size is refused here, too.
    PMI_SIZE=$tasks "$VENV/bin/mpi-ltcr" train "$preset" "$@" --plan >/dev/null
fi
exec sbatch ${own[@]+"${own[@]}"} "${asked[@]}"
