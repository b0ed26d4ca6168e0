#!/usr/bin/env bash
# Set everything up, then ask a small model about a long document that came with the build: llama.cpp's guide for contributors.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/setup.sh

doc=$(echo .build/llama_cpp_python-*/vendor/llama.cpp/CONTRIBUTING.md)
[ -f "$doc" ] || { echo "demo.sh: no $doc: remove .build and run again" >&2; exit 1; }

question='What should enum values always be written in?'
prefix='Enum values are always in'

printf '\n\033[1m$ dapq-edge ask -m smollm2-135m --doc %s --kv-budget 50%% -n 16 \\\n      --answer-prefix "%s" "%s"\033[0m\n' \
    "$(basename "$doc")" "$prefix" "$question"
answer=$(.venv/bin/dapq-edge ask -m smollm2-135m --doc "$doc" --kv-budget 50% -n 16 \
    --answer-prefix "$prefix" "$question" | tee >(cat >&2))

if [[ $answer =~ upper\ ?case ]]; then
    printf '\nThe document says: upper case. Half of the cache was enough to know.\n'
else
    printf '\ndemo.sh: the answer should say upper case\n' >&2
    exit 1
fi
