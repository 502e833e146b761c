#!/usr/bin/env bash
# A real SLURM cluster of several nodes on one machine, for the tests: started by hand, without systemd, as root.
#
#   cluster.sh missing            says what is not installed and how to install it (rc 1), or nothing
#   cluster.sh install            installs that, with apt-get
#   cluster.sh hold               starts a cluster, prints SLURM_CONF=..., and stops it at the end of stdin: whoever holds
#                                 the other end of that pipe cannot leave a cluster behind, not even when it is killed
#   cluster.sh node-off K         power cut of node K; node-on K: power back
#   cluster.sh controller-off     ends slurmctld; controller-on: starts it again, with the state that it saved
#   cluster.sh in K COMMAND ...   runs COMMAND inside node K, as no job
#
# Settings, in the environment. Clusters side by side need a STATE, PORT and SUBNET each.
#   STATE   a folder for everything, new or empty: hold removes it, and the other commands know the cluster by it
#   PORT    first of 20 ports; the bridge is lds<PORT>
#   SUBNET  first three octets of the nodes' network
#   MODE    net: every node has network, processes, mounts and host name of its own (namespaces); ns: the same, but the
#           machine's network; plain: nothing but `slurmd -N`, and names in /etc/hosts; auto: the first of these that works
#   NODES, CPUS, MEMORY   nodes node1 ..., CPUs and MiB of each; they may exceed the machine's
#   GPUS, GPU_TYPE        fake GPUs of each node: jobs get CUDA_VISIBLE_DEVICES, and nothing behind it
#   ACCOUNTING            1: slurmdbd over MariaDB, so that sacct answers; 0: none
#   GRACE   seconds that a preempted job of partition low has; partition high preempts it
#   EXTRA   more lines for slurm.conf; a later line overrides
set -u
PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH
S=${STATE:-}
PORT=${PORT:-17000} SUBNET=${SUBNET:-10.231.77} MODE=${MODE:-auto} EXTRA=${EXTRA:-}
NODES=${NODES:-2} CPUS=${CPUS:-2} MEMORY=${MEMORY:-4000} GPUS=${GPUS:-0} GPU_TYPE=${GPU_TYPE:-}
ACCOUNTING=${ACCOUNTING:-1} GRACE=${GRACE:-5}
SETTINGS=(PORT SUBNET MODE NODES CPUS MEMORY GPUS GPU_TYPE ACCOUNTING)
COMMANDS=(munged slurmctld slurmd sbatch slurmdbd sacctmgr mariadbd mariadb mariadb-install-db ip ss ps unshare)
PACKAGES=(munge slurmctld slurmd slurm-client slurm-wlm-basic-plugins slurmdbd slurm-wlm-mysql-plugin
  mariadb-server-core mariadb-client-core iproute2 util-linux procps)

die() { echo "cluster.sh: $*" >&2; exit 1; }
wait_for() { # SECONDS COMMAND...: until the command succeeds
  local left=$(($1 * 20)); shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1)); [ "$left" -gt 0 ] || return 1
    sleep 0.05
  done
}

# ---- processes, each remembered as "PID STARTTIME", so that a number used again is never signalled

started_at() { sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" && $1 != "X" { print $20 }'; }
remember() { echo "$2 $(started_at "$2")" >"$S/pids/$1"; }
pid_of() {
  local pid time
  read -r pid time 2>/dev/null <"$S/pids/$1" && [ -n "$time" ] && [ "$(started_at "$pid")" = "$time" ] && echo "$pid"
}
is_gone() { ! pid_of "$1"; }
remember_daemon() { # NAME PIDFILE: the daemon that writes PIDFILE
  wait_for 10 test -s "$2" || die "$1 did not start: $(tail -n 3 "$S"/log/*"$1"* 2>/dev/null)"
  remember "$1" "$(cat "$2")"
}
end() { # NAME [SIGNAL]: gently, then not
  local pid
  if pid=$(pid_of "$1"); then
    kill -"${2:-TERM}" "$pid"
    wait_for 15 is_gone "$1" || { kill -KILL "$pid"; wait_for 5 is_gone "$1"; }
  fi
  rm -f "$S/pids/$1"
}

# ---- where things are

is_bound() { [ -n "$(ss -Hltn "sport = :$1")" ]; }
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
node_address() {
  case $MODE in
    net) echo "$SUBNET.$((10 + $1))" ;;
    ns) echo "127.0.77.$((10 + $1))" ;;
    *) echo 127.0.0.1 ;;
  esac
}
controller_address() { if [ "$MODE" = net ]; then echo "$SUBNET.1"; else echo 127.0.0.1; fi; }
host() { uname -n | cut -d. -f1; }
each_node() { seq "$NODES"; }

# ---- files

write_slurm_conf() {
  local k name
  cat <<EOF
ClusterName=test
SlurmctldHost=$(host)($(controller_address))
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire: how long a requeued job waits before it starts again. 120 s by default; below 5 means 120
AuthInfo=socket=$S/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$S/controller
SlurmdSpoolDir=$S/spool/%n
SlurmctldPidFile=$S/run/slurmctld.pid
SlurmdPidFile=$S/run/slurmd.%n.pid
SlurmctldLogFile=$S/log/slurmctld.log
SlurmdLogFile=$S/log/slurmd.%n.log
# no cgroups (so no limits on memory) and no MPI
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
# believe this file, not the hardware
SlurmdParameters=config_overrides
ReturnToService=2
RebootProgram=/bin/true
# quick reactions
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=3
MinJobAge=600
InactiveLimit=0
CompleteWait=0
JobRequeue=1
# a job of partition low is requeued for one of partition high; what its --signal names comes at once, SIGKILL after GRACE
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PreemptExemptTime=0
SlurmctldParameters=preempt_send_user_signal
EOF
  if [ "$ACCOUNTING" = 1 ]; then
    cat <<EOF
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 1))
# the socket of munge: AuthInfo is not used towards slurmdbd
AccountingStoragePass=$S/munge/socket
EOF
    [ "$GPUS" = 0 ] || echo AccountingStorageTRES=gres/gpu
  else
    echo AccountingStorageType=accounting_storage/none
  fi
  [ "$GPUS" = 0 ] || echo GresTypes=gpu
  for k in $(each_node); do
    name=node$k; [ "$MODE" != plain ] || name=$(host)
    echo "NodeName=node$k NodeHostname=$name NodeAddr=$(node_address "$k") Port=$((PORT + 10 + k)) CPUs=$CPUS" \
      "RealMemory=$MEMORY$([ "$GPUS" = 0 ] || echo " Gres=gpu:${GPU_TYPE:+$GPU_TYPE:}$GPUS")"
  done
  cat <<EOF
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low  Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
$EXTRA
EOF
}
write_gres_conf() {
  [ "$GPUS" != 0 ] || return 0
  local k
  # slurmd only looks at the files: without a device that ends in a number, jobs get no CUDA_VISIBLE_DEVICES
  mkdir "$S/dev"
  for ((k = 0; k < GPUS; k++)); do mknod "$S/dev/nvidia$k" c 1 3 || die "no fake GPU can be made here"; done
  echo AutoDetect=off
  echo "Name=gpu${GPU_TYPE:+ Type=$GPU_TYPE} File=$S/dev/nvidia[0-$((GPUS - 1))] Flags=nvidia_gpu_env"
}
write_slurmdbd_conf() {
  cat <<EOF
AuthType=auth/munge
AuthInfo=socket=$S/munge/socket
DbdHost=localhost
DbdPort=$((PORT + 1))
SlurmUser=root
LogFile=$S/log/slurmdbd.log
PidFile=$S/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 2))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
EOF
}
write_hosts() {
  local k
  echo "127.0.0.1 localhost"
  echo "$(controller_address) $(host)"
  for k in $(each_node); do echo "$(node_address "$k") node$k"; done
}
# In mode plain the names have to be in /etc/hosts itself, which may be a mount: it is written, never replaced.
names_into_etc_hosts() {
  local k
  (flock 9; for k in $(each_node); do echo "127.0.0.1 node$k # $S"; done >>/etc/hosts) 9</etc
}
names_out_of_etc_hosts() {
  local kept
  (flock 9; kept=$(grep -vF " # $S" /etc/hosts); echo "$kept" >/etc/hosts) 9</etc
}

# ---- daemons

start_munge() {
  mkdir -m 755 "$S/munge"
  (umask 377; head -c 1024 /dev/urandom >"$S/munge.key")
  # --force: the state may be below a folder that others may write to, such as /tmp
  munged --force --key-file="$S/munge.key" --socket="$S/munge/socket" --pid-file="$S/munge/pid" \
    --log-file="$S/log/munged.log" --seed-file="$S/munge/seed" || die "munged: $(tail -n 3 "$S/log/munged.log")"
  remember_daemon munged "$S/munge/pid"
}
start_accounting() {
  # small, and without durability: it lives no longer than the cluster
  local options=(--no-defaults --user=root --datadir="$S/mysql" --innodb-log-file-size=8M --aria-log-file-size=8M
    --innodb-temp-data-file-path=ibtmp1:4M:autoextend --innodb-buffer-pool-size=32M --innodb-flush-log-at-trx-commit=0
    --innodb-flush-method=nosync --innodb-doublewrite=0 --performance-schema=OFF --skip-log-bin)
  mariadb-install-db "${options[@]}" --skip-test-db --auth-root-authentication-method=normal \
    >"$S/log/mariadb-install.log" 2>&1 || die "mariadb-install-db: $(tail -n 3 "$S/log/mariadb-install.log")"
  mariadbd "${options[@]}" --socket="$S/run/mariadb" --pid-file="$S/run/mariadb.pid" --bind-address=127.0.0.1 \
    --port=$((PORT + 2)) --skip-name-resolve --innodb-lock-wait-timeout=900 </dev/null >"$S/log/mariadbd.log" 2>&1 &
  remember mariadbd $!
  wait_for 30 answers $((PORT + 2)) || die "mariadbd: $(tail -n 3 "$S/log/mariadbd.log")"
  mariadb --no-defaults --socket="$S/run/mariadb" -uroot \
    -e "create user slurm@'%' identified by 'slurm'; grant all on *.* to slurm@'%';" || die "mariadb: no user"
  (umask 077; write_slurmdbd_conf >"$S/slurmdbd.conf")
  slurmdbd >/dev/null 2>&1
  remember_daemon slurmdbd "$S/run/slurmdbd.pid"
  wait_for 30 answers $((PORT + 1)) || die "slurmdbd: $(tail -n 3 "$S/log/slurmdbd.log")"
  sacctmgr -i add cluster test >"$S/log/sacctmgr.log" 2>&1 || die "sacctmgr: $(tail -n 3 "$S/log/sacctmgr.log")"
}
start_controller() {
  rm -f "$S/run/slurmctld.pid"
  slurmctld -f "$SLURM_CONF" </dev/null >/dev/null 2>&1
  remember_daemon slurmctld "$S/run/slurmctld.pid"
  wait_for 20 scontrol ping || die "slurmctld does not answer: $(tail -n 3 "$S/log/slurmctld.log")"
}

# ---- nodes

# What a node consists of is one process and its namespaces; its death is the node's power cut.
# shellcheck disable=SC2016  # for the bash in there to expand
NODE='mount --bind "$1/hosts" /etc/hosts && mount -t tmpfs -o mode=1777 shm /dev/shm && hostname "$2" || exit 1
[ "$3" != net ] || ip link set lo up
: >"$1/run/$2.up"
while :; do sleep 100000 & wait $!; done'

in_node() { # K COMMAND...
  local pid options=(--uts --ipc --mount --pid) k=$1; shift
  if [ "$MODE" = plain ]; then "$@"; return; fi
  pid=$(pid_of "node$k") || die "node$k is off"
  [ "$MODE" != net ] || options+=(--net)
  nsenter --target "$pid" "${options[@]}" -- "$@"
}
connect() {
  ip link add "lds$PORT-$1" type veth peer name eth0 netns "$(pid_of "node$1")" &&
    ip link set "lds$PORT-$1" master "lds$PORT" up &&
    in_node "$1" ip addr add "$(node_address "$1")/24" dev eth0 && in_node "$1" ip link set eth0 up
}
node_on() {
  local name=node$1 options=(--uts --ipc --mount --pid --fork --kill-child --mount-proc) pid
  if pid_of "$name" >/dev/null; then return; fi
  if [ "$MODE" != plain ]; then
    [ "$MODE" != net ] || options+=(--net)
    rm -f "$S/run/$name.up"
    unshare "${options[@]}" bash -c "$NODE" "$name" "$S" "$name" "$MODE" </dev/null >"$S/log/$name.log" 2>&1 &
    wait_for 10 test -e "$S/run/$name.up" || die "$name: $(tail -n 3 "$S/log/$name.log")"
    pid=$(ps -o pid= --ppid $!); remember "$name" "${pid// /}"; disown $!
    if [ "$MODE" = net ]; then
      connect "$1" || die "$name: no network"
    fi
  fi
  mkdir -p "$S/spool/$name"; rm -f "$S/run/slurmd.$name.pid"
  in_node "$1" slurmd -f "$SLURM_CONF" -N "$name" </dev/null >/dev/null 2>&1
  wait_for 10 test -s "$S/run/slurmd.$name.pid" || die "$name: $(tail -n 3 "$S/log/slurmd.$name.log")"
  [ "$MODE" != plain ] || remember "$name" "$(cat "$S/run/slurmd.$name.pid")"
}
node_off() {
  end "node$1" KILL
  if [ "$MODE" = plain ]; then end_steps "$1"; fi
  if [ "$MODE" = net ]; then ip link del "lds$PORT-$1" 2>/dev/null; fi
  return 0
}
# Mode plain: ends what the daemon of node K has left, or those of all nodes; known by their environment.
end_steps() { # [K]
  local process variables
  for process in /proc/[0-9]*; do
    variables=$(tr '\0' '\n' 2>/dev/null <"$process/environ") || continue
    grep -qxF "SLURM_CONF=$SLURM_CONF" <<<"$variables" || continue
    if [ $# = 1 ]; then
      grep -qx "SLURMD_NODENAME=node$1" <<<"$variables" || continue
    else
      grep -q ^SLURM_JOB_ID= <<<"$variables" || [ "$(cat "$process/comm")" = slurmstepd ] || continue
    fi
    kill -KILL "${process#/proc/}" 2>/dev/null
  done
}

# ---- the cluster

best_mode() {
  unshare --uts --ipc --mount --pid --fork --mount-proc true 2>/dev/null || { echo plain; return; }
  if unshare --net true 2>/dev/null && ip link add "lds$PORT" type bridge 2>/dev/null; then
    ip link del "lds$PORT"; echo net
  else
    echo ns
  fi
}
# Where docker lets bridged packets go through iptables, ours have to be let pass.
is_filtered() { command -v iptables >/dev/null && [ "$(cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null)" = 1 ]; }
bridge() {
  ip link add "lds$PORT" type bridge && ip addr add "$SUBNET.1/24" dev "lds$PORT" && ip link set "lds$PORT" up || return 1
  if is_filtered; then iptables -I FORWARD -i "lds$PORT" -o "lds$PORT" -j ACCEPT; fi
}
are_idle() { [ "$(sinfo -h -N -p main -t idle -o %N | sort -u | wc -l)" = "$NODES" ]; }
start() {
  local k name
  [ "$(id -u)" = 0 ] || die "needs root"
  missing >&2 || exit 1
  for k in 0 1 2 $(seq 11 $((10 + NODES))); do ! is_bound $((PORT + k)) || die "port $((PORT + k)) is taken"; done
  [ -z "$(ip -o addr show to "$SUBNET.0/24")" ] || die "subnet $SUBNET is taken"
  mkdir -p "$S"/{pids,run,log,controller,spool} || exit 1
  [ "$MODE" != auto ] || MODE=$(best_mode)
  for name in "${SETTINGS[@]}"; do printf '%s=%q\n' "$name" "${!name}"; done >"$S/settings"
  write_hosts >"$S/hosts"
  write_slurm_conf >"$SLURM_CONF"
  write_gres_conf >"$S/gres.conf"
  start_munge
  if [ "$MODE" = plain ]; then names_into_etc_hosts; fi
  if [ "$MODE" = net ]; then
    bridge || die "no bridge lds$PORT"
  fi
  if [ "$ACCOUNTING" = 1 ]; then start_accounting; fi
  start_controller
  for k in $(each_node); do node_on "$k"; done
  wait_for 60 are_idle || die "the nodes do not become idle: $(sinfo -N; tail -n 3 "$S"/log/*.log)"
}
stop() {
  [ -e "$S/settings" ] || { rm -rf -- "${S:?}"; return; }
  local k
  for k in $(each_node); do node_off "$k"; done
  if [ "$MODE" = plain ]; then end_steps; names_out_of_etc_hosts; fi
  end slurmctld; end slurmdbd; end mariadbd; end munged
  if [ "$MODE" = net ]; then
    if is_filtered; then iptables -D FORWARD -i "lds$PORT" -o "lds$PORT" -j ACCEPT; fi
    ip link del "lds$PORT"
  fi
  rm -rf -- "${S:?}"
}

missing() {
  local command names=()
  for command in "${COMMANDS[@]}"; do command -v "$command" >/dev/null || names+=("$command"); done
  [ ${#names[@]} = 0 ] || { echo "no ${names[*]} here: apt-get install --no-install-recommends ${PACKAGES[*]}"; return 1; }
}
install() {
  if missing >/dev/null; then return; fi
  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${PACKAGES[@]}"
}

command=${1:-}; [ $# = 0 ] || shift
case $command in
  missing | install) "$command"; exit ;;
  hold | node-off | node-on | controller-off | controller-on | in) [ -n "$S" ] || die "STATE is not set" ;;
  *) sed -n '2,/^set -u/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2 ;;
esac
export SLURM_CONF=$S/slurm.conf
if [ "$command" = hold ]; then
  [ -z "$(ls -A "$S" 2>/dev/null)" ] || die "$S is not empty"
  trap stop EXIT
  trap 'exit 1' INT TERM HUP
  start
  echo "SLURM_CONF=$SLURM_CONF"
  while read -r _; do :; done
  exit 0
fi
# shellcheck disable=SC1091  # written by start
. "$S/settings" || die "no cluster in $S"
case $command in
  node-off) node_off "$1" ;;
  node-on) node_on "$1" ;;
  controller-off) end slurmctld ;;
  controller-on) start_controller ;;
  in) in_node "$@" ;;
esac
