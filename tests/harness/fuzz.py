"""Damaged files: each is read as it was written or refused in one line, and nothing else happens.

    python tests/harness/fuzz.py --cases 3000

Our own formats (checkpoints, resume states, token caches) must never be accepted with other
contents. Files of others (weights, images, remap arrays) have no checksums: they may be accepted,
but reading them must not crash, hang, take memory, write files or fail in any other way.
"""

import argparse
import math
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from fuzz_damage import damaged
from fuzz_targets import Target, make_targets

from utils.errors import UserError

SECONDS = 20  # of one case; the slowest takes one on a busy machine
MEGABYTES = 300  # that a case may add to the most memory ever used


_expected: dict[str, Any] = {}  # what is read of each undamaged file


def run_case(name: str, target: Target, seed: int) -> str:
    """Damage one file and read it: "refused" or "read"; anything else raises."""
    generator = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # readers warn of what they then refuse
        path = target.make(Path(folder))
        if name not in _expected:  # it is the same in every case
            _expected[name] = target.read(path)
        files = sorted(Path(folder).rglob("*"))
        if target.alter and seed % 2:
            target.alter(path, generator)
        else:
            path.write_bytes(damaged(path.read_bytes(), generator))
        try:
            with limits(f"{name} {seed}"):
                found = target.read(path)
        except UserError as error:
            refusal = str(error)
        else:
            refusal = ""
            unchanged = not target.own or same(found, _expected[name])
            assert unchanged, f"{name} {seed}: accepted with other contents"
        assert "\n" not in refusal, f"{name} {seed}: more than one line: {refusal}"
        assert sorted(Path(folder).rglob("*")) == files, f"{name} {seed}: files were written"
        return "refused" if refusal else "read"


class LimitReached(BaseException):
    """Not an Exception, which readers may take for a sign of damage."""


@contextmanager
def limits(case: str) -> Iterator[None]:
    """Raise LimitReached if the block takes too long or too much memory."""

    def too_long(*_: object) -> None:
        raise LimitReached(f"{case}: more than {SECONDS} seconds")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if added > MEGABYTES:
            raise LimitReached(f"{case}: {added:.0f} MB")


def same(one: Any, other: Any) -> bool:
    """Whether two nested results are equal, bit for bit."""
    if is_dataclass(one) and not isinstance(one, type):
        return type(one) is type(other) and same(asdict(one), asdict(other))
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.equal(other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


def main() -> None:
    """Run the cases and count what became of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    targets = make_targets()
    for name, target in targets.items():
        count = math.ceil(options.cases / len(targets))
        results = Counter(run_case(name, target, options.seed + i) for i in range(count))
        print(name, dict(sorted(results.items())))  # noqa: T201


if __name__ == "__main__":
    main()
