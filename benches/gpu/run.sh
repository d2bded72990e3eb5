#!/usr/bin/env bash
# Proves and measures the CUDA device on this machine. Lies in the folder that benches/gpu/bundle.sh makes; benches/gpu/README.md
# says what each part means.
#
#   ./run.sh [PART] [RESULTS]     PART: conformance, kernels, train, nccl, bench, sanitizer, curves, or all (the first six, at
#                                 most 8 minutes); RESULTS: folder for the files, default: results
#
# Prints results as they come, ends with one JSON object, which is also RESULTS/result.json, and fails if a part has failed.
# Needs a driver; uses python3 with PyTorch, libnccl and compute-sanitizer where they are. Changes no setting of the GPU.
set -uo pipefail
# Numbers with points, whatever the user's language.
export LC_ALL=C
# The programs are stripped: a trace of theirs would be a page of addresses.
export RUST_BACKTRACE=0
# A toolkit's compute-sanitizer, where PATH has none.
PATH=$PATH:/usr/local/cuda/bin
here=$(cd "$(dirname "$0")" && pwd)
part=${1:-all}
case $part in
conformance | kernels | train | nccl | bench | sanitizer | curves | all) ;;
*)
    printf 'run.sh: no part %s; hint: conformance, kernels, train, nccl, bench, sanitizer, curves or all\n' "$part" >&2
    exit 2
    ;;
esac
mkdir -p "${2:-results}" || exit 2
results=$(cd "${2:-results}" && pwd)
cd "$here" || exit 2
runs=$(mktemp -d) || exit 2
lines=$runs/lines
: >"$lines"
failed=0
# Seconds since the start after which nothing begins or goes on.
deadline=3600
# The process group that works now, and the process that looks for PyTorch.
group='' torch_finder=''

say() { printf '%s\n' "$*"; }

# Seconds since the start, with two digits.
now() {
    local us=${EPOCHREALTIME/[.,]/}
    printf '%d.%02d' $(((us - begun_us) / 1000000)) $(((us - begun_us) / 10000 % 100))
}
begun_us=${EPOCHREALTIME/[.,]/}

# A string of JSON: of other characters than ASCII, of which a cut may have left halves, nothing stays.
quoted() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    printf '"%s"' "$(printf '%s' "$text" | tr '\n\t\r' '   ' | tr -cd '\040-\176')"
}

# record NAME STATUS SECONDS [DETAIL]: a result; STATUS is ok, failed or skipped.
record() {
    printf '{"name":%s,"status":"%s","seconds":%s,"detail":%s}\n' "$(quoted "$1")" "$2" "$3" "$(quoted "${4:-}")" >>"$lines"
    printf '%-8s %7s s  %s%s\n' "$2" "$3" "$1" "${4:+: $4}"
    if [ "$2" = failed ]; then failed=1; fi
}

# Seconds from a moment of `now`.
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f", b - a }'; }

# What the last command printed that tells most: the last line, and which tests have failed.
why() {
    {
        grep '[^[:space:]]' "$runs/output" | grep -v '^ *note: ' | tail -n 1 | sed 's/^ *//'
        sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p; s/^FAILED  //p' "$runs/output"
    } | paste -sd '|' - | sed 's/|/ | /g' | cut -c 1-400
}

# attempt NAME LIMIT COMMAND...: prints what it prints, at most LIMIT seconds and not beyond the deadline, and records how it
# ended. Nothing that it has started outlives it, nor can hold it up: its output goes through a file, not a pipe.
attempt() {
    local name=$1 limit=$2 start status left reader
    shift 2
    start=$(now)
    left=$((deadline - ${start%.*}))
    if [ "$left" -lt 5 ]; then
        skip "$name" "no time left"
        return 1
    fi
    if [ "$limit" -gt "$left" ]; then limit=$left; fi
    say "== $name, at most $limit s"
    : >"$runs/output"
    # `timeout` makes a process group of its own, which has its number.
    timeout --kill-after=5 "$limit" "$@" >"$runs/output" 2>&1 &
    group=$!
    tail -s 0.1 --pid="$group" -n +1 -f "$runs/output" &
    reader=$!
    wait "$group" 2>/dev/null
    status=$?
    kill -KILL -- "-$group" 2>/dev/null
    group=''
    wait "$reader"
    case $status in
    0) record "$name" ok "$(since "$start")" ;;
    124 | 137) record "$name" failed "$(since "$start")" "not done after $limit s: $(why)" ;;
    *) record "$name" failed "$(since "$start")" "exit code $status: $(why)" ;;
    esac
    # What is there if this script is killed.
    result >"$results/result.json"
    return "$status"
}

# skip NAME REASON
skip() { record "$1" skipped 0 "$2"; }

# Clocks, power, driver and temperature; $1 names the moment.
machine() {
    local fields=name,driver_version,memory.total,memory.used,clocks.sm,clocks.mem,clocks.max.sm,power.draw,power.limit
    fields+=,temperature.gpu,pstate,clocks_event_reasons.active
    command -v nvidia-smi >/dev/null || return 0
    {
        say "$1: $fields"
        timeout 15 nvidia-smi --query-gpu="$fields" --format=csv,noheader ||
            timeout 15 nvidia-smi --query-gpu="${fields%,*}" --format=csv,noheader
    } 2>&1 | tee -a "$results/machine.txt"
}

# Looks for PyTorch in the background: the first import after a boot reads gigabytes, which takes a minute on some machines.
find_torch() {
    timeout --kill-after=5 90 python3 -c 'import torch
assert torch.cuda.is_available()
nccl = ".".join(map(str, torch.cuda.nccl.version()))
print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, NCCL {nccl}")' \
        >"$runs/torch" 2>"$runs/torch-errors" &
    torch_finder=$!
}

# Whether python3 has PyTorch with a GPU; says once which, or why not.
has_torch() {
    if [ -n "$torch_finder" ]; then
        wait "$torch_finder"
        torch_finder=''
        { cat "$runs/torch" && tail -n 1 "$runs/torch-errors"; } | tee -a "$results/machine.txt"
    fi
    [ -s "$runs/torch" ]
}

# --- parts

conformance() {
    attempt "conformance: instructions" 60 "$bin/check" instructions::
}

# Each family in a process of its own: after the fault of a kernel a process can do nothing more on its GPU.
kernels() {
    local family
    for family in $("$bin/check" --list 2>/dev/null | sed -n 's/^\([a-z_]*\)::.*: test$/\1/p' | sort -u); do
        if [ "$family" != instructions ]; then attempt "kernels: $family" 25 "$bin/check" "$family::"; fi
    done
}

# train NAME LIMIT FILE KEY=VALUE...: a run in $runs/NAME; RANKS ranks that are threads.
train() {
    local name=$1 limit=$2 file=$3 sets=() key
    shift 3
    for key in "$@"; do sets+=(--set "$key"); done
    attempt "train: $name" "$limit" "$bin/tisserand" train "runs/$file.toml" --ranks "${RANKS:-1}" --set "run.dir=$runs/$name" "${sets[@]}"
}

# speed_of NAME LIMIT FILE STEP KEY=VALUE...: as train, but the run is killed when it has logged STEP: a run that ends writes a
# checkpoint.
speed_of() {
    local name=$1 limit=$2 file=$3 step=$4 sets=() key
    shift 4
    for key in "$@" training.steps=100000; do sets+=(--set "$key"); done
    # shellcheck disable=SC2016
    attempt "train: $name" "$limit" bash -c '
        metrics=$1 step=$2
        shift 2
        "$@" &
        while kill -0 $! 2>/dev/null && ! grep -q "\"step\":$step," "$metrics" 2>/dev/null; do sleep 0.2; done
        kill -9 $! 2>/dev/null
        # The next program finds the memory of the GPU free.
        wait $! 2>/dev/null
        grep -q "\"step\":$step," "$metrics"' \
        speed_of "$runs/$name/metrics.jsonl" "$step" "$bin/tisserand" train "runs/$file.toml" --set "run.dir=$runs/$name" "${sets[@]}" &&
        speed "$name"
}

# The losses of a run, one a line.
losses() { sed -n 's/.*"type":"step".*"loss":"\{0,1\}\([^,"]*\).*/\1/p' "$runs/$1/metrics.jsonl" 2>/dev/null; }

# follows A B BOUND: losses of two runs differ by at most BOUND, relative.
follows() {
    local verdict
    verdict=$(paste <(losses "$1") <(losses "$2") | awk -v bound="$3" '
        NF == 2 && $1 + 0 == $1 { d = ($1 - $2) / $2; if (d < 0) d = -d; if (d > worst) worst = d; n++; next }
        { bad = 1 }
        END { printf "%s %d steps, losses differ by %.2e, bound %.0e", n && !bad && worst <= bound ? "ok" : "failed", n, worst, bound }')
    record "parity: $1 follows $2" "${verdict%% *}" 0 "${verdict#* }"
}

# equal A B: all tensors of the checkpoints of step 20 have the same bits.
equal() {
    local said status=ok
    said=$(timeout 30 "$bin/tisserand" checkpoint diff "$runs/$1/checkpoints/step-00000020" "$runs/$2/checkpoints/step-00000020" 2>&1) || status=failed
    record "bits: $1 equals $2" "$status" 0 "$(tail -n 1 <<<"$said")"
}

# Dense bf16 products of an H100 or H200 SXM, as the vendor states them.
peak_flop_per_s=989.4e12

# speed NAME: tokens per second and share of the peak from the metrics of a run: median without the first.
speed() {
    local rate flops
    rate=$(sed -n '2,$ s/.*"tokens_per_s":\([^,]*\).*/\1/p' "$runs/$1/metrics.jsonl" | sort -g | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }')
    flops=$(sed -n 's/.*"flops_per_token":\([^,]*\).*/\1/p' "$runs/$1/metrics.jsonl" | tail -n 1)
    [ -n "$rate" ] && [ -n "$flops" ] || return 0
    awk -v name="$1" -v rate="$rate" -v flops="$flops" -v peak="$peak_flop_per_s" 'BEGIN {
        printf "{\"run\":\"%s\",\"tokens_per_s\":%.0f,\"mfu\":%.4f}\n", name, rate, rate * flops / peak }' |
        tee -a "$results/speed.jsonl"
}

parity() {
    train cpu-bf16 40 tiny run.device=cpu
    train cuda-bf16 40 tiny run.device=cuda checkpoint.every_steps=10 && follows cuda-bf16 cpu-bf16 1e-2
    train cpu-f32 40 tiny run.device=cpu precision.compute=f32
    train cuda-f32 40 tiny run.device=cuda precision.compute=f32 && follows cuda-f32 cpu-f32 2e-5
    RANKS=2 train cuda-tp2 40 tiny run.device=cuda mesh.tp=2 && follows cuda-tp2 cpu-bf16 1e-2
    RANKS=2 train cuda-zero3 40 tiny run.device=cuda mesh.dp_shard=2 mesh.zero=3 && follows cuda-zero3 cpu-bf16 1e-2
}

bits() {
    # From the checkpoint of step 10 on, as if the run had been killed.
    cp -r "$runs/cuda-bf16" "$runs/cuda-resumed" && rm -rf "$runs/cuda-resumed/checkpoints/step-00000020" "$runs/cuda-resumed/LOCK"
    train cuda-resumed 40 tiny run.device=cuda checkpoint.every_steps=10 && equal cuda-resumed cuda-bf16
    local sets=(run.device=cuda determinism.mesh_invariant=true checkpoint.every_steps=20)
    train cuda-invariant 40 tiny "${sets[@]}"
    RANKS=2 train cuda-invariant-dp2 40 tiny "${sets[@]}" mesh.dp_shard=2 mesh.zero=3 && equal cuda-invariant-dp2 cuda-invariant
}

training() {
    parity
    speed_of medium 40 medium 100 log.every_steps=20
    [ -e "$runs/cuda-bf16/checkpoints/step-00000020" ] && bits
    graphs
    speed_of medium-graph 40 medium 100 log.every_steps=20 run.cuda_graph=true
}

# A run whose steps are replayed as CUDA graphs has the bits of one without, also with three micro-batches and document masks.
graphs() {
    [ -e "$runs/cuda-bf16/checkpoints/step-00000020" ] &&
        train cuda-graph 40 tiny run.device=cuda run.cuda_graph=true checkpoint.every_steps=10 && equal cuda-graph cuda-bf16
    local sets=(run.device=cuda training.global_batch=3 training.micro_batch=1 checkpoint.every_steps=20)
    train cuda-accum3 40 tiny "${sets[@]}"
    train cuda-accum3-graph 40 tiny "${sets[@]}" run.cuda_graph=true && equal cuda-accum3-graph cuda-accum3
    # Where launches weigh most: steps of a model that is far too small for the GPU.
    sets=(run.device=cuda log.every_steps=100)
    speed_of tiny-speed 25 tiny 500 "${sets[@]}"
    speed_of tiny-speed-graph 25 tiny 500 "${sets[@]}" run.cuda_graph=true
}

nccl() {
    if [ ! -x "$bin/check-nccl" ]; then
        skip nccl "this bundle was built without NCCL"
        return
    fi
    if [ -z "${NCCL_HOME:-}" ] && ! ldconfig -p 2>/dev/null | grep 'libnccl\.so' >/dev/null; then
        local found
        found=$(timeout 20 python3 -c 'import glob, sys
for p in sys.path:
    for f in glob.glob(p + "/nvidia/nccl/lib/libnccl.so*"): print(f.rsplit("/", 2)[0])' 2>/dev/null | head -n 1)
        if [ -z "$found" ]; then
            skip nccl "no libnccl by the loader or in python3's packages; NCCL_HOME says where it is"
            return
        fi
        export NCCL_HOME=$found
    fi
    if [ -n "${quick:-}" ]; then
        NCCL_TEST_BINARY=$bin/check-nccl attempt "nccl: 1 and 2 ranks" 130 bash ./nccl.sh quick
    else
        NCCL_TEST_BINARY=$bin/check-nccl attempt "nccl: 1, 2 and 4 ranks" 600 bash ./nccl.sh
    fi
}

sanitizer() {
    if ! command -v compute-sanitizer >/dev/null; then
        skip sanitizer "there is no compute-sanitizer here"
        return
    fi
    if ! timeout 30 compute-sanitizer --report-api-errors no "$bin/check" elementwise::fill >"$runs/output" 2>&1; then
        skip sanitizer "compute-sanitizer does not work here: $(grep -m 1 -i 'not supported\|error' "$runs/output" | cut -c 1-200)"
        return
    fi
    # An answer of the driver that is no success is no mistake: a kernel is asked for its parameters until there is no more.
    local options=(--report-api-errors no --error-exitcode 1)
    local memcheck=(compute-sanitizer --tool memcheck "${options[@]}") racecheck=(compute-sanitizer --tool racecheck "${options[@]}")
    # Without the tests that do one thing hundreds of times: under memcheck they take minutes.
    attempt "sanitizer: memcheck" 45 "${memcheck[@]}" "$bin/check" --test-threads 1 --skip instructions::order \
        instructions:: elementwise:: rms_norm:: swiglu:: rope::
    attempt "sanitizer: racecheck" 30 "${racecheck[@]}" "$bin/check" --test-threads 1 instructions::memory instructions::fragments rms_norm::
}

bench() {
    attempt "bench: ops" "${bench_limit:-50}" "$bin/bench" ${quick:+--quick} --json "$results/ops.jsonl"
    machine "after the ops"
    speed_of large 40 large 16
    if ! has_torch; then
        skip "bench: peers" "python3 has no PyTorch with a GPU"
        return
    fi
    torch_large "bench: PyTorch, 1.1B"
    case $? in
    0 | 124 | 137) ;;
    # torch.compile wants a C compiler and Python's headers.
    *) torch_large "bench: PyTorch, 1.1B, not compiled" --eager ;;
    esac
    attempt "bench: ops in PyTorch" "${peers_limit:-90}" python3 peers.py ${quick:+--quick} --json "$results/peers.jsonl"
    if [ -s "$results/ops.jsonl" ] && [ -s "$results/peers.jsonl" ]; then
        timeout 20 python3 peers.py --compare "$results/ops.jsonl" "$results/peers.jsonl" | tee "$results/compared.txt"
    fi
}

# torch_large NAME OPTION...: the large model in PyTorch.
torch_large() {
    local name=$1
    shift
    attempt "$name" 70 python3 torch_train.py --tokens corpus/tokens --config runs/large.json --steps 16 --log-every 4 \
        --seq-len 4096 --global-batch 4 --micro-batch 4 --lr 3e-4 --warmup-steps 4 --json "$runs/large-peer.jsonl" "$@" ||
        return
    grep '"type": "run"' "$runs/large-peer.jsonl" | sed 's/, "losses": \[[^]]*\]//' | tee -a "$results/speed.jsonl"
    return 0
}

# The medium model beside PyTorch from the same weights: TISSERAND_CURVE_STEPS steps, by default 2,000.
curves() {
    local steps=${TISSERAND_CURVE_STEPS:-2000}
    train medium-weights 60 medium training.steps=1 schedule.warmup_steps=0 optimizer.lr=1e-30 precision.compute=f32 \
        checkpoint.weights_every_steps=1 || return
    train medium-curve 300 medium training.steps="$steps" && speed medium-curve
    cp "$runs/medium-curve/metrics.jsonl" "$results/curve.jsonl"
    has_torch || { skip "curves: PyTorch" "python3 has no PyTorch with a GPU"; return; }
    attempt "curves: PyTorch" 300 python3 torch_train.py --tokens corpus/tokens --init "$runs/medium-weights/weights/step-00000001" \
        --steps "$steps" --json "$results/curve-peer.jsonl" || return
    paste <(losses medium-curve) <(sed -n 's/.*"type": "step".*"loss": \([^,}]*\).*/\1/p' "$results/curve-peer.jsonl") | awk '
        NF == 2 { d = $1 - $2; sum += d; if (d < 0) d = -d; if (d > worst) worst = d; n++; last = $1 " and " $2 }
        END { printf "{\"curves\":%d,\"mean_difference\":%.5f,\"largest_difference\":%.5f,\"last\":\"%s\"}\n", n, n ? sum / n : 0, worst, last }' |
        tee -a "$results/speed.jsonl"
    "$bin/tisserand" plot "$results/curve.jsonl" "$results/curve-peer.jsonl" --out "$results/curves.html"
}

# --- the whole

# Objects of JSON lines as one array; an empty one of a file that is not there. A line that was cut off is left out.
array() {
    local objects
    objects=$(grep -hs '^{.*}$' "$1" | paste -sd, -)
    printf '[%s]' "$objects"
}

# All results so far as one object.
result() {
    printf '{"bundle":%s,' "$(quoted "$(cat VERSION 2>/dev/null)")"
    printf '"machine":%s,' "$(quoted "$(cat "$results/machine.txt" 2>/dev/null)")"
    printf '"part":"%s","failed":%d,"seconds":%s,' "$part" "$failed" "$(now)"
    printf '"results":%s,"speed":%s,"ops":%s,"peers":%s}\n' "$(array "$lines")" "$(array "$results/speed.jsonl")" \
        "$(array "$results/ops.jsonl")" "$(array "$results/peers.jsonl")"
}

# The end, whatever leads to it: nothing goes on, and the results so far are there.
finish() {
    trap '' HUP INT TERM
    if [ -n "$group" ]; then
        kill -KILL -- "-$group" 2>/dev/null
        wait "$group" 2>/dev/null
    fi
    if [ -n "$torch_finder" ]; then kill "$torch_finder" 2>/dev/null; fi
    if [ "$has_begun" = yes ]; then
        say "$(grep -c '"status":"ok"' "$lines") ok, $(grep -c '"status":"failed"' "$lines") failed, $(
            grep -c '"status":"skipped"' "$lines") skipped in $(now) s"
        sed -n 's/^{"name":"\([^"]*\)","status":"failed".*/failed: \1/p' "$lines"
        result | tee "$results/result.json"
    fi
    rm -rf "$runs"
}

# by SECOND PART: what the part has not done when so many seconds have passed is not done: others come after it.
by() {
    deadline=$1
    "$2"
}

has_begun=no
trap finish EXIT
trap 'record run.sh failed "$(now)" "ended by a signal"; exit 143' HUP INT TERM
bin=$runs/bin
mkdir "$bin"
for program in *.gz; do
    gunzip -c "$program" >"$bin/${program%.gz}" && chmod +x "$bin/${program%.gz}" || exit 2
done
rm -f "$results"/{machine.txt,speed.jsonl,ops.jsonl,peers.jsonl,compared.txt,curve.jsonl,curve-peer.jsonl,curves.html}
cat VERSION 2>/dev/null
# One line of what is missing, where there is no GPU.
probed=$(timeout --kill-after=5 60 "$bin/bench" --probe) || exit 1
say "$probed; $(uname -srm), $(nproc) processors" | tee "$results/machine.txt"
machine before
has_begun=yes
case $part in all | bench | curves) find_torch ;; esac
case $part in
conformance | kernels | sanitizer | nccl | curves) "$part" ;;
bench)
    bench_limit=180 peers_limit=240
    bench
    ;;
train) training ;;
all)
    quick=yes
    by 45 conformance
    by 125 kernels
    by 215 training
    by 385 bench
    by 425 nccl
    by 465 sanitizer
    ;;
esac
machine after
exit "$failed"
