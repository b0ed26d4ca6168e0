# https://just.systems: `just` lists these

_list:
    @just --list

# style, types, imports, shell scripts, generated docs
check:
    ./scripts/check

# all tests; arguments go to pytest
test *args:
    ./scripts/test.sh {{ args }}

# the tests that need no real model, in about two minutes
fast *args:
    ./scripts/test.sh -m "not slow" {{ args }}

# write the parts of docs/ that are made from the code
docs:
    .venv/bin/cog -r docs/cli.md
    .venv/bin/python scripts/support.py --write

# a benchmark: just bench chat overhead
bench name *args:
    .venv/bin/python scripts/bench/{{ name }}.py {{ args }}
