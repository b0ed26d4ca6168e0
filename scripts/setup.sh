#!/usr/bin/env bash
# Make .venv with a patched llama-cpp-python and this project. Idempotent; an interrupted run resumes.
#
#   CMAKE_ARGS   options of the build, as for llama-cpp-python: -DGGML_METAL=on, -DGGML_CUDA=on, -DGGML_RPC=on
#   PYTHON       interpreter for .venv (default: python3), 3.10 to 3.13
#   EXTRAS       extras of the project to install (default: completion,documents,server)

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

sdist_version=0.3.36
sdist_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
patch_version=$(sed -n 's/^PATCH_VERSION = //p' dapq_edge/_version.py)

python=${PYTHON:-python3}
extras=${EXTRAS-completion,documents,server}
venv=$root/.venv
build=$root/.build
name=llama_cpp_python-$sdist_version
src=$build/$name
log=$build/build.log

# pip only needs the package index here, and its progress bars are useless in a log
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; }

check_machine() {
    command -v "$python" > /dev/null || die "$python not found: install Python 3.10 to 3.13, or set PYTHON"
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
        die "$("$python" -V) is not supported: install Python 3.10 to 3.13, or set PYTHON"
    "$python" -c 'import ensurepip, venv' 2> /dev/null ||
        die "$python has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"
    command -v git > /dev/null || die "git not found: install it (it applies the patches)"
}

check_compiler() {
    if ! command -v "${CC:-cc}" > /dev/null || ! command -v "${CXX:-c++}" > /dev/null; then
        die "no C and C++ compiler: install one (Debian, Ubuntu: apt install build-essential; macOS: xcode-select --install)"
    fi
    command -v cmake > /dev/null || [ -x "$venv/bin/cmake" ] || "$venv/bin/pip" install -q cmake ||
        die "no CMake: install CMake 3.21 or newer (Debian, Ubuntu: apt install cmake; macOS: brew install cmake)"
}

# check_space MIB DIR
check_space() {
    local free
    free=$(df -Pm "$2" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$1" ] || die "the build needs $1 MiB in $2, but only $free MiB are free"
}

sha256() { "$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"; }

# everything that the wheel depends on
build_key() {
    { echo "$sdist_sha256 $patch_version ${CMAKE_ARGS:-} $(uname -sm)"; cat patches/*.patch; } > "$build/key"
    sha256 "$build/key" | cut -c1-16
}

make_venv() {
    if ! "$venv/bin/python" -c 'import pip' 2> /dev/null; then
        say "creating .venv with $("$python" -V)"
        "$python" -m venv --clear "$venv" || die "cannot create $venv"
    fi
}

fetch_sdist() {
    local sdist=$build/$name.tar.gz
    if ! [ -f "$sdist" ] || [ "$(sha256 "$sdist")" != "$sdist_sha256" ]; then
        say "downloading the llama-cpp-python $sdist_version sdist"
        rm -rf "$build/download"
        "$venv/bin/pip" download -q --no-deps --no-binary llama-cpp-python -d "$build/download" \
            "llama-cpp-python==$sdist_version" || die "cannot download the sdist: check the network and the package index"
        mv "$build/download/$name.tar.gz" "$sdist"
    fi
    [ "$(sha256 "$sdist")" = "$sdist_sha256" ] || die "$sdist has a wrong sha256: delete it and run again"
}

# an unpacked tree holds a key file once all patches are applied
patch_source() {
    [ "$(cat "$src/.key" 2> /dev/null)" != "$key" ] || return 0
    say "unpacking and patching"
    rm -rf "$src" "$build/cmake"
    tar -xzf "$build/$name.tar.gz" -C "$build" || die "cannot unpack the sdist in $build"
    local patch
    for patch in "$root"/patches/*.patch; do
        echo "    $(basename "$patch")"
        (cd "$src/vendor/llama.cpp" && GIT_CEILING_DIRECTORIES=$build git apply --reject "$patch") > "$log" 2>&1 || {
            grep -E '^(error|Rejected)' "$log" >&2 || cat "$log" >&2
            die "$(basename "$patch") does not apply"
        }
    done
    sed -i.orig "s/^__version__ = .*/__version__ = \"$sdist_version+dapq.$patch_version\"/" "$src/llama_cpp/__init__.py"
    echo "$key" > "$src/.key"
}

build_wheel() {
    wheel=$(ls "$build/wheels/$key"/*.whl 2> /dev/null || true)
    [ -z "$wheel" ] || return 0
    check_compiler
    check_space 1000 "$build"
    fetch_sdist
    patch_source
    say "building (minutes; log: .build/build.log; options: ${CMAKE_ARGS:-none})"
    "$venv/bin/pip" install -q "pip>=23.1" "scikit-build-core>=0.11" ninja || die "cannot install the build tools: check the network"
    if command -v ccache > /dev/null; then
        export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
        export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1
    fi
    # a fixed build folder lets an interrupted build go on
    rm -rf "$build/wheel"
    # RPC carries layers to other machines, and is a device for the tests
    PATH=$venv/bin:$PATH CMAKE_GENERATOR=Ninja CMAKE_ARGS="-DGGML_RPC=on ${CMAKE_ARGS:-}" "$venv/bin/pip" wheel -v --no-deps --no-build-isolation \
        -C build-dir="$build/cmake" -w "$build/wheel" "$src" > "$log" 2>&1 || {
        grep -E -m 5 'error:|Error|No space left' "$log" >&2 || tail -n 5 "$log" >&2
        die "the build failed, see $log"
    }
    mkdir -p "$build/wheels"
    rm -rf "$build/wheels/$key"
    mv "$build/wheel" "$build/wheels/$key"
    wheel=$(ls "$build/wheels/$key"/*.whl)
}

install_all() {
    local stamp=$venv/dapq-edge.stamp want
    want="$key $extras $(sha256 pyproject.toml)"
    if [ "$(cat "$stamp" 2> /dev/null)" != "$want" ]; then
        say "installing into .venv"
        # only a new build has to replace the installed one
        [ "$(cut -d' ' -f1 "$stamp" 2> /dev/null)" = "$key" ] || "$venv/bin/pip" install -q --force-reinstall --no-deps "$wheel"
        "$venv/bin/pip" install -q "$wheel" -e ".${extras:+[$extras]}" || die "cannot install the dependencies: check the network"
        echo "$want" > "$stamp"
    fi
    say "$("$venv/bin/dapq-edge" --version | tr '\n' ' ')"
}

check_machine
mkdir -p "$build"
check_space 300 "$build"
key=$(build_key)
make_venv
build_wheel
install_all
say "ready: .venv/bin/dapq-edge"
