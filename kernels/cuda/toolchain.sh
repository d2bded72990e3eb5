#!/bin/sh
# Prints the folder of an NVRTC with which the kernels can be built, and installs one, without root, if there is none.
#
#   toolchain.sh                  folder of libnvrtc: that of CUDA_HOME if it is 12.4 or newer, else the pinned one,
#                                 which is downloaded the first time (25 MB)
#   toolchain.sh --disassembler   folder of cuobjdump and nvdisasm: that of CUDA_HOME if it has both, else the pinned
#                                 ones, which are downloaded the first time (6 MB)
#   --installed                   after either: downloads nothing; exit code 1 if it would have to
#
# Downloads come from PyPI through pip, pinned by hash, into ${XDG_CACHE_HOME:-$HOME/.cache}/tisserand. Each lands in
# a folder of its own beside its destination and is renamed when complete, so that an interrupted or a second,
# simultaneous call does no harm. The build looks there by itself; on a machine without internet, copy the folder.
set -eu

cache=${XDG_CACHE_HOME:-${HOME:?toolchain.sh: neither XDG_CACHE_HOME nor HOME is set}/.cache}/tisserand

# The first hash is of x86-64, the second of aarch64.
nvrtc_folder=$cache/nvrtc-12.4.127
nvrtc_requirements='
nvidia-cuda-nvrtc-cu12==12.4.127 \
    --hash=sha256:a178759ebb095827bd30ef56598ec182b85547f1508941a3d560eb7ea1fbf338 \
    --hash=sha256:0eedf14185e04b76aa05b1fea04133e59f465b6f960c0cbf4e37c3cb6b0ea198'

disassembler_folder=$cache/disassembler-13.5.37
disassembler_requirements='
nvidia-cuda-cuobjdump==13.5.37 \
    --hash=sha256:38780fee50863252a0b8926357faa91615ca1c8346490563f33a06100cd73f58 \
    --hash=sha256:f48e3148535365161a268547b285fd01d92c80e4b457275375933825b5fc26b2
nvidia-cuda-nvdisasm==13.5.37 \
    --hash=sha256:d3fdbdd49fa53e2e4aacd3db8259d052bd2b049ececdcb69e92e083c6728e7ca \
    --hash=sha256:a3a8248074edb9fba63b74c38a5416b712a91ab09e70b8ab37186c3d293fc605'

fail() {
    printf 'toolchain.sh: %s\n' "$1" >&2
    exit 1
}

# Is the folder's NVRTC new enough? Its version is in the name of the library of built-in headers, which belongs to it.
is_nvrtc() {
    for builtins in "$1"/libnvrtc-builtins.so.*; do
        version=${builtins##*/libnvrtc-builtins.so.}
        major=${version%%.*}
        minor=${version#*.}
        minor=${minor%%.*}
        case $major$minor in *[!0-9]* | '') continue ;; esac
        if [ "$major" -gt 12 ] || { [ "$major" -eq 12 ] && [ "$minor" -ge 4 ]; }; then
            return 0
        fi
    done
    return 1
}

# Runs pip: the one of python3, or else that of a virtual environment made for this call.
run_pip() {
    if ! python3 -m pip --version >/dev/null 2>&1; then
        python3 -m venv "$staging/venv" >&2 ||
            fail 'python3 has neither pip nor venv; hint: load a Python module, or set CUDA_HOME to a CUDA 12.4 or newer'
        PATH=$staging/venv/bin:$PATH
    fi
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip "$@" >&2
}

# install FOLDER REQUIREMENTS: FOLDER is complete, or does not exist.
install() {
    if [ -d "$1" ]; then return; fi
    if [ "$offline" = yes ]; then exit 1; fi
    command -v python3 >/dev/null ||
        fail 'python3 is not in PATH; hint: load a Python module, or set CUDA_HOME to a CUDA 12.4 or newer'
    mkdir -p "$cache"
    staging=$(mktemp -d "$cache/installing.XXXXXX")
    trap 'rm -rf "$staging"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '%s\n' "$2" >"$staging/requirements.txt"
    run_pip install --quiet --no-user --no-deps --no-compile --only-binary :all: --require-hashes \
        --target "$staging/files" --requirement "$staging/requirements.txt" ||
        fail "pip could not install into $1; hint: this needs internet and pip 19.3 or newer; or set CUDA_HOME to a CUDA 12.4 or newer"
    # Fails if another call was faster, which is as good.
    mv -T "$staging/files" "$1" 2>/dev/null || [ -d "$1" ] || fail "cannot create $1"
}

nvrtc() {
    if [ -n "${CUDA_HOME:-}" ]; then
        for folder in "$CUDA_HOME"/lib64 "$CUDA_HOME"/lib "$CUDA_HOME"/targets/*/lib; do
            if is_nvrtc "$folder"; then
                printf '%s\n' "$folder"
                return
            fi
        done
        printf 'toolchain.sh: CUDA_HOME=%s has no NVRTC 12.4 or newer; using the pinned one\n' "$CUDA_HOME" >&2
    fi
    install "$nvrtc_folder" "$nvrtc_requirements"
    printf '%s\n' "$nvrtc_folder/nvidia/cuda_nvrtc/lib"
}

disassembler() {
    if [ -n "${CUDA_HOME:-}" ] && [ -x "$CUDA_HOME/bin/cuobjdump" ] && [ -x "$CUDA_HOME/bin/nvdisasm" ]; then
        printf '%s\n' "$CUDA_HOME/bin"
        return
    fi
    install "$disassembler_folder" "$disassembler_requirements"
    printf '%s\n' "$disassembler_folder/nvidia/cu13/bin"
}

wanted=nvrtc
offline=no
for option; do
    case $option in
    --disassembler) wanted=disassembler ;;
    --installed) offline=yes ;;
    *) fail 'usage: toolchain.sh [--disassembler] [--installed]' ;;
    esac
done
$wanted
