#!/usr/bin/env bash
# Set everything up, then ask a small model about a long document that came with the build: llama.cpp's guide for contributors.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/setup.sh

doc=$(echo .build/llama_cpp_python-*/vendor/llama.cpp/CONTRIBUTING.md)
[ -f "$doc" ] || { echo "demo.sh: no $doc: remove .build and run again" >&2; exit 1; }

question='Which format should the title of a squashed commit have?'
prefix='The title of a squashed commit has the format'

printf '\n\033[1m$ dapq-edge ask -m smollm2-135m --doc %s --kv-budget 25%% -n 16 \\\n      --answer-prefix "%s" \\\n      "%s"\033[0m\n' \
    "$(basename "$doc")" "$prefix" "$question"
answer=$(.venv/bin/dapq-edge ask -m smollm2-135m --doc "$doc" --kv-budget 25% -n 16 \
    --answer-prefix "$prefix" "$question" | tee >(cat >&2))

if [[ $answer == *'<module> : <commit title>'* ]]; then
    printf '\nThat is what the document says. A quarter of the cache was enough to know.\n'
else
    printf '\ndemo.sh: the answer should be: <module> : <commit title> (#<issue_number>)\n' >&2
    exit 1
fi
