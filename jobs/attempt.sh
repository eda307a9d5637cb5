#!/usr/bin/env bash
# What every batch file does: train, or go on with a run that is there; at the time limit save, and requeue if that makes
# sense. Sourced by the batch files, in the folder that the job was submitted from (the root of the repository).
#
# `--signal=B:USR1@180` reaches this shell alone, three minutes before the time limit. It hands USR1 to the launcher,
# and both mpirun and srun hand it to every rank. (USR2 would kill MPICH's mpirun and the ranks with it.)
set -euo pipefail
# shellcheck source=jobs/site.sh
source jobs/site.sh
export PATH=$VENV/bin:$PATH

launcher=   # process id of srun or mpirun
stopping=   # the time limit is near
cancelled=  # SLURM ends the job itself: it is not for us to requeue it

# Open MPI's files of this attempt: what a killed mpirun leaves in /tmp stops another one of the same process number.
session=$(mktemp -d)

trap 'rm -rf "$session"' EXIT
trap 'stopping=yes; pass_on' USR1
trap 'cancelled=yes; pass_on' TERM

pass_on() {
    [ -z "$launcher" ] || kill -USR1 "$launcher" 2>/dev/null || true
}

say() {
    echo "jobs: $*" >&2
}

# launch COMMAND ...: one process per task of the job. Run in the background; becomes the launcher.
launch() {
    local options=()
    if [ "$LAUNCH" = mpirun ]; then
        PRTE_MCA_prte_local_tmpdir_base=$session exec mpirun -n "$SLURM_NTASKS" "$@"
    fi
    [ "$GPUS_PER_TASK" = 0 ] || options+=("--gpus-per-task=$GPUS_PER_TASK")
    [ -z "${SLURM_CPUS_PER_TASK:-}" ] || options+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
    exec srun --mpi="$SRUN_MPI" ${options[@]+"${options[@]}"} "$@"
}

# follow PID: wait for its end, through any number of signals, and return its exit code.
follow() {
    local code
    launcher=$1
    [ -z "$stopping$cancelled" ] || pass_on # a signal that came before there was a launcher
    while true; do
        code=0
        wait "$launcher" || code=$?
        kill -0 "$launcher" 2>/dev/null || break
    done
    launcher=
    return "$code"
}

# saved_frames RUN: the frame of its newest checkpoint (cA3C: of each task, added up); 0 where there is none.
saved_frames() {
    { compgen -G "$1/checkpoints/step_*" || true; compgen -G "$1/checkpoints/*/step_*" || true; } \
        | awk -F /step_ '$2 > newest[$1] { newest[$1] = $2 } END { for (task in newest) sum += newest[task]; print sum + 0 }'
}

# attempt PRESET [--FIELD VALUE ...]: train, or go on with the run that is there. Its directory is --out, or named after
# the job, whose number survives a requeue: the next attempt finds it. A task of an array is a seed. Ends the script.
attempt() {
    local preset=$1 label=$1 run="" before options=() code=0
    shift
    while [ $# -gt 0 ]; do
        case $1 in
        --out) run=${2:?--out needs a directory} && shift ;;
        --out=*) run=${1#--out=} ;;
        *) options+=("$1") ;;
        esac
        shift
    done
    [ "$preset" != --config ] || label=run
    run=${run:-runs/$label-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
        run=$run-s$SLURM_ARRAY_TASK_ID
        options+=(--seed "$SLURM_ARRAY_TASK_ID")
    fi

    before=$(saved_frames "$run")
    if [ -e "$run/config.yaml" ] && [ "$before" -eq 0 ] && [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
        set_aside "$run" # this job's own, and it ended before its first checkpoint: there is nothing to go on with
    fi
    if [ -e "$run/config.yaml" ]; then
        say "going on with $run, frame $before"
        launch mpi-ltcr resume "$run" &
    else
        launch mpi-ltcr train "$preset" ${options[@]+"${options[@]}"} --out "$run" &
    fi
    follow $! || code=$?
    finish "$run" "$before" "$code"
}

set_aside() {
    local number=1
    while [ -e "$1.unsaved$number" ]; do
        number=$((number + 1))
    done
    say "$1 has no checkpoint yet: set aside as $1.unsaved$number"
    mv "$1" "$1.unsaved$number"
}

# finish RUN BEFORE CODE: exit as the run did. Its own record decides, not the launcher, whose exit code may be wrong.
finish() {
    local run=$1 before=$2 code=$3 now
    if [ -e "$run/status.json" ]; then
        code=0
        mpi-ltcr status "$run" --exit-code || code=$?
    fi
    if [ "$code" -ne 85 ]; then
        exit "$code"
    fi
    now=$(saved_frames "$run")
    if [ -n "$cancelled" ]; then
        say "saved at frame $now; SLURM ended the job. To go on, submit the same again with --out $run"
    elif [ "$now" -le "$before" ]; then
        say "no progress since frame $before, so not requeued; give it more time than a start takes, or look into $run"
    elif [ "${SLURM_RESTART_COUNT:-0}" -ge "$MAX_REQUEUE" ]; then
        say "requeued $SLURM_RESTART_COUNT times, MAX_REQUEUE is $MAX_REQUEUE. To go on, submit the same with --out $run"
    elif ! command -v scontrol >/dev/null; then
        say "no scontrol on this node, so not requeued. To go on, submit the same with --out $run"
    else
        say "saved at frame $now, requeued"
        scontrol requeue "$SLURM_JOB_ID" || say "not requeued. To go on, submit the same with --out $run"
    fi
    exit 85
}
