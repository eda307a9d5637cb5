#!/usr/bin/env bash
# What differs between clusters: the only file that a site edits. A variable of the same name in the environment wins:
# PARTITION=debug bash jobs/submit.sh ...
set -euo pipefail

# Which machines, who pays, and whatever else sbatch must be told here. Empty: the cluster's default, and 24 hours.
# (Read by sbatch, so only `jobs/submit.sh` uses them; what is written in its command line wins.)
: "${PARTITION:=}"
: "${ACCOUNT:=}"
: "${SBATCH_OPTIONS:=}" # e.g. "--time=12:00:00 --mem-per-cpu=4G --qos=long"

# The virtual environment that holds mpi-ltcr (`bash jobs/install.sh mpich` makes it), on a disk that every node sees.
: "${VENV:=$PWD/.venv}"

# How ranks are started: srun (MPICH, or an MPI that was built for this SLURM) or mpirun (either library's own). Where
# `srun --mpi=list` has no pmi2, take mpirun; `mpi-ltcr doctor` looks.
: "${LAUNCH:=srun}"
: "${SRUN_MPI:=pmi2}" # what MPICH's wheel speaks; pmix for an Open MPI of the site

# GPUs of each task; 0 trains on the CPU.
: "${GPUS_PER_TASK:=0}"

# How often a job may requeue itself. Each time it must also have come further than the time before.
: "${MAX_REQUEUE:=100}"

# Modules, where the compiler or the MPI library comes from them. Their scripts may use unset variables.
# set +u; module load python/3.11 mpich/4; set -u
