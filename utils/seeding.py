"""Random numbers as a function of (seed, purpose, indices), so that no state needs to be saved.

Every draw names its purpose. So a run that is resumed, or shared by several processes, draws the
same numbers as one process without a stop.
"""

import hashlib

import numpy as np


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """Make a 63-bit seed for one purpose, such as ("dropout", step, rank).

    Equal arguments give equal seeds.
    """
    return int.from_bytes(_digest(seed, purpose, *indices)[:8], "little") >> 1


def rng(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """Make a generator for one purpose, independent of every other purpose and index."""
    key = np.frombuffer(_digest(seed, purpose, *indices), np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _digest(seed: int, purpose: str, *indices: int) -> bytes:
    """Hash the arguments to 16 bytes."""
    name = "/".join([str(seed), purpose, *map(str, indices)])
    return hashlib.blake2b(name.encode(), digest_size=16).digest()
