"""A new family is a folder and a row: two toy families go through everything that uses them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.token_set import TokenSet
from MaskGIT import main
from models import open as families
from models.family import TokenizerFamily, TransformerFamily
from models.interfaces import TokenizerNetwork, Transformer
from models.open import load_model, load_tokenizer
from models.shapes import TokenizerShape, TransformerShape
from models.tokenizer import Tokenizer
from training.config import TrainingConfig
from training.transformer import MaskGITStage
from utils.checkpoint import save_checkpoint
from utils.errors import FieldError, UserError

LEVELS, SIDE, GRID = 6, 8, 4


@dataclass(frozen=True)
class GreyConfig(TokenizerShape):
    """A tokenizer without weights to speak of: a token is the mean grey of its cell."""

    family: ClassVar[str] = "grey"
    image_size: tuple[int, int] = (SIDE, SIDE)
    image_channels: int = 1
    codebook_size: int = LEVELS
    grid: tuple[int, int] = (GRID, GRID)


class GreyNetwork(TokenizerNetwork):
    def __init__(self, config: GreyConfig) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.Parameter(torch.linspace(-1, 1, config.codebook_size))

    def encode(self, images: Tensor) -> Tensor:
        cells = nn.functional.avg_pool2d(images, SIDE // GRID)  # (B, 1, h, w)
        return (cells - self.levels.view(1, -1, 1, 1)).abs().argmin(1)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        return (
            self.levels[tokens][:, None]
            .repeat(1, 1, 1, 1)
            .repeat_interleave(2, 2)
            .repeat_interleave(2, 3)
        )


@dataclass(frozen=True)
class CountConfig(TransformerShape):
    """A transformer that only looks at the class, and has none for "no class"."""

    family: ClassVar[str] = "count"
    codebook_size: int = LEVELS
    num_classes: int = 10
    seq_len: int = GRID**2

    @property
    def mask_token(self) -> int:
        return self.codebook_size

    @property
    def null_class(self) -> None:
        return None


class CountNetwork(Transformer):
    def __init__(self, config: CountConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.num_classes, config.codebook_size)

    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        logits = self.table(labels)[:, None].expand(-1, tokens.shape[1], -1)
        return logits if at is None else logits.flatten(0, 1)[at]


def is_grey(stored: object) -> bool:
    return isinstance(stored, dict) and "levels" in stored


def is_count(stored: object) -> bool:
    return isinstance(stored, dict) and "table.weight" in stored


def read_grey(stored, path, image_size, given):
    network = GreyNetwork(GreyConfig(image_size=image_size))
    network.load_state_dict(stored)
    return network


def read_count(stored, path, tokenizer, num_classes, given):
    network = CountNetwork(CountConfig(tokenizer.codebook_size, len(stored["table.weight"])))
    network.load_state_dict(stored)
    return network


@pytest.fixture
def toy(monkeypatch) -> None:
    grey = TokenizerFamily(
        GreyConfig, GreyNetwork, "grey levels", is_grey, read_grey, lambda network, *_: network
    )
    count = TransformerFamily(
        CountConfig, CountNetwork, "table of counts", is_count, read_count, None, lambda *_: 0
    )
    monkeypatch.setattr(families, "TOKENIZERS", (*families.TOKENIZERS, grey))
    monkeypatch.setattr(families, "TRANSFORMERS", (*families.TRANSFORMERS, count))


def trained_stage(tokenizer: Tokenizer, **training) -> MaskGITStage:
    """A stage after 30 steps on images of one grey level per class."""
    labels = np.arange(60) % LEVELS
    tokens = np.repeat(labels[:, None], GRID**2, 1).astype(np.uint16)[None]
    examples = TokenSet(tokens, labels)
    stage = MaskGITStage(
        CountConfig(),
        TrainingConfig(
            epochs=10, batch_size=20, lr=0.3, ema_decay=0, label_smoothing=0, **training
        ),
        examples,
        examples,
        device=torch.device("cpu"),
        precision=torch.float32,
        checkpoint_entries={
            "dataset": "mnist",
            "class_names": list("0123456789"),
            "tokenizer": tokenizer.entry(),
        },
        preview=lambda network, path: None,
    )
    for step in range(30):
        stage.train_step(step)
    return stage


@pytest.mark.usefixtures("toy")
def test_a_toy_family_is_trained_saved_opened_sampled_and_edited(tmp_path: Path) -> None:
    tokenizer = Tokenizer(GreyNetwork(GreyConfig()))
    stage = trained_stage(tokenizer, label_drop=0.0)
    path = tmp_path / "MaskGIT_mnist.pt"
    save_checkpoint(path, "maskgit", stage.checkpoint(30))
    model = load_model(path, device="cpu", precision="fp32")
    assert load_tokenizer(path).fingerprint == tokenizer.fingerprint

    # Class c is the grey of level c, everywhere.
    images = model.sample([0, 3, 5], guidance=0, choice_temperature=0)
    levels = np.linspace(0, 255, LEVELS).round()
    for image, label in zip(images, (0, 3, 5), strict=True):
        assert (abs(image.astype(int) - levels[label]) <= 1).mean() > 0.9

    left = np.arange(SIDE)[None].repeat(SIDE, 0) < SIDE // 2
    edited = model.edit(images[0], left, [5], guidance=0)
    assert (edited[0][~left] == images[0][~left]).all()
    assert edited[0][left].mean() > 200

    # The command line knows no more of it.
    command = f"--sample --checkpoint {path} --output_dir {tmp_path} --num_samples 4 --cfg_w 0"
    main(command.split())
    with np.load(tmp_path / "mnist" / "samples" / "samples.npz") as stored:
        assert stored["arr_0"].shape == (4, SIDE, SIDE, 1)


@pytest.mark.usefixtures("toy")
def test_what_a_family_cannot_do_is_told(tmp_path: Path, capsys) -> None:
    tokenizer = Tokenizer(GreyNetwork(GreyConfig()))
    with pytest.raises(FieldError, match="label_drop"):
        trained_stage(tokenizer)
    path = tmp_path / "MaskGIT_mnist.pt"
    save_checkpoint(path, "maskgit", trained_stage(tokenizer, label_drop=0.0).checkpoint(30))
    model = load_model(path, device="cpu")
    with pytest.raises(FieldError, match="null class"):
        model.sample([0], guidance=1)
    with pytest.raises(SystemExit):
        main(f"--export {tmp_path}/other.pt --checkpoint {path}".split())
    assert "no other program reads" in capsys.readouterr().err


@pytest.mark.usefixtures("toy")
def test_files_of_other_programs_are_recognised_by_their_contents(tmp_path: Path) -> None:
    torch.save(GreyNetwork(GreyConfig()).state_dict(), tmp_path / "grey.pt")
    torch.save(CountNetwork(CountConfig()).state_dict(), tmp_path / "count.pt")
    tokenizer = load_tokenizer(tmp_path / "grey.pt", image_size=SIDE)
    model = load_model(tmp_path / "count.pt", tokenizer=tokenizer, device="cpu")
    assert model.sample([1, 2], guidance=0).shape == (2, SIDE, SIDE, 1)
    torch.save({"other": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"no grey levels"):
        load_tokenizer(tmp_path / "other.pt")


def test_a_family_that_this_program_lacks_is_named(tmp_path: Path) -> None:
    entry = {**Tokenizer(GreyNetwork(GreyConfig())).entry(), "family": "of the future"}
    save_checkpoint(tmp_path / "a.pt", "vqgan", {"tokenizer": entry})
    with pytest.raises(UserError, match="'of the future' is unknown"):
        load_tokenizer(tmp_path / "a.pt")
