#!/usr/bin/env bash
# A real Slurm on this machine: one controller and a few virtual nodes, each with a slurmd of its own, below a folder
# of their own. Needs root, and no systemd. For the tests of tests/slurm, and to try srun and sbatch without a cluster:
#
#   tests/slurm/cluster.sh install                    # Debian or Ubuntu: Slurm, munge, Open MPI
#   eval "$(tests/slurm/cluster.sh start 4)"          # prints `export` lines; the cluster is ready when it returns
#   srun --mpi=pmix -N 4 -n 4 hostname
#   tests/slurm/cluster.sh stop
#
#   start [NODES]   4 nodes unless told; if the cluster of TISSERAND_CLUSTER_DIR runs already, only prints the lines
#   env             the lines again
#   hold            waits for the end of standard input, then stops: for a parent that may be killed
#   stop            cancels all jobs, ends all daemons, removes the folder; also after half a start
#   install         by apt-get, as root
#
# Each node offers 16 CPUs, however many there are, and has a host name, an /etc/hosts and a /dev/shm of its own, as
# machines have; processes, network and files are this machine's. What is mounted later is not seen on the nodes, so
# there is a file system of 32 MiB to fill, disk/, below the folder of the cluster. TISSERAND_CLUSTER_DIR is that
# folder (unset: a new one below TMPDIR).
set -euo pipefail

packages=(slurm-wlm slurmctld slurmd slurm-client munge libpmix2 libpmi2-0 openmpi-bin)
programs=(slurmctld slurmd srun sbatch scontrol sinfo munged munge mpirun)
# Seconds until a daemon counts as not started.
patience=60

fail() {
    printf 'cluster.sh: %s\n' "$*" >&2
    exit 1
}

# Waits until a command succeeds.
wait_for() {
    local what=$1 end=$((SECONDS + patience))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "$what did not come within $patience s; hint: see $dir/log"
        sleep 0.1
    done
}

# The programs that are not there.
missing() {
    local program
    for program in "${programs[@]}"; do
        command -v "$program" >/dev/null || printf '%s ' "$program"
    done
}

check_machine() {
    local missing
    missing=$(missing)
    [ -z "$missing" ] || fail "${missing% }: not found; hint: $0 install, or apt-get install ${packages[*]}"
    [ "$(id -u)" = 0 ] || fail "slurmd starts jobs as root only, and this is user $(id -un); hint: sudo"
    slurmd -h 2>&1 | grep -q -- '-N ' ||
        fail "$(slurmd -V) was built without --enable-multiple-slurmd; hint: Debian's and Ubuntu's have it"
}

# A first port with so many free ones behind it, below those that the kernel hands out and above those of runs.
free_ports() {
    local count=$1 first port try taken
    taken=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    for try in $(seq 50); do
        first=$((30100 + RANDOM % 2000))
        for port in $(seq "$first" $((first + count - 1))); do
            grep -q "^ *[0-9]*: [0-9A-F]*:$(printf %04X "$port") " <<<"$taken" && continue 2
        done
        echo "$first"
        return
    done
    fail "no $count free ports side by side between 30100 and 32100"
}

print_environment() {
    # Quoted for a shell, whatever the folder is called.
    printf 'export TISSERAND_CLUSTER_DIR=%q SLURM_CONF=%q\n' "$dir" "$dir/slurm.conf"
    # Ranks that wait leave their core to others, of which there are more than cores.
    echo 'export OMPI_MCA_mpi_yield_when_idle=1'
}

write_configuration() {
    local nodes=$1 port
    port=$(free_ports $((nodes + 1)))
    cat >"$dir/slurm.conf" <<END
ClusterName=virtual
SlurmctldHost=localhost
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
DebugFlags=NO_CONF_HASH
SchedulerParameters=sched_interval=5
# Runs listen on 10000 + job id % 20000: clusters side by side begin with other jobs.
FirstJobId=$((1 + RANDOM % 19000))
KillWait=5
MinJobAge=600
NodeName=node[1-$nodes] NodeHostname=localhost Port=[$((port + 1))-$((port + nodes))] CPUs=16 RealMemory=4000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
}

# munged with a key and a socket of this cluster, so that a munged of the machine is left alone.
start_munge() {
    head -c 1024 /dev/urandom >"$dir/munge/key"
    chmod 0400 "$dir/munge/key"
    munged --force --num-threads=4 --key-file="$dir/munge/key" --socket="$dir/run/munge.socket" \
        --pid-file="$dir/run/munged.pid" --seed-file="$dir/munge/seed" --log-file="$dir/log/munged.log" \
        >"$dir/log/munged.out" 2>&1 || fail "munged does not start: $(tail -n 1 "$dir/log/munged.out")"
    wait_for 'an answer of munged' munge --no-input --socket="$dir/run/munge.socket"
}

# One node. Its own copy of the configuration, since mpi.conf must differ: PMIx makes a folder that is named by job
# and step only, and the second node of one machine would find it there. Its tasks inherit its names and mounts.
start_node() {
    local node=$1
    mkdir -p "$dir/conf/$node" "$dir/pmix/$node" "$dir/spool/$node"
    cp "$dir/slurm.conf" "$dir/conf/$node/slurm.conf"
    echo "PMIxCliTmpDirBase=$dir/pmix/$node" >"$dir/conf/$node/mpi.conf"
    SLURM_CONF=$dir/conf/$node/slurm.conf unshare --mount --uts sh -c '
        set -e
        hostname "$2"
        mount --bind "$1/hosts" /etc/hosts
        mount -t tmpfs tmpfs /dev/shm
        exec slurmd -N "$2" -f "$1/conf/$2/slurm.conf"' start "$dir" "$node" >"$dir/log/$node.out" 2>&1 ||
        fail "slurmd of $node does not start: $(tail -n 1 "$dir/log/$node.out")"
}

all_idle() {
    [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = "$1" ]
}

is_up() {
    [ -n "$dir" ] && [ -f "$dir/ready" ] && kill -0 "$(cat "$dir/run/slurmctld.pid")" 2>/dev/null
}

start() {
    local nodes=${1:-4} node
    [[ $nodes =~ ^[1-9][0-9]?$ ]] || fail "\"$nodes\" nodes; hint: 1 to 99"
    if is_up; then
        print_environment
        return
    fi
    check_machine
    [ -n "$dir" ] || dir=$(mktemp -d "${TMPDIR:-/tmp}/cluster.XXXXXX")
    # A socket's path has at most 107 bytes, and jobs add a name to it.
    [ "${#dir}" -le 60 ] || fail "$dir: longer than 60 bytes; hint: set TISSERAND_CLUSTER_DIR to a shorter folder"
    trap stop ERR EXIT
    mkdir -p "$dir"/{conf,disk,log,munge,pmix,run,spool,state}
    # munged wants its socket where everybody may go.
    chmod 0755 "$dir" "$dir/run"
    chmod 0700 "$dir/munge"
    export SLURM_CONF=$dir/slurm.conf
    mount -t tmpfs -o size=32m tmpfs "$dir/disk" ||
        fail "no file system can be mounted here; hint: a container needs CAP_SYS_ADMIN"
    (cat /etc/hosts && seq -f '127.0.0.1 node%g' "$nodes") >"$dir/hosts"
    write_configuration "$nodes"
    start_munge
    slurmctld -c -f "$SLURM_CONF" >"$dir/log/slurmctld.out" 2>&1 ||
        fail "slurmctld does not start: $(tail -n 1 "$dir/log/slurmctld.out")"
    for node in $(seq -f 'node%g' "$nodes"); do
        start_node "$node"
    done
    wait_for "node $nodes, idle," all_idle "$nodes"
    touch "$dir/ready"
    trap - ERR EXIT
    print_environment
}

# Processes of this cluster: its daemons by their pid files, and slurmstepds, which have the environment of their
# slurmd.
processes() {
    local file
    cat "$dir"/run/*.pid 2>/dev/null || true
    for file in $(grep -lsF "SLURM_CONF=$dir/conf/" /proc/[0-9]*/environ 2>/dev/null); do
        file=${file#/proc/}
        echo "${file%/environ}"
    done
}

alive() {
    local pid
    for pid in $(processes); do
        kill -0 "$pid" 2>/dev/null && return
    done
    return 1
}

stop() {
    trap - ERR EXIT
    [ -n "$dir" ] || fail "no cluster; hint: TISSERAND_CLUSTER_DIR names the folder of the one to stop"
    [ -e "$dir" ] || return 0
    [ -d "$dir/run" ] && [ -d "$dir/state" ] || fail "$dir: not the folder of a cluster"
    local try pid
    if [ -f "$dir/ready" ]; then
        export SLURM_CONF=$dir/slurm.conf
        timeout 5 scancel --signal=KILL --full --user=root 2>/dev/null || true
        timeout 5 scancel --user=root 2>/dev/null || true
        for try in $(seq 50); do
            [ -n "$(timeout 5 squeue --noheader 2>/dev/null)" ] || break
            sleep 0.1
        done
    fi
    for pid in $(processes); do kill "$pid" 2>/dev/null || true; done
    for try in $(seq 50); do
        alive || break
        sleep 0.1
    done
    for pid in $(processes); do kill -KILL "$pid" 2>/dev/null || true; done
    umount --lazy "$dir/disk" 2>/dev/null || true
    rm -rf --one-file-system "$dir"
}

install() {
    [ -n "$(missing)" ] || return 0
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        fail "only for root on Debian and Ubuntu; hint: install Slurm with slurmd, munge and PMIx, and Open MPI"
    apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"
}

dir=${TISSERAND_CLUSTER_DIR:-}
case ${1:-} in
    start) start "${2:-4}" ;;
    env)
        is_up || fail "no cluster runs${dir:+ in $dir}; hint: eval \"\$($0 start)\""
        print_environment
        ;;
    hold)
        cat >/dev/null || true
        stop
        ;;
    stop) stop ;;
    install) install ;;
    *) fail "usage: $0 start [NODES] | env | hold | stop | install" ;;
esac
