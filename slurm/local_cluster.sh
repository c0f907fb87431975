#!/usr/bin/env bash
# A SLURM of two nodes on this machine: local_cluster.sh up|down [STATE_DIRECTORY].
# It needs Debian's packages slurm-wlm and munge (22.05 or newer); root is not needed. `up` prints the line that sets SLURM_CONF.
set -euo pipefail

usage() {
  echo "usage: $0 up|down [STATE_DIRECTORY (default /tmp/drivlm-slurm)]" >&2
  exit 2
}

export PATH="$PATH:/usr/sbin:/sbin"
action="${1:-}"
state="${2:-/tmp/drivlm-slurm}"
[[ "$action" == up || "$action" == down ]] || usage
[[ "$state" == /* ]] || state="$PWD/$state"

need_programs() {
  local program
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || {
      echo "$program is not installed; on Debian and Ubuntu: apt-get install slurm-wlm munge" >&2
      exit 2
    }
  done
}

free_ports() {
  python3 - <<'PY'
import socket

sockets = [socket.socket() for _ in range(3)]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
PY
}

write_configuration() {
  local cores memory controller first second
  read -r controller first second < <(free_ports)
  cores=$(( ($(nproc) + 1) / 2 ))
  memory=$(awk '/MemTotal/ {print int($2 / 1024 / 2 * 0.9)}' /proc/meminfo)
  cat >"$state/slurm.conf" <<CONF
ClusterName=drivlm
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for as long as credentials live (120 s unless said) before it starts again.
AuthInfo=socket=$state/munge/socket,cred_expire=10
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/%n
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd-%n.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=15
# Ending a step takes a node up to KillWait. A message that timed out before would be sent again a minute later, when the
# requeued job already runs under the same id.
MessageTimeout=90
InactiveLimit=0
MinJobAge=3600
SlurmdTimeout=60
SlurmctldTimeout=60
NodeName=n1 NodeHostName=$(hostname) NodeAddr=127.0.0.1 Port=$first CPUs=$cores RealMemory=$memory
NodeName=n2 NodeHostName=$(hostname) NodeAddr=127.0.0.1 Port=$second CPUs=$cores RealMemory=$memory
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=UNLIMITED State=UP OverSubscribe=NO
CONF
}

start() {
  need_programs
  if [[ -f "$state/slurm.conf" ]] && SLURM_CONF="$state/slurm.conf" scontrol ping 2>/dev/null | grep -q "is UP"; then
    echo "already up" >&2
  else
    stop
    mkdir -p "$state"/{munge,controller,n1,n2}
    chmod 0755 "$state" "$state/munge"
    write_configuration
    if [[ ! -f "$state/munge/key" ]]; then
      (umask 077 && head -c 128 /dev/urandom >"$state/munge/key")
    fi
    munged --force --key-file "$state/munge/key" --socket "$state/munge/socket" --pid-file "$state/munge/pid" \
      --log-file "$state/munge/log" --seed-file "$state/munge/seed" 2>"$state/munge/start.log"
    export SLURM_CONF="$state/slurm.conf"
    slurmctld -c
    slurmd -N n1
    slurmd -N n2
    wait_until_idle
  fi
  echo "export SLURM_CONF=$state/slurm.conf"
}

wait_until_idle() {
  local tries log
  for tries in $(seq 1 120); do
    if [[ "$(sinfo --noheader --Node --format '%t' 2>/dev/null | grep -c '^idle$')" == 2 ]]; then
      return
    fi
    sleep 0.5
  done
  echo "the nodes did not come up within 60 s; see the logs in $state" >&2
  for log in "$state"/*.log; do tail -n 5 "$log" >&2; done
  exit 1
}

stop() {
  local file pid tries
  if [[ -f "$state/slurm.conf" ]] && command -v scancel >/dev/null; then
    export SLURM_CONF="$state/slurm.conf"
    timeout 10 scancel --user "$(id -un)" 2>/dev/null || true
    for tries in $(seq 1 60); do
      [[ -n "$(timeout 10 squeue --noheader 2>/dev/null)" ]] || break
      sleep 0.5
    done
    unset SLURM_CONF
  fi
  for file in "$state"/slurmctld.pid "$state"/slurmd-n1.pid "$state"/slurmd-n2.pid "$state"/munge/pid; do
    [[ -f "$file" ]] || continue
    pid="$(cat "$file")"
    if grep -qaE "slurm|munge" "/proc/$pid/cmdline" 2>/dev/null; then
      kill "$pid" 2>/dev/null || true
      for tries in $(seq 1 40); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.25
      done
      kill -9 "$pid" 2>/dev/null || true
    fi
    rm -f "$file"
  done
}

case "$action" in
  up) start ;;
  down) stop ;;
esac
