"""How scripts/ set up an environment and start the tests, with a Python that only takes notes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FILES = sorted(path.name for path in ROOT.glob("requirements*.txt"))


@pytest.fixture
def copy(tmp_path: Path, needs_programs: None) -> Path:
    """The scripts and the requirements in a folder of their own, with both environments there."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    for environment in (".venv", ".venv-lowest", "active"):
        python = tmp_path / environment / "bin" / "python"
        python.parent.mkdir(parents=True)
        lacks_all = '[ "$1" = - ] && exit 1'
        python.write_text(f'#!/bin/sh\n{lacks_all}\necho "{environment} $*" >>notes\n')
        python.chmod(0o755)
    return tmp_path


def start(copy: Path, *arguments: str, **variables: str) -> list[str]:
    """Start scripts/test.sh; returns the environments and what their Python was given."""
    (copy / "notes").write_text("")
    outer = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    subprocess.run(
        ["bash", "scripts/test.sh", *arguments],
        cwd=copy,
        env={**outer, **variables},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return (copy / "notes").read_text().splitlines()


def test_the_lowest_versions_are_the_lower_ends_of_the_requirements(copy):
    start(copy, "--lowest")
    pins = (copy / ".venv-lowest" / "requirements.txt").read_text().splitlines()
    asked = [line for name in FILES for line in (copy / name).read_text().splitlines()]
    assert len(pins) == len(asked) > 15
    allowed = {(r.name, *r.extras): r.specifier for r in map(Requirement, asked)}
    for pin in map(Requirement, pins):
        bounds = allowed[(pin.name, *pin.extras)]
        (version,) = pin.specifier
        (lower,) = (bound for bound in bounds if bound.operator == ">=")
        assert version.operator == "=="
        assert Version(version.version) == Version(lower.version)
        assert bounds.contains(version.version)


def test_the_lowest_versions_have_an_environment_of_their_own(copy):
    active = {"VIRTUAL_ENV": str(copy / "active")}
    install, test = start(copy, "--lowest", "-x", **active)
    assert install.startswith(".venv-lowest -m pip install ")
    assert install.endswith(" -r .venv-lowest/requirements.txt")
    assert test.startswith(".venv-lowest -m pytest ")
    assert test.endswith(" -x")
    assert start(copy, "--lowest", "-x", **active) == [test]  # installed once
    assert start(copy, "--lowest", "-x") == [test]
    (copy / "requirements.txt").write_text("torch>=9.9\n")
    assert len(start(copy, "--lowest")) == 2


@pytest.mark.parametrize("arguments", ["--fast --lowest -k a", "--lowest --fast -k a"])
def test_the_lowest_versions_go_with_fast(copy, arguments):
    _, test = start(copy, *arguments.split())
    assert test.startswith(".venv-lowest -m pytest ")
    assert test.endswith(" -m not slow -k a")


def test_what_needs_a_gpu_runs_alone(copy):
    *_, test = start(copy, "--gpu", "-x")
    assert test.endswith(" -m gpu -x")


def test_without_it_the_active_environment_is_used(copy):
    active = {"VIRTUAL_ENV": str(copy / "active")}
    for environment, variables in ((".venv", {}), ("active", active)):
        install, test = start(copy, **variables)
        assert install.startswith(f"{environment} -m pip install ")
        assert [name for name in FILES if f"-r {name}" in install] == FILES
        assert test.startswith(f"{environment} -m pytest ")
        assert "not slow" not in test
    assert not (copy / ".venv-lowest" / "requirements.txt").exists()


# A Python without pip, or in a folder that may not be written: it installs nothing.
CANNOT_INSTALL = f"""#!/bin/sh
echo "active $*" >>notes
case "$2" in pip | ensurepip) exit 1 ;; esac
[ "$1" != - ] || exec {sys.executable} "$@"
"""


def test_an_environment_that_has_all_is_used_though_nothing_can_be_installed(copy):
    (copy / "active" / "bin" / "python").write_text(CANNOT_INSTALL)
    (copy / "active").chmod(0o555)
    active = {"VIRTUAL_ENV": str(copy / "active"), "PATH": "/usr/bin:/bin"}  # without uv
    for name in FILES:
        (copy / name).write_text("pytest>=1,<9999\n")
    said, test = start(copy, **active)
    assert said.startswith("active - requirements")  # pip is not asked
    assert test.startswith("active -m pytest ")
    for missing in ("no-such-package>=1", "pytest>=9999", "pytest>=1,<2"):
        (copy / "requirements.txt").write_text(f"{missing}\n")
        with pytest.raises(subprocess.CalledProcessError) as end:
            start(copy, **active)
        assert end.value.returncode == 2
        assert missing in end.value.stderr
    (copy / "active").chmod(0o755)


def test_an_environment_of_uv_is_filled_by_uv(copy):
    (copy / "active" / "bin" / "python").write_text(CANNOT_INSTALL)
    (copy / "requirements.txt").write_text("no-such-package\n")
    (copy / "bin").mkdir()
    (copy / "bin" / "uv").write_text('#!/bin/sh\necho "uv $*" >>notes\n')
    (copy / "bin" / "uv").chmod(0o755)
    active = {"VIRTUAL_ENV": str(copy / "active"), "PATH": f"{copy / 'bin'}:/usr/bin:/bin"}
    *_, uv, test = start(copy, **active)
    assert uv.startswith(f"uv pip install --python {copy / 'active'}/bin/python -r requirements")
    assert test.startswith("active -m pytest ")
