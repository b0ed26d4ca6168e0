#!/usr/bin/env bash
# Set everything up and run the tests; arguments go to pytest.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRAS="test" ./scripts/setup.sh
exec .venv/bin/python -m pytest "$@"
