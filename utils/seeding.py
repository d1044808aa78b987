"""Randomness as a function of (seed, purpose, indices): nothing random has a state to save.

A run that is resumed, or split over more processes, draws the numbers that the uninterrupted run on
one process would have drawn, because every draw names what it is for.
"""

import hashlib

import numpy as np


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed for one purpose, e.g. ("dropout", step, rank); equal arguments, equal seed."""
    return int.from_bytes(_digest(seed, purpose, *indices)[:8], "little") >> 1


def rng(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A generator of its own for one purpose, independent of every other purpose and index."""
    key = np.frombuffer(_digest(seed, purpose, *indices), np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _digest(seed: int, purpose: str, *indices: int) -> bytes:
    name = "/".join([str(seed), purpose, *map(str, indices)])
    return hashlib.blake2b(name.encode(), digest_size=16).digest()
