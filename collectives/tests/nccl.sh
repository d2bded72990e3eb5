#!/usr/bin/env bash
# Builds and runs the tests of the NCCL communicator; returns 0 if all of them pass.
#
#   collectives/tests/nccl.sh install    a folder with libnccl, downloaded from PyPI the first time (350 MB); prints it
#   collectives/tests/nccl.sh library    what needs libnccl and no GPU
#   collectives/tests/nccl.sh            on a machine with GPUs: also the suite for 1, 2 and 4 ranks, timeout, death
#   collectives/tests/nccl.sh quick      of these, the suite for 1 and 2 ranks, timeout and death for 2
#   collectives/tests/nccl.sh bench      rates, for as many ranks as there are GPUs, at least 2
#
# With fewer GPUs than ranks, ranks share them: NCCL 2.30 or newer allows that when asked; older ones take ranks of
# "different hosts", which then talk by sockets. That proves order, bits and failures, and nothing about NVLink or rates.
# NCCL_TEST_HOSTS=1: different hosts also with a newer one.
# NCCL_TEST_BINARY: a built test program to run instead of building one.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
what=${1:-all}

install() {
    local folder=${XDG_CACHE_HOME:-$HOME/.cache}/tisserand/nccl
    if [ ! -e "$folder/nvidia/nccl/lib/libnccl.so.2" ]; then
        python3 -m pip install --quiet --no-deps --target "$folder" 'nvidia-nccl-cu12>=2.27,!=2.29.2' >&2 || return 1
    fi
    printf '%s\n' "$folder/nvidia/nccl"
}

if [ "$what" = install ]; then
    install
    exit
fi

binary=${NCCL_TEST_BINARY:-}
if [ -z "$binary" ]; then
    binary=$(cargo test -p tisserand-collectives --features nccl --test nccl --no-run --locked \
        --message-format=json-render-diagnostics | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
fi
if [ -z "$binary" ]; then
    echo "nccl.sh: the tests do not build" >&2
    exit 1
fi

output=$(mktemp)
trap 'rm -f "$output"' EXIT
# Whoever ends this script ends its ranks too; what they have said until then is told.
trap 'sed "s/^/    /" "$output"; exit 143' TERM
failed=0

verdict() {
    if [ "$3" = true ]; then
        printf 'ok      %s, %d ranks\n' "$1" "$2"
    else
        printf 'FAILED  %s, %d ranks\n' "$1" "$2"
        sed 's/^/    /' "$output"
        failed=1
    fi
}

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')

# Whether this NCCL lets ranks of one host share a GPU.
shares_gpus() {
    local version
    version=$(timeout 60 "$binary" library 2>/dev/null | sed -n 's/.*NCCL \([0-9]*\)\.\([0-9]*\)\..*/\1 \2/p')
    # shellcheck disable=SC2086
    set -- ${version:-0 0}
    [ "$1" -gt 2 ] || { [ "$1" -eq 2 ] && [ "$2" -ge 30 ]; }
}
hosts=${NCCL_TEST_HOSTS:-}
if [ -z "$hosts" ] && ! shares_gpus; then hosts=1; fi

# run SECONDS RANKS SCENARIO: every rank is a process; all must say that they are well.
run() {
    local port=$((20000 + RANDOM % 20000)) rank pids=()
    : >"$output"
    for ((rank = 0; rank < $2; rank++)); do
        local share=()
        if [ "$2" -gt "$gpus" ]; then
            # Few blocks for each, as NCCL's manual advises: the ranks must find room together.
            share=(NCCL_MAX_CTAS=4)
            if [ -n "$hosts" ]; then
                share+=("NCCL_HOSTID=test-$rank" NCCL_NET=Socket NCCL_IB_DISABLE=1 NCCL_SOCKET_IFNAME=lo)
                # Else GPUs of one NVLink domain count as one host's again.
                share+=(NCCL_MNNVL_ENABLE=0)
            else
                share+=(NCCL_MULTI_RANK_GPU_ENABLE=1)
            fi
        fi
        # In the foreground: in the group of this script, so that who ends the script ends its ranks.
        env "${share[@]}" RANK=$rank WORLD_SIZE="$2" MASTER_PORT=$port timeout --foreground --kill-after=5 "$1" "$binary" "$3" \
            >>"$output" 2>&1 &
        pids+=($!)
    done
    local pid
    for pid in "${pids[@]}"; do wait "$pid"; done
    local good=false
    if [ "$(grep -c "^$3 rank [0-9]*: ok" "$output")" -eq "$2" ]; then good=true; fi
    verdict "$3" "$2" "$good"
}

library() {
    if timeout 60 "$binary" library >"$output" 2>&1; then cat "$output"; else verdict library 1 false; fi
}

need_gpu() {
    if [ "$gpus" -eq 0 ]; then
        echo "nccl.sh: there is no GPU here: only the library was tested" >&2
        exit 1
    fi
}

case $what in
library) library ;;
quick)
    library
    need_gpu
    run 20 1 suite
    run 60 2 suite
    run 20 2 timeout
    run 20 2 dead
    ;;
all)
    library
    need_gpu
    for ranks in 1 2 4; do run 240 "$ranks" suite; done
    for ranks in 2 4; do run 240 "$ranks" unchecked; done
    # With NCCL's own order of kernels, where it has one, instead of ours.
    for ranks in 2 4; do NCCL_LAUNCH_ORDER_IMPLICIT=1 run 240 "$ranks" unchecked; done
    for ranks in 2 3; do run 60 "$ranks" timeout; done
    for ranks in 2 3; do run 60 "$ranks" dead; done
    ;;
bench)
    run 240 $((gpus > 2 ? gpus : 2)) bench
    cat "$output"
    ;;
*)
    echo "nccl.sh: no tests called $what" >&2
    exit 2
    ;;
esac
exit "$failed"
