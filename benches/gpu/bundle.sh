#!/usr/bin/env bash
# Builds one folder with everything that proves and measures the CUDA device on a machine that has only an NVIDIA driver:
# trainer, tests, benchmarks, a corpus and run.sh. benches/gpu/README.md says how to use it.
#
#   benches/gpu/bundle.sh [FOLDER]      default: target/gpu-bundle; FOLDER.tar.zst (or .tar.gz) beside it
#
# The corpus is made from the sources of this repository. Programs are stripped and compressed, since each has all kernels in
# three forms, with the text that debuggers want; run.sh expands them.
set -euo pipefail
cd "$(dirname "$0")/../.."
case ${1:-} in -*)
    # What stands above.
    sed -n '2,/^[^#]/ { s/^# \{0,1\}//p; }' benches/gpu/bundle.sh
    case $1 in -h | --help) exit 0 ;; *) exit 2 ;; esac
    ;;
esac
bundle=${1:-target/gpu-bundle}
most_bytes=$((40 << 20))

say() { printf '%s\n' "$*"; }
fail() {
    printf 'bundle.sh: %s\n' "$*" >&2
    exit 1
}

# The paths of the programs in cargo's messages on standard input: name, tab, path.
programs() {
    sed -n 's/.*"target":{[^}]*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1\t\2/p'
}

features=cuda
packages=(-p tisserand -p tisserand-kernels)
targets=(--bin tisserand --bench gpu --test cuda)
if grep -q '^nccl = ' Cargo.toml; then
    features=cuda,nccl
    packages+=(-p tisserand-collectives)
    targets+=(--test nccl)
fi

started=$SECONDS
# One call, so that the kernels are compiled once.
built=$(cargo build --release --locked "${packages[@]}" --features "$features" "${targets[@]}" \
    --message-format=json-render-diagnostics | programs)
say "built with features $features in $((SECONDS - started)) s"

rm -rf "$bundle"
mkdir -p "$bundle/corpus" "$bundle/runs"
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT

# add NAME AS: a program, stripped.
add() {
    local path
    path=$(awk -F '\t' -v name="$1" '$1 == name { print $2 }' <<<"$built" | tail -n 1)
    [ -n "$path" ] || fail "cargo built no $1"
    cp "$path" "$programs/$2"
    strip --strip-all "$programs/$2"
    gzip -n -9 -c "$programs/$2" >"$bundle/$2.gz"
}
add tisserand tisserand
add cuda check
add gpu bench
if [ "$features" != cuda ]; then
    add nccl check-nccl
    cp collectives/tests/nccl.sh "$bundle/"
fi

cp benches/gpu/run.sh benches/gpu/peers.py benches/peers/torch_train.py "$bundle/"
cp benches/gpu/runs/* "$bundle/runs/"
started=$SECONDS
mapfile -t texts < <(git ls-files '*.rs' '*.cu' '*.cuh' '*.cpp' '*.h' '*.md' '*.toml' '*.sh' '*.py')
"$programs/tisserand" tokenizer train --vocab-size 16384 --out "$bundle/corpus/tokenizer.json" "${texts[@]}"
"$programs/tisserand" data tokenize --tokenizer "$bundle/corpus/tokenizer.json" --out "$bundle/corpus/tokens" "${texts[@]}"
say "corpus of ${#texts[@]} files in $((SECONDS - started)) s"

# The newest symbol version of glibc that a program needs.
glibc() {
    { objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1; } || true
}
{
    printf 'commit %s%s\n' "$(git rev-parse HEAD)" "$(git diff --quiet HEAD || printf ' with changes')"
    printf 'built %s, features %s, %s, %s\n' "$(date -u +%Y-%m-%d)" "$features" "$(rustc --version)" "$(uname -m)"
    for program in "$programs"/*; do
        printf '%s: %s bytes, needs %s or newer\n' "${program##*/}" "$(stat -c %s "$program")" "$(glibc "$program")"
    done
} | tee "$bundle/VERSION"

size=$(du -sb "$bundle" | cut -f 1)
du -b "$bundle"/* | sort -rn | awk '{ printf "%10.2f MiB  %s\n", $1 / 1048576, $2 }'
say "$(awk -v size="$size" 'BEGIN { printf "%.2f MiB in all", size / 1048576 }')"
[ "$size" -le "$most_bytes" ] || fail "$size bytes, at most $most_bytes"
if command -v zstd >/dev/null; then
    tar -C "$(dirname "$bundle")" -cf - "$(basename "$bundle")" | zstd -q -15 -f -o "$bundle.tar.zst"
    archive=$bundle.tar.zst
else
    tar -C "$(dirname "$bundle")" -czf "$bundle.tar.gz" "$(basename "$bundle")"
    archive=$bundle.tar.gz
fi
say "$archive: $(stat -c %s "$archive") bytes"
