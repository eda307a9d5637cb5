#!/usr/bin/env bash
# Submits the CDRL paper's experiments (Fig. 3 to 6): first the certificated teachers, then what learns from them.
#
#   bash jobs/cdrl.sh            the paper's sizes
#   bash jobs/cdrl.sh small-     their twins for two cores, in minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
small=${1:-}
one=9 two=18 # ranks of a run with one task, with two
if [ -n "$small" ]; then
    one=2 two=4
fi

# submit_after JOBS RANKS NAME: prints the number of the job. One that waits to be requeued has not ended.
submit_after() {
    local preset=$small$3
    bash jobs/submit.sh --parsable ${1:+"--dependency=afterok:$1"} -n "$2" jobs/ca3c.sbatch "$preset" --out "runs/$preset"
}

pong=$(submit_after "" "$one" a3c-pong)
bowling=$(submit_after "" "$one" a3c-bowling)
align=$(submit_after "$pong:$bowling" 1 cdrl-offline-align)
for name in cdrl-kd-gae cdrl-kd-policy cdrl-kd-distill cdrl-online-1 cdrl-online-2; do
    submit_after "$pong" "$one" "$name"
done
submit_after "$align" "$one" cdrl-offline
for name in cdrl-kd-only cdrl-collaborative; do
    submit_after "" "$two" "$name"
done
