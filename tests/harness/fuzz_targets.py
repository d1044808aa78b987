"""The kinds of files that the program reads, each with the path that reads it."""

import copy
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from fuzz_damage import changed, changed_tensor, damage_pickle
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from data.arrays import read_idx
from data.generated import open_generated
from data.image_file import load_image
from data.spec import AS_IT_IS
from data.token_cache import cached_tokens
from data.token_set import TokenSet
from models.family import Expected, Transformer
from models.foreign_file import ForeignFile
from models.maskgit.config import TransformerConfig
from models.maskgit.foreign import to_foreign
from models.maskgit.transformer import MaskedTransformer
from models.open import load_model, load_tokenizer, read_network
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig, read_remap
from models.vqgan.network import VQModel
from training.config import TrainingConfig, VQGANTrainingConfig
from training.run_folder import RunFolder
from training.stage import Stage, load_state
from training.transformer_stage import MaskGITStage
from training.vqgan_stage import VQGANStage
from utils.checkpoint import FORMAT, FORMAT_VERSION, load_checkpoint, save_checkpoint
from utils.files import file_digest
from utils.plain_pickle import check_extent
from utils.torch_file import read_torch_file

VQGAN = VQGANConfig(
    image_size=8, channels=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(),
    z_channels=4, n_embed=8, embed_dim=4,
)  # fmt: skip
TRANSFORMER = TransformerConfig(
    codebook_size=8, num_classes=10, seq_len=16, embed_dim=4, hidden_dim=8, heads=2, depth=1,
    mlp_dim=8,
)  # fmt: skip
CPU = {
    "device": torch.device("cpu"),
    "precision": torch.float32,
    "checkpoint_entries": {"dataset": "x"},
}
DATASET = "fashionmnist"


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        make: writes the file into a folder; returns its path.
        read: reads it as the program does and returns all that came of it; UserError if it cannot.
        own: whether it is a format of this program, which must never be read with other contents.
        alter: changes what the file holds and makes its checksums right again, or None.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    own: bool
    alter: Callable[[Path, np.random.Generator], None] | None = None


class TinyImages(torch.utils.data.Dataset):
    """Twelve images of one value each, as the token cache reads them."""

    num_views = num_flips = 2
    num_copies, fingerprint = 1, "twelve"
    class_names, size, preparation = ("a", "b", "c"), (8, 8), AS_IT_IS
    source = SimpleNamespace(items=SimpleNamespace(labels=np.arange(12) % 3))

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 8, 8), index, dtype=torch.uint8), index % 3

    def stamps(self) -> None:
        """The images are not files."""

    def copies(self, index: int, numbers: Iterable[int]) -> tuple[Tensor, int]:
        image, label = self[index]
        return image[None], label


def make_targets() -> dict[str, Target]:
    """Every kind of file, by name."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(VQModel(VQGAN)).entry()
    model = MaskedTransformer(TRANSFORMER)
    theirs = to_foreign(model)
    classes = [f"class {number}" for number in range(TRANSFORMER.num_classes)]
    transformer = {
        "config": vars(TRANSFORMER), "weights": model.state_dict(), "ema": model.state_dict(),
        "tokenizer": tokenizer, "dataset": DATASET, "class_names": classes, "step": 3,
        "family": "maskgit",
    }  # fmt: skip
    return {
        "transformer": own_checkpoint("maskgit", transformer, read_transformer, "a.pt"),
        "tokenizer": own_checkpoint("vqgan", {"tokenizer": tokenizer}, read_tokenizer, "a.pt"),
        "stage 1": resume_state(make_stage1),
        "stage 2": resume_state(make_stage2),
        "tokens": cache_file("tokens.npy"),
        "labels": cache_file("labels.npy"),
        "manifest": cache_file("manifest.json"),
        "old taming": foreign({"state_dict": tokenizer["weights"]}, read_tokenizer, zipped=False),
        "taming": foreign({"state_dict": tokenizer["weights"]}, read_tokenizer),
        "GenerativeZoo": foreign(theirs, read_foreign),
        "valeoai": foreign({"model_state_dict": theirs, "iter": 3}, read_foreign),
        "safetensors": Target(
            lambda folder: safetensors_file(folder / "a.safetensors", theirs),
            read_foreign,
            own=False,
        ),
        "png": Target(lambda folder: picture(folder / "a.png"), load_image, own=False),
        "jpeg": Target(lambda folder: picture(folder / "a.jpg"), load_image, own=False),
        "gif": Target(lambda folder: picture(folder / "a.gif"), load_image, own=False),
        "avif": Target(lambda folder: picture(folder / "a.avif"), load_image, own=False),
        "idx": Target(idx, lambda path: read_idx(path, 3), own=False),
        "npz": Target(npz, read_generated, own=False),
        "npy": Target(npy, read_generated, own=False),
        "remap": Target(remap, lambda path: read_remap(path, 8), own=False),
    }


def own_checkpoint(kind: str, contents: Any, read: Callable[[Path], Any], name: str) -> Target:
    """A checkpoint of this program."""

    def make(folder: Path) -> Path:
        save_checkpoint(folder / name, kind, contents)
        return folder / name

    def alter(path: Path, generator: np.random.Generator) -> None:
        contents = changed(load_checkpoint(path, kind), generator)
        try:
            check_extent(contents, 1 << 26)
        except ValueError:  # no checksum of it could be made
            version = {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": kind}
            torch.save({**version, "contents": contents, "checksums": {}}, path)
        else:
            save_checkpoint(path, kind, contents)

    return Target(make, read, own=True, alter=alter)


def foreign(contents: Any, read: Callable[[Path], Any], zipped: bool = True) -> Target:
    """A file of another program's torch.save, also as torch wrote it before version 1.6."""

    def make(folder: Path) -> Path:
        torch.save(contents, folder / "a.pth", _use_new_zipfile_serialization=zipped)
        return folder / "a.pth"

    def alter(path: Path, generator: np.random.Generator) -> None:
        if generator.integers(2) or not zipped:
            torch.save(changed(contents, generator), path)
        else:
            damage_pickle(path, generator)

    return Target(make, read, own=False, alter=alter)


def resume_state(make_stage: Callable[[], Stage]) -> Target:
    """The state of a run after two steps, from which one more step must be possible."""
    stage = make_stage()
    sums = {name: (value.detach(), 1) for name, value in stage.train_step(0).items()}
    position = {"step": 2, "best_loss": 1.5, "wandb_id": None, "sums": sums}
    stage.train_step(1)

    def read(path: Path) -> Any:
        stage = make_stage()
        position = load_state(stage, RunFolder(path.parent, DATASET))
        # Sums are left out: with one less they are those of another run.
        found = copy.deepcopy((stage.state_dict(), position.step, position.best_loss))
        if position.step == 2:
            assert stage.train_step(2)["loss"].isfinite()
        return found

    name = RunFolder(Path(), DATASET).resume_state(stage.name).name
    contents = {"position": position, "stage": stage.state_dict()}
    return own_checkpoint(f"{stage.name}-resume", contents, read, name)


def make_stage1() -> VQGANStage:
    """Stage 1 with a discriminator, on noise."""
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def batches(*_: int) -> Iterator[Tensor]:
        return iter([images] * 4)

    training = VQGANTrainingConfig(epochs=4, perceptual_weight=0.0, disc_channels=4, disc_start=1)
    return VQGANStage(VQGAN, training, batches, batches, 4, **CPU)


def make_stage2() -> MaskGITStage:
    """Stage 2, on random tokens."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, TRANSFORMER.codebook_size, (1, 8, TRANSFORMER.seq_len))
    examples = TokenSet(tokens.astype(np.uint16), generator.integers(0, 10, 8))
    training = TrainingConfig(epochs=4, batch_size=4)
    return MaskGITStage(TRANSFORMER, training, examples, examples, **CPU, preview=print)


def read_tokenizer(path: Path) -> Any:
    """As for --checkpoint_vae; tokens must be possible."""
    tokenizer = load_tokenizer(path, 8, 1, {})
    assert tokenizer.decode(tokenizer.encode(torch.zeros(1, 1, 8, 8))).shape == (1, 1, 8, 8)
    return tokenizer.entry()


def read_transformer(path: Path) -> Any:
    """As for --sample; logits must be possible."""
    model = load_model(path, device="cpu", precision="fp32")
    check_logits(model.transformer)
    return (
        model.transformer.config,
        model.transformer.state_dict(),
        model.tokenizer.entry(),
        model.dataset,
        model.class_names,
    )


def read_foreign(path: Path) -> Any:
    """As for --sample of another program's file."""
    stored = read_torch_file(path)
    expected = Expected(VQGANConfig(n_embed=8), None, {"heads": 2})
    check_logits(read_network("transformer", ForeignFile(stored, path), expected))


def check_logits(model: Transformer) -> None:
    """One forward pass must be possible."""
    config = model.config
    logits = model(torch.zeros(1, config.seq_len, dtype=torch.long), torch.tensor([0]))
    assert logits.shape == (1, config.seq_len, config.codebook_size)


def cache_file(name: str) -> Target:
    """One file of a token cache."""

    def read(path: Path) -> Any:
        tokens = cached_tokens(
            TinyImages(), "train", lambda pixels: pixels[:, 0, ::2, ::2].flatten(1).long(), 16,
            {"dataset": "tiny"}, path.parents[1], codebook_size=12, batch_size=4, num_workers=0,
        )  # fmt: skip
        return np.array(tokens.tokens), np.array(tokens.labels)

    def make(folder: Path) -> Path:
        read(folder / "cache" / "any" / name)
        (path,) = folder.glob(f"cache/*/{name}")
        return path

    def alter(path: Path, generator: np.random.Generator) -> None:
        manifest_file = path.with_name("manifest.json")
        manifest = json.loads(manifest_file.read_text())
        if path == manifest_file:
            manifest = changed(manifest, generator, never=())  # as it is written as JSON
        else:
            values = torch.from_numpy(np.load(path))
            np.save(path, changed_tensor(values, generator).numpy())
            manifest["sha256"][name] = file_digest(path)
        manifest_file.write_text(json.dumps(manifest, default=str))

    return Target(make, read, own=True, alter=alter)


def picture(path: Path) -> Path:
    """An image file."""
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def idx(folder: Path) -> Path:
    """Images as MNIST has them."""
    head = bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 8])
    (folder / "a.gz").write_bytes(gzip.compress(head + bytes(range(256))))
    return folder / "a.gz"


def npz(folder: Path) -> Path:
    """The images and labels of --images."""
    images = np.arange(768, dtype=np.uint8).reshape(4, 8, 8, 3)
    np.savez_compressed(folder / "a.npz", arr_0=images, arr_1=np.arange(4))
    return folder / "a.npz"


def npy(folder: Path) -> Path:
    """The images of --images."""
    np.save(folder / "a.npy", np.zeros((4, 8, 8, 3), np.uint8))
    return folder / "a.npy"


def read_generated(path: Path) -> Any:
    """As for --images."""
    return list(open_generated(path, 8, 3).blocks(3))


def remap(folder: Path) -> Path:
    """The file of --remap."""
    np.save(folder / "used.npy", np.array([1, 3, 5]))
    return folder / "used.npy"


def safetensors_file(path: Path, weights: dict[str, Tensor]) -> Path:
    """The same weights in the other format."""
    save_file(weights, path)
    return path
