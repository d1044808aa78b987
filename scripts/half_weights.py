"""Store a tokenizer in half the space: its weights are rounded to half precision.

    python scripts/half_weights.py runs/color/VQGAN_folder.pt models/pretrained/VQGAN_color.pt

The program computes with the rounded weights in float32, so the tokens are those of the new file.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands.flags import with_flags
from models.open import load_tokenizer
from models.tokenizer import Tokenizer
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import errors_on_one_line


def main() -> None:
    """Write the rounded tokenizer and what else the file says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a VQGAN_*.pt of this program")
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    contents = load_checkpoint(options.source, "vqgan")
    network = load_tokenizer(options.source).network
    entry = Tokenizer(network.half().float()).entry()  # the fingerprint is that of rounded weights
    halves = {
        name: value.half() if value.dtype == torch.float32 else value
        for name, value in entry["weights"].items()
    }
    contents["tokenizer"] = {**entry, "weights": halves}
    save_checkpoint(options.target, "vqgan", contents)


if __name__ == "__main__":
    with errors_on_one_line("half_weights.py", with_flags):
        main()
