"""The package `maskgit`, as pip installs it, beside a user's modules with the names of ours."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("models", "utils")
BUILD = "import sys, setuptools.build_meta as b; getattr(b, sys.argv[1])(sys.argv[2])"
PROGRAM = """\
import site, sys
site.addsitedir(sys.argv[1])
if sys.argv[2] == "before":
    import data, models, utils
import importlib, pickle, maskgit
import data, models, utils
assert {data.OWNER, models.OWNER, utils.OWNER} == {"user"}

for kind in maskgit.models.registry.FAMILIES:
    assert maskgit.models.open.families_of(kind)
for name in sys.argv[4:]:  # every module of ours
    importlib.import_module(f"maskgit.{name}")
    assert name not in sys.modules, name
settings = maskgit.SamplingConfig(guidance=2.0)
assert pickle.loads(pickle.dumps(settings)) == settings
try:
    maskgit.load_model(sys.argv[3])
except maskgit.UserError as error:
    print(error)
"""


def copy_of_the_source(folder: Path) -> Path:
    """Copy what is packaged; a build leaves files beside it."""
    left_out = shutil.ignore_patterns("*.pt", "__pycache__")
    for name in ("maskgit", *FOLDERS):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    for name in ("setup.py", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.parametrize(
    ("build", "imported"), [("build_editable", "before"), ("build_wheel", "after")]
)
def test_the_package_stands_beside_a_users_own_modules(tmp_path, build, imported):
    # Build and unpack it, as pip does.
    pytest.importorskip("setuptools", "70.1")
    source = copy_of_the_source(tmp_path / "source")
    command = [sys.executable, "-c", BUILD, build, str(tmp_path)]
    subprocess.run(command, check=True, cwd=source, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    # A user's program, with modules that have the names of our folders.
    user = tmp_path / "user"
    (user / "data").mkdir(parents=True)
    for name in ("utils.py", "models.py", "data/__init__.py"):
        (user / name).write_text("OWNER = 'user'\n")
    (user / "program.py").write_text(PROGRAM)
    (user / "other.pt").write_text("no checkpoint")
    files = [file for name in FOLDERS for file in (ROOT / name).rglob("*.py")]
    ours = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    ours = [name for name in ours if not name.endswith("__init__")]
    done = subprocess.run(
        [sys.executable, "program.py", str(tmp_path / "site"), imported, "other.pt", *ours],
        cwd=user,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "other.pt" in done.stdout
