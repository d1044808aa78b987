#!/usr/bin/env bash
# Runs the test suite; --fast leaves out the end-to-end runs, --gpu runs what needs an NVIDIA GPU alone, --lowest takes
# the lowest versions that the requirements allow, in .venv-lowest. Other arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh

install=install marked=""
while [[ "${1:-}" =~ ^--(fast|gpu|lowest)$ ]]; do
    case "$1" in
        --fast) marked="not slow" ;;
        --gpu) marked=gpu ;;
        --lowest) install=install_lowest ;;
    esac
    shift
done
"$install" requirements.txt requirements-{plots,page,heif,hub,flax,dev}.txt

# tests/conftest.py says how many processes. The tests of a file stay in one of them, and the slow files
# come first.
exec "$PYTHON" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m "$marked" "$@"
