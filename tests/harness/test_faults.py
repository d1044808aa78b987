"""A small version of faults.py: kills and errors at exact system calls, and flipped bits."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REAL_FASHION_MNIST

ROOT = Path(__file__).parents[2]
EACH = 1  # case of each kind for each of the five commands


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the calls of Linux")
@pytest.mark.skipif(
    not REAL_FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)
def test_nothing_is_lost_or_silently_wrong_after_kills_errors_and_flips(needs_programs):
    counts = [f"--{kind}={5 * EACH}" for kind in ("kills", "errors", "flips")]
    command = [sys.executable, "tests/harness/faults.py", *counts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind in ("kills", "errors", "flips"):
        said = re.findall(rf"(.+): (\d+) {kind}: ", done.stdout)
        assert [int(count) for _, count in said] == [EACH] * 5, done.stdout
