"""How many operations training and decoding start on a GPU, counted without one.

    python benchmarks/launches.py

Small models are bound by the processor that starts the kernels of a GPU. Counted is what torch
dispatches to the device in a step of the default model (64 tokens, 512 codes), over fake tensors
(fake_gpu.py), without --compile. Views and allocations start nothing. An operation on lists
(`_foreach_`, `_fused_`) counts as one, though a GPU cuts long lists into several kernels; so do a
sort or a backward pass of attention, which are several kernels too. So a profiler on a GPU sees
more, and the counts are for comparing two versions of the code under one version of torch.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.fake_gpu import FIRST_TORCH, GPU, fake_gpu
from data.token_set import TokenSet
from models.maskgit.config import TransformerConfig
from models.open import new_transformer
from models.predictors import prepare_decoding
from models.sampling import SamplingConfig
from training.config import TrainingConfig
from training.transformer import MaskGITStage
from utils.weights import with_linear_weights_in

DEFAULT = TransformerConfig(codebook_size=512, num_classes=10, seq_len=64)
IMAGES_TRAINED, IMAGES_SAMPLED = 256, 64
MOST_FREQUENT = 10
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Allocations, and a view whose schema does not say that it is one.
WITHOUT_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"}

Launches = Counter[str]
"""How often each operation is started, by its name in torch.ops.aten."""


class _Counting(TorchDispatchMode):
    """Counts in `launches` the operations that compute on the device, or copy to or from it."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Launches = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        touched = (leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
        computes = func.namespace == "aten" and not func.is_view and name not in WITHOUT_KERNEL
        if computes and any(tensor.device.type == "cuda" for tensor in touched):
            self.launches[name] += 1
        return result


def counted(work: Callable[[], object]) -> Launches:
    """Count what a work starts; inside `fake_gpu`."""
    with _Counting() as counting:
        work()
    return counting.launches


def of_training(config: TransformerConfig, optimizer: str, precision: torch.dtype) -> Launches:
    """Count a whole training step: forward and backward pass, clipping, optimiser, average.

    Args:
        config: shape of the model.
        optimizer: "adamw" or "muon".
        precision: dtype of the matrix products.
    """
    with fake_gpu():
        tokens = np.zeros((1, IMAGES_TRAINED, config.seq_len), np.uint16)
        token_set = TokenSet(tokens, np.zeros(IMAGES_TRAINED, np.int64))
        stage = MaskGITStage(
            config,
            TrainingConfig(batch_size=IMAGES_TRAINED, optimizer=optimizer),
            token_set,
            token_set,
            device=GPU,
            precision=precision,
            checkpoint_entries={},
            preview=lambda model, path: None,
        )
        stage.train_step(0)  # the first step makes the moments
        return counted(lambda: stage.train_step(1))


def of_decoding(config: TransformerConfig, precision: torch.dtype) -> Launches:
    """Count a guided decoding step, as what a decoding with one step more starts more.

    Args:
        config: shape of the model.
        precision: dtype of the matrix products.
    """
    labels = np.arange(IMAGES_SAMPLED) % config.num_classes
    indices = np.arange(IMAGES_SAMPLED)
    with fake_gpu():
        # As models/model.py keeps it.
        model = with_linear_weights_in(precision, new_transformer(config).to(GPU).eval())

        def decode(num_steps: int) -> None:
            sampling = SamplingConfig(num_steps=num_steps)
            prepare_decoding(model, labels, indices, sampling, seed=0, precision=precision).result()

        steps = SamplingConfig().num_steps
        return counted(partial(decode, steps)) - counted(partial(decode, steps - 1))


def main() -> None:
    """Print the number of operations of each work, and its most frequent ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--precision", default="bf16", choices=PRECISIONS)
    precision = PRECISIONS[parser.parse_args().precision]
    if torch.__version__ < FIRST_TORCH:
        sys.exit(f"launches.py: needs torch {FIRST_TORCH} or newer, not {torch.__version__}")
    say(f"{precision}, torch {torch.__version__}")
    works = {
        "training step, AdamW": of_training(DEFAULT, "adamw", precision),
        "training step, Muon": of_training(DEFAULT, "muon", precision),
        "decoding step": of_decoding(DEFAULT, precision),
    }
    for name, launches in works.items():
        say(f"\n{launches.total():4d}  {name}")
        for operation, count in launches.most_common(MOST_FREQUENT):
            say(f"      {count:4d}  {operation}")


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
