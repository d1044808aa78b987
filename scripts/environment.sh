# shellcheck shell=bash
# Sourced by the other scripts: sets $PYTHON to a Python that has the requirements.
# An active virtual or conda environment is used as it is; otherwise .venv is made.

die() {
    echo "$(basename "$0"): $*" >&2
    exit 2
}

# find_python NAME...: print the path of the first of these that runs and is new enough
find_python() {
    for candidate in "$@"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "needs Python 3.10 or newer, as one of: $*"
}

# install FILE...: install requirement files, once per content of the files
install() {
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        install_in "${VIRTUAL_ENV:-$CONDA_PREFIX}" "$@"
    else
        make_environment .venv python3 python3.13 python3.12 python3.11 python3.10 python
        install_in .venv "$@"
    fi
}

# install_lowest FILE...: the same with the lowest versions, in an environment of their own. They have
# no wheels for a newer Python.
install_lowest() {
    make_environment .venv-lowest python3.10 python3.11 python3.12
    lowest "$@" >.venv-lowest/requirements.txt
    install_in .venv-lowest .venv-lowest/requirements.txt
}

# lowest FILE...: print the requirements with each lower end as the only version
lowest() {
    sed -E 's/>=([^,]+).*/==\1/' "$@"
}

# make_environment FOLDER NAME...: make a virtual environment, unless there is one, with a Python of
# these names
make_environment() {
    local folder="$1" python
    shift
    [ -x "$folder/bin/python" ] && return
    python=$(find_python "$@") || exit 2
    "$python" -m venv "$folder" ||
        die "cannot make $folder (on Debian and Ubuntu: apt-get install python3-venv)"
}

# install_in FOLDER FILE...: install requirement files in the environment of that folder. The stamp only
# saves time: an environment that may not be written is used as it is if it has all that is needed.
install_in() {
    local folder="$1" stamp arguments=()
    shift
    PYTHON="$folder/bin/python"
    stamp="$folder/.maskgit-$(cat "$@" | cksum | cut -d ' ' -f 1)"
    { [ -e "$stamp" ] || has_all "$@" 2>/dev/null; } && return # pip would write a line for each
    for file in "$@"; do arguments+=(-r "$file"); done
    "$PYTHON" -m pip install --disable-pip-version-check "${arguments[@]}" ||
        install_without_pip "${arguments[@]}" || has_all "$@" ||
        die "$folder lacks what is said above, and it could not be installed"
    { touch "$stamp"; } 2>/dev/null || true
}

# install_without_pip -r FILE...: the same where pip is missing, as in environments that uv makes
install_without_pip() {
    if "$PYTHON" -m pip --version >/dev/null 2>&1; then
        return 1 # it is there, and has said why it could not
    elif command -v uv >/dev/null; then
        uv pip install --python "$PYTHON" "$@"
    else
        "$PYTHON" -m ensurepip && "$PYTHON" -m pip install --disable-pip-version-check "$@"
    fi
}

# has_all FILE...: whether $PYTHON has every requirement of these files; says what is missing
has_all() {
    "$PYTHON" - "$@" <<'END'
import re, sys
from importlib.metadata import PackageNotFoundError, version
from operator import eq, ge, lt

def number(text):
    return [int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3]]

for line in (line for path in sys.argv[1:] for line in open(path)):
    try:
        found = number(version(re.match(r"[\w.-]+", line)[0]))
        for sign, bound in re.findall(r"(>=|<|==)([\d.]+)", line):
            length = len(number(bound))
            if not {">=": ge, "<": lt, "==": eq}[sign](found[:length], number(bound)):
                sys.exit(f"{line.strip()} is needed, {found} is there")
    except PackageNotFoundError:
        sys.exit(f"{line.strip()} is missing")
END
}
