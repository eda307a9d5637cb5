#!/usr/bin/env bash
# A real SLURM on this machine: one controller and four simulated nodes of two cores each, all in FOLDER.
#
#   bash tests/slurm/cluster.sh install         as root on Debian: the packages, unless they are there
#   bash tests/slurm/cluster.sh start FOLDER    then: SLURM_CONF=FOLDER/slurm.conf sinfo
#   bash tests/slurm/cluster.sh stop FOLDER     every daemon, by the pid files in FOLDER
#
# Exits with 77 and says why where there cannot be one. Nothing outside FOLDER is written after `install`.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
verb=${1:?install, start or stop} nodes=4

refuse() {
    echo "no SLURM here: $*" >&2
    exit 77
}

install() {
    [ "$(id -u)" = 0 ] || refuse "its daemons need root"
    if command -v slurmctld slurmd munged srun >/dev/null; then
        return
    fi
    command -v apt-get >/dev/null || refuse "no apt-get to install slurm-wlm and munge with"
    export DEBIAN_FRONTEND=noninteractive
    # The parts of slurm-wlm, and no services started.
    { apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge; } \
        >/dev/null 2>&1 || refuse "apt-get cannot install slurmctld, slurmd, slurm-client and munge"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

configure() {
    local host names="" n
    host=$(hostname -s)
    mkdir -p state log pid spool
    cat > slurm.conf <<CONF
ClusterName=simulated
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$PWD/munge.socket,cred_expire=5
SlurmctldPidFile=$PWD/pid/slurmctld
SlurmdPidFile=$PWD/pid/slurmd-%n
SlurmctldLogFile=$PWD/log/slurmctld
SlurmdLogFile=$PWD/log/slurmd-%n
StateSaveLocation=$PWD/state
SlurmdSpoolDir=$PWD/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1
ReturnToService=1
SlurmdTimeout=300
KillWait=30
MinJobAge=3600
JobRequeue=1
OverTimeLimit=0
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
CONF
    for ((n = 1; n <= nodes; n++)); do
        # config_overrides: a node is what is written here, whatever the machine has
        echo "NodeName=n$n NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=2 RealMemory=1000 State=UNKNOWN" >> slurm.conf
        names+=${names:+,}n$n
    done
    echo "SlurmdParameters=config_overrides" >> slurm.conf
    echo "PartitionName=main Nodes=$names Default=YES MaxTime=INFINITE State=UP" >> slurm.conf
    head -c 1024 /dev/urandom > munge.key
    chmod 600 munge.key
}

start() {
    local n
    configure
    munged --force --key-file="$PWD/munge.key" --socket="$PWD/munge.socket" --pid-file="$PWD/pid/munged" \
        --log-file="$PWD/log/munged" --seed-file="$PWD/munge.seed" || refuse "munged does not start, see $PWD/log"
    export SLURM_CONF=$PWD/slurm.conf
    slurmctld || refuse "slurmctld does not start, see $PWD/log"
    for ((n = 1; n <= nodes; n++)); do
        slurmd -N "n$n" || refuse "slurmd does not start, see $PWD/log"
    done
    for ((n = 0; n < 120; n++)); do
        if [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" = "$nodes" ]; then
            return
        fi
        sleep 0.5
    done
    refuse "the nodes did not come up within a minute, see $PWD/log"
}

# Job steps first, then the daemons: a slurmd that is gone leaves its steps behind.
stop() {
    local file n
    export SLURM_CONF=$PWD/slurm.conf
    if [ -n "$(timeout 10 squeue -h 2>/dev/null)" ]; then
        timeout 20 scancel --user root --full --signal=KILL 2>/dev/null || true
        timeout 20 scancel --user root 2>/dev/null || true
    fi
    for ((n = 0; n < 40; n++)); do
        [ -n "$(timeout 10 squeue -h 2>/dev/null)" ] || break
        sleep 0.5
    done
    for file in pid/slurmd-* pid/slurmctld pid/munged; do # the last answers until nobody asks
        [ ! -e "$file" ] || end "$(cat "$file")"
    done
}

# end PID: ask it, wait, insist.
end() {
    local n
    kill "$1" 2>/dev/null || return 0
    for ((n = 0; n < 100; n++)); do
        alive "$1" || return 0
        sleep 0.1
    done
    kill -KILL "$1" 2>/dev/null || true
}

# alive PID: a process that has ended, but that nobody has asked about, is not.
alive() {
    [ "$(sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2>/dev/null)" != Z ]
}

if [ "$verb" = install ]; then
    install
    exit
fi
mkdir -p "${2:?the folder}"
cd "$2"
"$verb"
