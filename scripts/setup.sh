#!/usr/bin/env bash
# Make .venv with a patched llama-cpp-python and this project. Idempotent; an interrupted run resumes.
#
#   DAPQ_WHEELS  folder or http(s) address with wheels that wheel.sh made: the one for this machine and these patches is
#                taken, if there is one, and nothing is built
#   CMAKE_ARGS   options of the build, as for llama-cpp-python: -DGGML_METAL=on, -DGGML_CUDA=on, -DGGML_RPC=on
#   PYTHON       interpreter for .venv (default: python3), 3.10 to 3.13
#   EXTRAS       extras of the project to install (default: completion,documents,server)

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/source.sh
. scripts/source.sh

extras=${EXTRAS-completion,documents,server}

# sets `wheel` and its key, or says why there is none
take_wheel() {
    [ -n "${DAPQ_WHEELS-}" ] || return 1
    if [ -n "${CMAKE_ARGS-}" ]; then
        say "no wheel is taken: CMAKE_ARGS are options of a build"
        return 1
    fi
    local code=0 found
    found=$("$venv/bin/python" scripts/wheels.py fetch "$DAPQ_WHEELS" "$(wheel_stem)" "$build/fetched") || code=$?
    case $code in
        0) wheel=$found key=$(sha256 "$found") && say "taking $(basename "$wheel") from $DAPQ_WHEELS" ;;
        3) say "no wheel from $DAPQ_WHEELS: $found" && return 1 ;;
        *) die "refused a wheel from $DAPQ_WHEELS: ${found:-wheels.py failed}" ;;
    esac
}

build_wheel() {
    key=$(key "native ${CMAKE_ARGS:-} $(uname -sm)")
    wheel=$(ls "$build/wheels/$key"/*.whl 2> /dev/null || true)
    [ -z "$wheel" ] || return 0
    # RPC carries layers to other machines, and is a device for the tests
    CMAKE_ARGS="-DGGML_RPC=on ${CMAKE_ARGS:-}" pip_wheel "$key" "$src" "$build/cmake" "$build/wheel"
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
make_venv
# with a wheel, too: the documents of the examples and the tables that tests read are in it
patch_source
take_wheel || build_wheel
install_all
say "ready: .venv/bin/dapq-edge"
