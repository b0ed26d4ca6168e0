# shellcheck shell=bash
# What setup.sh and wheel.sh share: .venv, and the patched source of llama-cpp-python in .build. Sourced by them.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

sdist_version=0.3.36
sdist_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
patch_version=$(sed -n 's/^PATCH_VERSION = //p' "$root/dapq_edge/_version.py")
patches=("$root"/patches/*.patch "$root"/patches/llama-cpp-python/*.patch)

python=${PYTHON:-python3}
venv=$root/.venv
build=$root/.build
name=llama_cpp_python-$sdist_version
src=$build/$name
log=$build/build.log

# pip only needs the package index here, and its progress bars are useless in a log
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

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

# key OPTIONS: of what is made from the sdist and the patches with them
key() {
    { echo "$sdist_sha256 $patch_version $1"; cat "${patches[@]}"; } > "$build/key"
    sha256 "$build/key" | cut -c1-16
}

# what the names of the wheels of these patches begin with: version and build
wheel_stem() { echo "$name+dapq.$patch_version-${patch_version}_$(key source)"; }

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
        # Windows has no .venv/bin, and Debian's Python no pip of its own
        local pip=("$venv/bin/pip")
        [ -x "${pip[0]}" ] || pip=("$python" -m pip)
        "${pip[@]}" download -q --no-deps --no-binary llama-cpp-python -d "$build/download" \
            "llama-cpp-python==$sdist_version" || die "cannot download the sdist: check the network and the package index"
        mv "$build/download/$name.tar.gz" "$sdist"
    fi
    [ "$(sha256 "$sdist")" = "$sdist_sha256" ] || die "$sdist has a wrong sha256: delete it and run again"
}

# an unpacked tree holds a key file once all patches are applied
patch_source() {
    local source_key
    source_key=$(key source)
    [ "$(cat "$src/.key" 2> /dev/null)" != "$source_key" ] || return 0
    fetch_sdist
    say "unpacking and patching"
    rm -rf "$src"
    tar -xzf "$build/$name.tar.gz" -C "$build" || die "cannot unpack the sdist in $build"
    local patch
    for patch in "${patches[@]}"; do
        apply "$patch"
    done
    sed -i.orig "s/^__version__ = .*/__version__ = \"$sdist_version+dapq.$patch_version\"/" "$src/llama_cpp/__init__.py"
    rm "$src/llama_cpp/__init__.py.orig"
    echo "$source_key" > "$src/.key"
}

# apply PATCH: those of llama.cpp, or those of the package around it
apply() {
    local tree=$src/vendor/llama.cpp
    [[ $1 != */llama-cpp-python/* ]] || tree=$src
    echo "    $(basename "$1")"
    (cd "$tree" && GIT_CEILING_DIRECTORIES=$build git apply --reject "$1") > "$log" 2>&1 || {
        grep -E '^(error|Rejected)' "$log" >&2 || cat "$log" >&2
        die "$(basename "$1") does not apply"
    }
}

# pip_wheel KEY SOURCE BUILD_DIR OUT: an interrupted build goes on in its folder, if it is one with this key
pip_wheel() {
    check_compiler
    check_space 1000 "$build"
    say "building (minutes; log: .build/build.log; options: ${CMAKE_ARGS:-none})"
    "$venv/bin/pip" install -q "pip>=23.1" "scikit-build-core>=0.11" ninja || die "cannot install the build tools: check the network"
    if command -v ccache > /dev/null; then
        export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
        export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1
    fi
    [ "$(cat "$3.key" 2> /dev/null)" = "$1" ] || rm -rf "$3"
    echo "$1" > "$3.key"
    rm -rf "$4"
    PATH=$venv/bin:$PATH CMAKE_GENERATOR=Ninja "$venv/bin/pip" wheel -v --no-deps --no-build-isolation \
        -C build-dir="$3" -w "$4" "$2" > "$log" 2>&1 || {
        grep -E -m 5 'error:|Error|No space left' "$log" >&2 || tail -n 5 "$log" >&2
        die "the build failed, see $log"
    }
}
