"""What a new family must implement: the base classes of the networks, and the row of a family.

models/shapes.py has the base classes of their configs. The row stands in the folder of the family;
models/registry.py names all rows. At the end are the checks of what the user says about networks.

Axes: B images of a batch, L tokens of an image, h w token grid, C H W of an image, K codebook.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from models.fine_tuning import Change
from models.foreign_file import ForeignFile
from models.shapes import NetworkShape, TokenizerShape, TransformerShape
from utils.errors import UserError, value_text
from utils.plain import to_plain


class Transformer(nn.Module, ABC):
    """A network that predicts hidden tokens from the known ones and a class."""

    config: TransformerShape
    # Number of matrices in a linear layer that computes several maps of its input, by the last part
    # of the layer's name. Muon treats these matrices one by one.
    joined: ClassVar[Mapping[str, int]] = {"qkv": 3}
    waits: ClassVar[bool] = False  # for the device: `forward` reads a value, so no graph records it

    @abstractmethod
    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        """Predict the image token at each position.

        Args:
            tokens: int64 (B, L), ids 0 .. K-1, and `config.mask_token` where a token is hidden.
            labels: int64 (B,), classes 0 .. num_classes - 1, or `config.null_class`.
            at: int64 (N,), which of the B * L flattened positions to predict; None for all.

        Returns:
            Logits (B, L, K), or (N, K) with `at`; in the precision of the computation.
        """

    @staticmethod
    def carry(name: str, weight: Tensor, change: Change) -> Tensor:
        """Fit a weight to a new transformer with other classes or another token grid.

        Weights that then have another shape than in the new one are not taken.
        """
        return weight


class TokenizerNetwork(nn.Module, ABC):
    """A network that turns images into tokens and back; models/tokenizer.py freezes it."""

    config: TokenizerShape

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) in [-1, 1] into tokens int64 (B, h, w), or (B, L), in [0, K)."""

    @abstractmethod
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Turn such tokens into images (B, C, H, W), not clamped to [-1, 1]."""

    def parts_of_encoder(self) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """Return all that the tokens depend on: plain settings, and weights by name.

        The default is the whole config and all weights. A family overrides it to keep the tokens,
        and everything that was learned from them, when only the decoder changes.
        """
        return to_plain(self.config), self.state_dict()

    def weights_for(self, config: TokenizerShape) -> Mapping[str, Tensor]:
        """Return the weights for the same network with a config that `TokenizerShape.adapted` made.

        The default is the network's own.
        """
        return self.state_dict()

    def to_rgb(self, images: Tensor) -> Tensor:
        """Turn images into displayable ones: (B, 1 or 3, H, W) in [-1, 1]."""
        return images

    def lay_out_encoder(self, layout: torch.memory_format) -> None:
        """Change the memory layout of what only `encode` uses; the default changes nothing."""

    def compile_networks(self) -> None:
        """Run the slow parts through torch.compile; the default compiles nothing."""


Found = tuple[NetworkShape, Mapping[str, Tensor]]
"""The config and the weights of a network in a file of another program."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of tokenizer or transformer, and the files of other programs that it reads.

    The config of a new transformer gets those of codebook_size, num_classes, seq_len and grid that
    it has, and every other field that an option fills.

    Attributes:
        config: its config, a `TokenizerShape` or `TransformerShape`, with the family's name.
        network: config -> a `TokenizerNetwork` or a `Transformer`.
        layout: describes the files of other programs, for messages; empty if it reads none.
        license: that of the weights which its authors publish; empty if they publish none.
        recognizes: tells whether a file of another program is one of these. The rows are asked in
            order, so a family whose files also look like another's comes first.
        accepts: tells whether a file can be one of these if the user says so; None: `recognizes`.
        read: (file of another program, what the user says) -> its config, and all its weights
            except those on the family's list of entries without effect. A file with a weight that
            the network does not have is then refused. Of a transformer the user says what is
            `Expected`, and of a tokenizer, as two arguments, the image size and the fields of its
            config.
        write: network -> its weights in the layout of another program; None if no program has one.
    """

    config: Any
    network: Callable[[Any], Any]
    layout: str = ""
    license: str = ""
    recognizes: Callable[[ForeignFile], bool] = lambda file: False
    accepts: Callable[[ForeignFile], bool] | None = None
    read: Callable[..., Found] | None = None
    write: Callable[[Any], dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        """The name of the family in checkpoints."""
        return self.config.family


# --- What the user says about networks ---


class Expected(NamedTuple):
    """What the user says about the transformer in a file of another program.

    Attributes:
        tokenizer: the config of its tokenizer.
        num_classes: the number of its classes; None if it is unknown.
        given: fields of its config that the user set.
    """

    tokenizer: TokenizerShape
    num_classes: int | None
    given: Mapping[str, Any]

    @property
    def heads(self) -> int | None:
        """The number of attention heads, if the user gave it."""
        return self.given.get("heads")


def refuse_unknown(config: type[NetworkShape], given: Mapping[str, Any], network: str) -> None:
    """Refuse fields that the networks of a family do not have.

    Args:
        network: names the network in the message.

    Raises:
        UserError: naming the field and the family.
    """
    known = {one.name for one in fields(config)}  # type: ignore[arg-type] # it is a dataclass
    for name, value in given.items():
        if name not in known and not hasattr(config, name):
            raise UserError(
                f"`{config.kind}.{name}` {value_text(value)}: {network} belongs to the "
                f"family {config.family}, which has no such field; leave it out"
            )


def refuse_contradictions(
    config: NetworkShape, given: Mapping[str, Any], source: Path | str
) -> None:
    """Refuse a value from the user that contradicts the checkpoint.

    Raises:
        UserError: naming the field, its value, the file and the file's value.
    """
    refuse_unknown(type(config), given, f"the {config.kind} of {source}")
    for name, value in given.items():
        if not config.agrees(name, value):
            raise UserError(
                f"`{config.kind}.{name}` {value_text(value)} contradicts {source}, which says "
                f"{value_text(config.shown(name))}; leave it out{config.contradiction_hint}"
            )
