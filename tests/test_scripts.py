"""How scripts/ set up an environment and start the tests, with a Python that only takes notes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FILES = sorted(path.name for path in ROOT.glob("requirements*.txt"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The scripts and the requirements in a folder of their own, with both environments there."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    for environment in (".venv", ".venv-lowest", "active"):
        python = tmp_path / environment / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\necho "{environment} $*" >>notes\n')
        python.chmod(0o755)
    return tmp_path


def start(copy: Path, *arguments: str, **variables: str) -> list[str]:
    """Start scripts/test.sh; returns the environments and what their Python was told."""
    (copy / "notes").write_text("")
    outer = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    subprocess.run(
        ["bash", "scripts/test.sh", *arguments], cwd=copy, env={**outer, **variables}, check=True
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


def test_without_it_the_active_environment_is_used(copy):
    active = {"VIRTUAL_ENV": str(copy / "active")}
    for environment, variables in ((".venv", {}), ("active", active)):
        install, test = start(copy, **variables)
        assert install.startswith(f"{environment} -m pip install ")
        assert [name for name in FILES if f"-r {name}" in install] == FILES
        assert test.startswith(f"{environment} -m pytest ")
        assert "not slow" not in test
    assert not (copy / ".venv-lowest" / "requirements.txt").exists()
