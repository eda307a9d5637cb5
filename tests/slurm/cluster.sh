#!/usr/bin/env bash
# A real SLURM on this machine: one controller and four simulated nodes of two cores each, all in FOLDER.
#
#   bash tests/slurm/cluster.sh install         as root on Debian: the packages, unless they are there
#   bash tests/slurm/cluster.sh start FOLDER    then: SLURM_CONF=FOLDER/slurm.conf sinfo
#   bash tests/slurm/cluster.sh stop FOLDER     every daemon, by the pid files in FOLDER
#
# `install` exits with 77 and says why where there cannot be one. `start` shows the log of whatever does not start.
# Every start is its own: keys, ports, state and logs are made anew in FOLDER, and nothing outside is written.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
verb=${1:?install, start or stop} nodes=4

refuse() {
    echo "no SLURM here: $*" >&2
    exit 77
}

# fail TEXT: with the last lines of every log.
fail() {
    echo "SLURM: $*" >&2
    tail -n 25 log/* >&2 || true
    exit 1
}

install() {
    [ "$(id -u)" = 0 ] || refuse "its daemons need root"
    if command -v slurmctld slurmd munged srun >/dev/null; then
        return
    fi
    command -v apt-get >/dev/null || refuse "no apt-get to install slurm-wlm and munge with"
    export DEBIAN_FRONTEND=noninteractive
    # The parts of slurm-wlm, and no services started. Without a network it is to give up soon.
    local apt=(apt-get -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=10 -o DPkg::Lock::Timeout=60)
    { "${apt[@]}" update && RUNLEVEL=1 "${apt[@]}" install -y --no-install-recommends slurmctld slurmd slurm-client munge; } \
        >/dev/null 2>&1 || refuse "apt-get cannot install slurmctld, slurmd, slurm-client and munge"
}

# free_ports N: so many different ones, below those that the system hands out to whoever connects anywhere.
free_ports() {
    python3 - "$1" <<'PYTHON'
import contextlib, random, socket, sys

with contextlib.ExitStack() as held:
    found = []
    for port in random.sample(range(10_000, 32_000), 2000):
        with contextlib.suppress(OSError):
            held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == int(sys.argv[1]):
            break
print(*found)
PYTHON
}

configure() {
    local host ports names="" n
    host=$(hostname -s)
    read -ra ports <<< "$(free_ports $((nodes + 1)))"
    mkdir -p state log pid spool
    cat > slurm.conf <<CONF
ClusterName=simulated
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$PWD/munge.socket,cred_expire=5
SlurmctldPidFile=$PWD/pid/slurmctld
SlurmdPidFile=$PWD/pid/slurmd-%n
SlurmctldLogFile=$PWD/log/slurmctld
SlurmdLogFile=$PWD/log/slurmd-%n
SlurmdDebug=debug3
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
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
OverTimeLimit=0
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
CONF
    for ((n = 1; n <= nodes; n++)); do
        # config_overrides: a node is what is written here, whatever the machine has
        echo "NodeName=n$n NodeHostname=$host NodeAddr=127.0.0.1 Port=${ports[n]} CPUs=2 RealMemory=1000 State=UNKNOWN" >> slurm.conf
        names+=${names:+,}n$n
    done
    cat >> slurm.conf <<CONF
SlurmdParameters=config_overrides
PartitionName=main Nodes=$names Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=$names MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
CONF
    head -c 1024 /dev/urandom > munge.key
    chmod 600 munge.key
}

start() {
    local n
    [ ! -e slurm.conf ] || fail "$PWD holds a cluster already; take another folder"
    configure
    munged --force --key-file="$PWD/munge.key" --socket="$PWD/munge.socket" --pid-file="$PWD/pid/munged" \
        --log-file="$PWD/log/munged" --seed-file="$PWD/munge.seed" || fail "munged does not start"
    export SLURM_CONF=$PWD/slurm.conf
    until_true "munged does not answer" eval "munge -n -S $PWD/munge.socket | unmunge -S $PWD/munge.socket"
    slurmctld || fail "slurmctld does not start"
    until_true "slurmctld does not answer" scontrol ping
    for ((n = 1; n <= nodes; n++)); do
        slurmd -N "n$n" || fail "slurmd of n$n does not start"
    done
    until_true "the nodes do not come up" all_idle
}

all_idle() {
    [ "$(sinfo -h -N -t idle -o %N | sort -u | wc -l)" = "$nodes" ]
}

# until_true TEXT COMMAND ...: wait for it to succeed; fail with the text after two minutes.
until_true() {
    local n text=$1
    shift
    for ((n = 0; n < 240; n++)); do
        if "$@" >/dev/null 2>&1; then
            return
        fi
        sleep 0.5
    done
    fail "$text"
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
