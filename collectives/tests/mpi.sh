#!/usr/bin/env bash
# Builds and runs the tests of the MPI communicator; returns 0 if all of them pass.
#
#   collectives/tests/mpi.sh            the suite for 1, 2, 3, 4 and 7 ranks, failures, the end of a job
#   collectives/tests/mpi.sh large      one message above 2^31 bytes: two ranks, 2.2 GB each
#   collectives/tests/mpi.sh bench      rates of two ranks, built with optimisation
#
# Uses MPICC and MPIRUN if set, else those on PATH.
set -uo pipefail
cd "$(dirname "$0")/../.."
mpirun=${MPIRUN:-mpirun}
what=${1:-all}

options=()
if "$mpirun" --version 2>&1 | grep -qiE 'open.?mpi|open mpi|openrte|prte'; then
    # More ranks than cores; root in a container.
    options+=(--oversubscribe)
    if [ "$(id -u)" = 0 ]; then options+=(--allow-run-as-root); fi
fi

profile=()
if [ "$what" = bench ]; then profile+=(--release); fi
binary=$(cargo test "${profile[@]}" -p tisserand-collectives --features mpi --test mpi --no-run --locked \
    --message-format=json-render-diagnostics | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
if [ -z "$binary" ]; then
    echo "mpi.sh: the tests do not build" >&2
    exit 1
fi

output=$(mktemp)
trap 'rm -f "$output"' EXIT
failed=0

# run SECONDS RANKS SCENARIO: sets rc; a scenario that hangs has 124.
run() {
    timeout "$1" "$mpirun" "${options[@]}" -n "$2" "$binary" "$3" >"$output" 2>&1
    rc=$?
}

verdict() {
    if [ "$3" = true ]; then
        printf 'ok      %s, %d ranks\n' "$1" "$2"
    else
        printf 'FAILED  %s, %d ranks, mpirun returned %d\n' "$1" "$2" "$rc"
        sed 's/^/    /' "$output"
        failed=1
    fi
}

all_ok() {
    [ "$(grep -c "^$1 rank [0-9]*: ok" "$output")" -eq "$2" ] && echo true || echo false
}

# Every rank passes, and MPI ends as it should.
passes() {
    run "$1" "$2" "$3"
    local good
    good=$(all_ok "$3" "$2")
    if [ "$rc" -ne 0 ]; then good=false; fi
    verdict "$3" "$2" "$good"
}

# Every rank passes; what mpirun returns for processes that do not end MPI is its own affair.
passes_unfinalised() {
    run "$1" "$2" "$3"
    verdict "$3" "$2" "$(all_ok "$3" "$2")"
}

# mpirun returns an error within that many seconds.
ends() {
    run "$1" "$2" "$3"
    local good=false
    if [ "$rc" -ne 0 ] && [ "$rc" -ne 124 ]; then good=true; fi
    verdict "$3" "$2" "$good"
}

case $what in
all)
    for ranks in 1 2 3 4 7; do passes 120 "$ranks" suite; done
    for ranks in 2 3; do passes_unfinalised 60 "$ranks" unchecked; done
    for ranks in 1 3; do passes 30 "$ranks" progress; done
    for ranks in 2 3 4; do passes_unfinalised 30 "$ranks" timeout; done
    for ranks in 2 3; do passes_unfinalised 30 "$ranks" abort; done
    ends 10 3 panic
    ;;
large)
    passes 300 2 large
    cat "$output"
    ;;
bench)
    passes 120 2 bench
    cat "$output"
    ;;
*)
    echo "mpi.sh: no tests called $what" >&2
    exit 2
    ;;
esac
exit "$failed"
