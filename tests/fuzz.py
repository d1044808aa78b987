"""Damaged files: each is read as it was written or refused in one line, and nothing else happens.

    python tests/fuzz.py --cases 3000

Our own formats (checkpoints, resume states, token caches) must never be accepted with other
contents. Files of others (VQ-GAN weights, images, remap arrays) have no checksums: they may be
accepted, but reading them must not crash, hang, run code or fail in any other way.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.images import load_image
from data.tokens import cached_tokens
from models.maskgit.config import TransformerConfig
from models.maskgit.loading import find_weights, to_foreign
from models.maskgit.transformer import MaskedTransformer
from models.vqgan.config import VQGANConfig
from models.vqgan.loading import load_tokenizer, read_remap
from models.vqgan.network import VQModel
from models.vqgan.tokenizer import Tokenizer
from utils.checkpoint import load_checkpoint, read_torch_file, save_checkpoint
from utils.errors import UserError

Read = Callable[[Path], object]
VQGAN = VQGANConfig(
    image_size=8, channels=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(),
    z_channels=4, n_embed=8, embed_dim=4,
)  # fmt: skip
TRANSFORMER = TransformerConfig(
    codebook_size=8, num_classes=3, seq_len=16, embed_dim=4, hidden_dim=8, heads=2, depth=1,
    mlp_dim=8,
)  # fmt: skip


class TinyImages(torch.utils.data.Dataset):
    """Twelve images of one value each, as the token cache reads them."""

    num_views, fingerprint = 2, "twelve"

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.full((1, 8, 8), index, dtype=torch.uint8), index % 3


def encode(pixels):
    return pixels[:, 0, ::2, ::2].flatten(1).long()


class Target:
    """A kind of file: how it is made, read and compared."""

    def __init__(self, make: Callable[[Path], Path], read: Read, own: bool) -> None:
        """`make` writes the file into a folder; what is `own` must be read unchanged."""
        self.make, self.read, self.own = make, read, own


def make_targets() -> dict[str, Target]:
    """Every kind of file that the program reads, as small as it gets."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(VQModel(VQGAN))
    model = MaskedTransformer(TRANSFORMER)
    weights = model.state_dict()
    contents = {"config": vars(TRANSFORMER), "weights": weights, "ema": weights, "step": 3}
    state = {"stage": {"model": weights, "optimizer": {0: {"step": 1.0}}}, "position": {"step": 3}}

    def saved(name: str, kind: str, value: dict) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            save_checkpoint(folder / name, kind, value)
            return folder / name

        return make

    def stored(name: str, value: object) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            torch.save(value, folder / name)
            return folder / name

        return make

    def token_file(name: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            read_tokens(folder / "cache" / "x" / name)
            (cache,) = (folder / "cache").glob("tiny-*")
            return cache / name

        return make

    def picture(folder: Path, name: str) -> Path:
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / name)
        return folder / name

    def remap(folder: Path) -> Path:
        np.save(folder / "used.npy", np.array([1, 3, 5]))
        return folder / "used.npy"

    def read_tokens(path: Path) -> object:
        tokens = cached_tokens(
            TinyImages(), encode, 16, {"dataset": "tiny", "split": "train"}, path.parents[1],
            batch_size=4, num_workers=0,
        )  # fmt: skip
        return np.array(tokens.tokens), np.array(tokens.labels)

    vqgan = {**tokenizer.entry()["weights"]}
    entry = {"tokenizer": tokenizer.entry()}
    own = {
        "transformer": (
            saved("m.pt", "maskgit", contents),
            lambda p: load_checkpoint(p, "maskgit"),
        ),
        "state": (saved("r.pt", "s", state), lambda p: load_checkpoint(p, "s")),
        "tokenizer": (
            saved("v.pt", "vqgan", entry),
            lambda p: load_tokenizer(p, 8, 1, {}).fingerprint,
        ),
        "tokens": (token_file("tokens.npy"), read_tokens),
        "labels": (token_file("labels.npy"), read_tokens),
        "manifest": (token_file("manifest.json"), read_tokens),
    }
    foreign = {
        "vqgan": (stored("f.ckpt", {"state_dict": vqgan}), lambda p: load_tokenizer(p, 8, 1, {})),
        "maskgit": (
            stored("g.pth", to_foreign(model)),
            lambda p: find_weights(read_torch_file(p), p),
        ),
        "png": (lambda folder: picture(folder, "a.png"), load_image),
        "jpeg": (lambda folder: picture(folder, "a.jpg"), load_image),
        "remap": (remap, lambda p: read_remap(p, 8)),
    }
    targets = {name: Target(make, read, own=True) for name, (make, read) in own.items()}
    return targets | {name: Target(make, read, own=False) for name, (make, read) in foreign.items()}


def damaged(data: bytes, generator: np.random.Generator) -> bytes:
    """Flip bits, cut, overwrite, repeat or exchange parts of a file."""
    changed = bytearray(data)
    start, stop = sorted(generator.integers(0, len(data) + 1, 2).tolist())
    match generator.integers(7):
        case 0:
            changed[generator.integers(len(data))] ^= 1 << generator.integers(8)
        case 1:
            for position in generator.integers(0, len(data), 20):
                changed[position] = generator.integers(256)
        case 2:
            changed = changed[:start]
        case 3:
            changed[start:stop] = bytes(stop - start)
        case 4:
            changed[start:start] = changed[start:stop]
        case 5:
            del changed[start:stop]
        case 6:
            changed[:64] = generator.bytes(64)
    return bytes(changed)


def same(one: object, other: object) -> bool:
    """Whether two nested results are equal, bit for bit."""
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


def run_case(name: str, target: Target, seed: int) -> str:
    """Damage one file and read it: "refused" or "read"; anything else raises."""
    with tempfile.TemporaryDirectory() as folder:
        path = target.make(Path(folder))
        expected = target.read(path)
        path.write_bytes(damaged(path.read_bytes(), np.random.default_rng(seed)))
        try:
            found = target.read(path)
        except UserError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:
            assert "\n" not in refusal, f"{name} {seed}: more than one line: {refusal}"
            return "refused"
        assert not target.own or same(found, expected), (
            f"{name} {seed}: accepted with other contents"
        )
        return "read"


def main() -> None:
    """Run the cases and count what became of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    targets = make_targets()
    for name, target in targets.items():
        count = math.ceil(options.cases / len(targets))
        results = [run_case(name, target, options.seed + i) for i in range(count)]
        print(name, {result: results.count(result) for result in sorted(set(results))})  # noqa: T201


if __name__ == "__main__":
    main()
