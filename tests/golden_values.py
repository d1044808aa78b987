"""Numbers for golden files, equal on any machine."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


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


def fill_transformer(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of a parameter of a transformer, float32, that keep the activations' scale."""
    values = uniform(name, shape)
    if name.endswith("weight") and len(shape) == 1:  # of a norm
        return (1 + values / 4).astype(np.float32)
    return (values * (3 / shape[-1]) ** 0.5).astype(np.float32)


def fill_vit(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of a parameter of a ViT with convolutions; attention sees the content of an image."""
    if len(shape) == 4 or name.endswith(("embedding.weight", "bias")):
        return fill(name, shape)
    values = fill_transformer(name, shape)
    return values if len(shape) == 1 else 3 * values


def fill_flax(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of a parameter of flax, float32, that keep the activations' scale."""
    values = uniform(name, shape)
    if name.endswith("kernel"):
        inputs = shape[:-1] if len(shape) != 3 or "out.kernel" in name else shape[:1]
        values *= np.sqrt(3 / np.prod(inputs))
    elif name.endswith("scale"):
        values = 1 + 0.2 * values
    elif name.endswith("bias"):
        values *= 0.2
    return values.astype(np.float32)


def transformer_inputs(codes: int, length: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Tokens, some of them hidden, and labels, one of them "no class"."""
    values = (uniform("tokens", (6, length)) + 1) / 2 * (codes + 1)
    return torch.from_numpy(values.astype(int)), torch.arange(6) % (num_classes + 1)


def read_golden(
    family: str, case: str, *outputs: str, fill: Callable[..., np.ndarray] = fill
) -> tuple[Any, ...]:
    """The weights of another program's network, and what it computed."""
    with np.load(GOLDEN / f"{family}.npz") as stored:
        shapes = [line.split() for line in stored[f"{case}/names"].tolist()]
        computed = [torch.from_numpy(stored[f"{case}/{name}"]) for name in outputs]
    weights = {
        name: torch.from_numpy(fill(name, tuple(map(int, shape)))) for name, *shape in shapes
    }
    if "encoder.conv_out.bias" in weights and family == "maskbit":
        weights |= bit_tables(len(weights["encoder.conv_out.bias"]))
    return weights, *computed


def bit_tables(bits: int) -> dict[str, Tensor]:
    """Entries of MaskBit's tokenizers that follow from a number of bits, the lowest first."""
    rows = [[2.0 * (code >> bit & 1) - 1 for bit in range(bits)] for code in range(2**bits)]
    powers = torch.tensor([2**bit for bit in range(bits)], dtype=torch.int32)
    return {"quantize.codebook": torch.tensor(rows), "quantize.bits_to_indices": powers}


def pictures(size: int) -> Tensor:
    """Two noisy gradients, float32 (2, 3, size, size) in [-1, 1]."""
    ramp = np.linspace(-0.5, 0.5, size)
    images = 0.5 * uniform("pictures", (2, 3, size, size)) + ramp
    return torch.from_numpy(images.astype(np.float32))
