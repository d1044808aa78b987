"""The device and the precision to compute with, and the settings of torch."""

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from utils.errors import FieldError, UserError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC = (":4096:8", ":16:8")  # its values with which torch takes cuBLAS as deterministic
CPU_INFO = Path("/proc/cpuinfo")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
DEVICES = ("cpu", "cuda", "mps")
Function = TypeVar("Function", bound=Callable[..., Any])
_blocks_lock = threading.Lock()
_dtypes_before: list[torch.dtype] = []  # the caller's, once for each running `usual_torch`


def choose_device(name: str | torch.device) -> torch.device:
    """Find the device with a name.

    Args:
        name: a device of torch; or "cpu", "cuda", "cuda:<i>", "mps", or "auto": CUDA if there is
            any, else the CPU. "auto" never chooses Apple's MPS, which is untested.

    Raises:
        UserError: if this machine does not have this device.
    """
    name = str(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    available = {
        "cpu": 1,
        # With a driver that is too old for torch, the count alone is not 0.
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if kind not in available or (index and not index.isdecimal()):
        raise UserError(f"unknown device {name!r}: `device` takes auto, cpu, cuda, cuda:<i> or mps")
    if int(index or 0) >= available[kind]:
        raise FieldError(
            "device",
            name,
            f"this machine has {available[kind]} such devices (torch sees none if its build lacks "
            "support, or the driver is too old); `device` auto takes the best one there is",
        )
    return torch.device(kind, int(index)) if index else torch.device(kind)


def check_works(device: torch.device) -> None:
    """Compute something on a device: another program may keep it, or torch may not know it.

    Raises:
        FieldError: with the reason that torch gives.
    """
    try:
        torch.ones(1, device=device).sum().item()
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        advice = "choose another one, on CUDA also with CUDA_VISIBLE_DEVICES"
        raise FieldError("device", device, f"it does not work ({reason}): {advice}") from error


def choose_precision(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Find the dtype to compute in.

    Args:
        name: float32 or bfloat16 of torch; or "fp32", "bf16", or "auto": bfloat16 if the hardware
            is faster in it, else float32.
        device: the device to compute on.

    Raises:
        FieldError: for anything else.
    """
    if name == "auto":
        return torch.bfloat16 if _has_fast_bfloat16(device) else torch.float32
    for known, dtype in PRECISIONS.items():
        if name in (known, dtype):
            return dtype
    raise FieldError("precision", name, f"unknown; choose from auto, {', '.join(PRECISIONS)}")


def precision_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype in `choose_precision`."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)


@contextmanager
def usual_torch() -> Iterator[None]:
    """Compute in the block with torch's default settings.

    The caller may have changed the default dtype or device, and may be in a block of autocast or
    inference mode. The default dtype belongs to all threads, so it comes back after the last block.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        # torch.get_default_device of torch 2.6 raises after set_default_device(None).
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        with _blocks_lock:
            _dtypes_before.append(
                _dtypes_before[0] if _dtypes_before else torch.get_default_dtype()
            )
            torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            with _blocks_lock:
                dtype = _dtypes_before.pop()
                if not _dtypes_before:
                    torch.set_default_dtype(dtype)


@contextmanager
def settings_of_torch_kept() -> Iterator[None]:
    """Let the block run in `usual_torch` and change settings; the caller's settings come back.

    These are the settings of `set_up_device` and the state of the CPU's random numbers.
    """
    with ExitStack() as stack:
        stack.callback(_restore_determinism, torch.get_deterministic_debug_mode())
        if WORKSPACE not in os.environ:
            stack.callback(os.environ.pop, WORKSPACE, None)
        if torch.cuda.is_initialized():
            stack.callback(torch.cuda.set_device, torch.cuda.current_device())
        if torch.cuda.is_available():
            cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
            try:
                precision = torch.get_float32_matmul_precision()
                stack.callback(torch.set_float32_matmul_precision, precision)
            except RuntimeError:  # the caller set it by its name since torch 2.9
                _keep_precisions(stack, "cuda.matmul", "mkldnn.matmul")
            try:
                stack.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
            except RuntimeError:
                _keep_precisions(stack, "cudnn.conv", "cudnn.rnn")
            stack.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
            stack.callback(cuda.enable_cudnn_sdp, cuda.cudnn_sdp_enabled())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(usual_torch())
        yield


def _restore_determinism(mode: int) -> None:
    """Return to a mode of `torch.get_deterministic_debug_mode`: 0 off, 1 warnings, 2 errors."""
    # Setting the same again would load torch's compiler, which takes 1 s.
    if mode != torch.get_deterministic_debug_mode():
        torch.use_deterministic_algorithms(mode > 0, warn_only=mode == 1)


def _keep_precisions(stack: ExitStack, *names: str) -> None:
    """Let the precisions of float32 products of backends come back when the stack ends."""
    for backend in (attrgetter(name)(torch.backends) for name in names):
        stack.callback(setattr, backend, "fp32_precision", backend.fp32_precision)


def in_usual_torch(function: Function) -> Function:
    """Run a function, or every step of a generator, in `usual_torch`."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with usual_torch():
            return function(*args, **kwargs)

    @wraps(function)
    def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
        made = function(*args, **kwargs)
        while True:
            with usual_torch():
                try:
                    value = next(made)
                except StopIteration:
                    return
            yield value

    return steps if inspect.isgeneratorfunction(function) else call  # type: ignore[return-value]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Compute in mixed precision inside the block; float32 changes nothing."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def set_up_device(device: torch.device, precision: torch.dtype, deterministic: bool) -> None:
    """Make the device the current one and choose torch's global settings for it.

    Args:
        device: the device to compute on.
        precision: with float32, CUDA computes in full float32; otherwise products of float32 may
            be computed in TF32.
        deterministic: ask for equal bits in every run, also on CUDA. torch warns of operations
            without a deterministic version; see `strictly_deterministic`.

    Raises:
        UserError: if the environment has a setting of cuBLAS that is not deterministic.
    """
    if deterministic:
        chosen = os.environ.setdefault(WORKSPACE, DETERMINISTIC[0])
        if device.type == "cuda" and chosen not in DETERMINISTIC:
            known = " or ".join(DETERMINISTIC)
            raise UserError(f"{WORKSPACE}={chosen} is not deterministic: unset it, or use {known}")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        is_exact = precision == torch.float32
        torch.set_float32_matmul_precision("highest" if is_exact else "high")
        torch.backends.cudnn.allow_tf32 = not is_exact
        torch.backends.cudnn.benchmark = not deterministic
        # cuDNN's fused attention sums in any order in its backward pass.
        torch.backends.cuda.enable_cudnn_sdp(not deterministic)


@contextmanager
def strictly_deterministic() -> Iterator[None]:
    """Make nondeterministic operations raise inside the block (only with `deterministic`).

    Fused attention uses its deterministic backward pass only then.
    """
    if not torch.are_deterministic_algorithms_enabled():
        yield
        return
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warned)


def send(values: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """Copy a tensor or an array to a device; on CUDA the program does not wait for the copy.

    CUDA copies memory that is not pinned only after all earlier work, and the program waits for it.
    On MPS it waits, because MPS may read the memory of a temporary tensor after it is freed
    (pytorch issue 139550).
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


def copy_to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the host; the function that is returned waits for the copy.

    On CUDA the program can go on in between, and the device does not wait for it.
    """
    is_cuda = tensor.device.type == "cuda"
    copy = tensor.to("cpu", non_blocking=is_cuda)
    if not is_cuda:
        return lambda: copy
    is_there = torch.cuda.Event()
    is_there.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        is_there.synchronize()
        return copy

    return wait


def float32_name(device: torch.device) -> str:
    """Name the type in which products of float32 are computed: "float32" or "tf32"."""
    return "tf32" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"


def _has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has multiplications in bfloat16 that are faster than in float32.

    With AVX-512 alone bfloat16 has half of float32's speed on an Intel Xeon, and twice its speed on
    an AMD EPYC (docs/log/speed.md).
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    # ATEN_CPU_CAPABILITY can keep torch from using what the processor has.
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        has_avx512 = torch.cpu._is_avx512_bf16_supported()
        return torch.cpu._is_amx_tile_supported() or (has_avx512 and not _is_intel())
    return False


def _is_intel() -> bool:
    """Whether the processor is Intel's; False if Linux does not say so."""
    try:
        return "GenuineIntel" in CPU_INFO.read_text(errors="replace")
    except OSError:
        return False
