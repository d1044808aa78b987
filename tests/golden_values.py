"""Numbers for golden files, equal on any machine."""

import zlib

import numpy as np


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [-1, 1) from a name and their positions: splitmix64, equal on any machine."""
    with np.errstate(over="ignore"):
        x = np.arange(1, np.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(zlib.crc32(name.encode())) << np.uint64(20)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)) / 2.0**52 - 1).reshape(shape)


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of a parameter, float32, that keep the activations' scale."""
    values = uniform(name, shape)
    if len(shape) == 4:
        values *= np.sqrt(3 / np.prod(shape[1:]))
    elif name.endswith(("embedding.weight", "embeddingweight")):
        values *= 1.5
    elif name.endswith("weight"):
        values = 1 + 0.2 * values
    else:
        values *= 0.2
    return values.astype(np.float32)
