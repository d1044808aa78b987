# shellcheck shell=bash
# Sourced by the other scripts: sets $PYTHON to a Python that has the requirements.
# An active virtual or conda environment is used as it is; otherwise .venv is made.

die() {
    echo "$(basename "$0"): $*" >&2
    exit 2
}

find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "needs Python 3.10 or newer"
}

# install FILE...: install requirement files, once per content of the files
install() {
    local folder python stamp arguments=()
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        folder="${VIRTUAL_ENV:-$CONDA_PREFIX}"
    else
        folder=.venv
        python=$(find_python) || exit 2
        [ -x "$folder/bin/python" ] || "$python" -m venv "$folder" ||
            die "cannot make $folder (on Debian and Ubuntu: apt-get install python3-venv)"
    fi
    PYTHON="$folder/bin/python"
    stamp="$folder/.maskgit-$(cat "$@" | cksum | cut -d ' ' -f 1)"
    [ -e "$stamp" ] && return
    for file in "$@"; do arguments+=(-r "$file"); done
    "$PYTHON" -m pip install --disable-pip-version-check "${arguments[@]}" ||
        die "pip could not install $*"
    touch "$stamp"
}
