#!/usr/bin/env bash
# Two hosts on this machine: network namespaces that are joined by a cable, and a launcher for mpirun that starts a
# process on one of them.
#
#   bash two_hosts.sh up NAME      makes NAME-a (10.77.0.1) and NAME-b (10.77.0.2); 77, and why, where that is not possible
#   bash two_hosts.sh cut NAME     pulls the plug; `join` puts it back
#   bash two_hosts.sh down NAME    ends every process in both and removes them
#   mpirun -launcher ssh -launcher-exec FILE ...   FILE: this script as NAME.launch, called with [-x] HOST COMMAND
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

refuse() {
    echo "no two hosts here: $*" >&2
    exit 77
}

up() {
    [ "$(id -u)" = 0 ] || refuse "network namespaces need root"
    command -v ip >/dev/null || refuse "no ip (iproute2)"
    ip netns add "$1-a" 2>/dev/null || refuse "ip netns add is not allowed"
    ip netns add "$1-b"
    ip link add "$1va" netns "$1-a" type veth peer name "$1vb" netns "$1-b" 2>/dev/null || refuse "no veth in this kernel"
    ip -n "$1-a" addr add 10.77.0.1/24 dev "$1va"
    ip -n "$1-b" addr add 10.77.0.2/24 dev "$1vb"
    for side in a b; do
        ip -n "$1-$side" link set lo up
        ip -n "$1-$side" link set "$1v$side" up
    done
    for side in a b; do # for two seconds an IPv6 address is only tentative, and MPI cannot use it yet
        for _ in $(seq 50); do
            [ -n "$(ip -n "$1-$side" addr show tentative)" ] || break
            sleep 0.1
        done
    done
}

down() {
    local side pid
    for side in a b; do
        for pid in $(ip netns pids "$1-$side" 2>/dev/null || true); do
            kill -KILL "$pid" 2>/dev/null || true
        done
        ip netns del "$1-$side" 2>/dev/null || true
    done
}

case ${1:?up, cut, join or down} in
up) up "$2" ;;
cut) ip -n "$2-b" link set "$2vb" down ;;
join) ip -n "$2-b" link set "$2vb" up ;;
down) down "$2" ;;
*)
    # As a launcher: [OPTION ...] HOST COMMAND. The name of the pair is that of the file.
    name=$(basename "$0" .launch)
    while [[ $1 == -* ]]; do
        shift
    done
    side=b
    [ "$1" != 10.77.0.1 ] || side=a
    shift
    exec ip netns exec "$name-$side" bash -c "$*"
    ;;
esac
