#!/usr/bin/env bash
# Runs the test suite; --fast leaves out the end-to-end runs. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
install requirements.txt requirements-plots.txt requirements-page.txt requirements-dev.txt

if [ "${1:-}" = --fast ]; then
    shift
    set -- -m "not slow" "$@"
fi
# A process per core, at most four: each loads torch. The tests of a file stay in one process.
exec "$PYTHON" -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile "$@"
