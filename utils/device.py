"""Where and in which precision to compute: decided once, from the options."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from utils.errors import UserError


def choose_device(name: str) -> torch.device:
    """Resolve --device: "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UserError: if the name is no device of this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if kind not in available or (index and not index.isdecimal()):
        raise UserError(f"unknown device {name!r}: --device takes auto, cpu, cuda, cuda:<i> or mps")
    if int(index or 0) >= available[kind]:
        raise UserError(
            f"--device {name}: this machine has {available[kind]} such devices (torch sees none "
            "if its build lacks support); --device auto takes the best one there is"
        )
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Resolve --precision: "auto" is bfloat16 where the hardware multiplies it, else float32."""
    if name == "auto":
        return torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Mixed precision for the block, or nothing at all in float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def make_deterministic() -> None:
    """Ask for equal bits from run to run, also on CUDA (--deterministic)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
