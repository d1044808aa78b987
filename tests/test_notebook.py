"""`main` in a notebook: what the kernel has set stays, and changes nothing in the program."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TRAIN_TINY

TRAIN = f"--train {TRAIN_TINY} --n_epochs 1"


@pytest.fixture
def _as_in_a_kernel() -> Iterator[None]:
    """Settings that no run of ours makes."""
    root, handlers = logging.getLogger(), logging.getLogger().handlers[:]
    root.addHandler(logging.NullHandler())
    root.setLevel(logging.CRITICAL)
    logging.getLogger("matplotlib").setLevel(logging.DEBUG)
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(torch.float32)
    logging.getLogger("matplotlib").setLevel(logging.NOTSET)
    root.handlers[:] = handlers


def state() -> dict[str, Any]:
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "threads": set(threading.enumerate()),
        "threads of torch": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "only warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device,
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark),
        "random numbers": torch.get_rng_state().tolist(),
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "handlers": logging.getLogger().handlers[:],
        "levels": [logging.getLogger(name).level for name in (None, "PIL", "torch", "matplotlib")],
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "excepthook": sys.excepthook,
    }


@pytest.mark.usefixtures("_as_in_a_kernel")
@pytest.mark.parametrize(
    "options", [f"{TRAIN} --deterministic", f"{TRAIN} --sample", "--sample --labels 99", "--sampel"]
)
def test_a_run_leaves_everything_as_it_was(run, tokenizer_file, options):
    before = state()
    with suppress(SystemExit):  # of the wrong ones
        run(f"{options} --checkpoint_vae {tokenizer_file}" if "--train" in options else options)
    after = state()
    assert after == before


def test_settings_of_the_kernel_change_no_weight(run, tokenizer_file, tmp_path, request):
    def trained(name: str) -> dict[str, torch.Tensor]:
        run(f"{TRAIN} --checkpoint_vae {tokenizer_file} --precision fp32 --run_name {name}")
        return torch.load(Path(tmp_path, name, "MaskGIT_mnist.pt"))["contents"]["weights"]

    wanted = trained("plain")
    request.getfixturevalue("_as_in_a_kernel")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = trained("kernel")
    for name, weight in wanted.items():
        assert np.array_equal(weight, found[name]), name
