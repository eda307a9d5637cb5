#!/usr/bin/env bash
# What differs between clusters: the only file that a site edits. A variable of the same name in the environment wins.
set -euo pipefail

# Which machines, and who pays. Empty: the cluster's default. (Read by sbatch, so only `jobs/submit.sh` uses them.)
: "${PARTITION:=}"
: "${ACCOUNT:=}"

# The virtual environment that holds mpi-ltcr (`bash jobs/install.sh mpich` makes it), seen by every node.
: "${VENV:=$PWD/.venv}"

# How ranks are started: srun (MPICH, or an MPI that was built for this SLURM) or mpirun (either library's own).
: "${LAUNCH:=srun}"
: "${SRUN_MPI:=pmi2}" # see `srun --mpi=list`; MPICH's wheel speaks pmi2

# GPUs of each task; 0 trains on the CPU.
: "${GPUS_PER_TASK:=0}"

# How often a job may requeue itself. Each time it must also have come further than the time before.
: "${MAX_REQUEUE:=100}"

# Modules, where the compiler or the MPI library comes from them. Their scripts may use unset variables.
# set +u; module load python/3.11 mpich/4; set -u
