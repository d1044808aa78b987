"""Every harness in full, as README states its figures; the test suite runs them in small.

    python tests/harness

It takes hours. It goes on after a harness that fails, and exits with 1 then.
"""

import subprocess
import sys
from pathlib import Path

FULL = (
    "crash.py --kills 200",
    "fuzz.py --cases 3000",
    "faults.py --kills 300 --errors 200 --flips 500",
)

if __name__ == "__main__":
    failed = []
    for line in FULL:
        script, *options = line.split()
        print(f"{line}:", flush=True)  # noqa: T201
        path = Path(__file__).with_name(script)
        if subprocess.run([sys.executable, path, *options]).returncode:
            failed.append(line)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
