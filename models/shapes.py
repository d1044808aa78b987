"""The base classes of the configs of networks.

A config is a frozen dataclass. This file imports nothing slow, because the command line reads the
configs before it shows its help.

Axes: L tokens of an image, h w token grid, H W pixels, C channels, K codebook.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from utils.errors import FieldError
from utils.plain import same_value
from utils.size import Size, size_of, size_text

MAX_DEPTH = 1000  # of a transformer; a damaged file must not build modules for hours


class NetworkShape:
    """The config of any network."""

    kind: ClassVar[str]  # "tokenizer" or "transformer"
    family: ClassVar[str]  # its name in checkpoints
    contradiction_hint: ClassVar[str] = ""  # what else a user can do if `agrees` is False
    # The family's own defaults of fields of TrainingConfig and SamplingConfig, by field.
    usual: ClassVar[Mapping[str, Any]] = {}

    @property
    def splits(self) -> int:
        """The number of tokens of a cell of the image; they stand side by side in the grid."""
        return 1

    def validate(self) -> None:
        """Check that the numbers fit together; raises FieldError or ValueError."""

    def need(self, holds: bool, field: str, reason: str) -> None:
        """Raise a FieldError, with what would work, if a condition on a field does not hold.

        The field may stand behind a dot, to tell it from those of other configs.
        """
        if not holds:
            raise FieldError(field, self.shown(field.rpartition(".")[2]), reason)

    def shown(self, field: str) -> Any:
        """Return the value of a field for a message."""
        value = getattr(self, field)
        return size_text(value) if field == "image_size" else value

    def agrees(self, field: str, value: object) -> bool:
        """Return whether the user may say that a field has this value."""
        return same_value(value, getattr(self, field))


class TokenizerShape(NetworkShape):
    """The config of a tokenizer."""

    kind = "tokenizer"
    image_size: Size  # height and width of an image in pixels
    image_channels: int  # C: 1 for gray, 3 for color

    if TYPE_CHECKING:  # a dataclass would take these properties for defaults of its fields

        @property
        @abstractmethod
        def codebook_size(self) -> int:
            """The number of image tokens K; their ids are 0 .. K-1."""

        @property
        @abstractmethod
        def grid(self) -> tuple[int, ...]:
            """The token grid: (h, w) if each token describes a cell of the image, else (L,)."""

    @property
    def seq_len(self) -> int:
        """The number of tokens of an image, L."""
        return math.prod(self.grid)

    def adapted(self, given: Mapping[str, Any], source: Path | str) -> "TokenizerShape":
        """Return the config with those of the user's fields that a trained network can take over.

        Args:
            given: fields that the user set.
            source: the file of the network, for messages.

        Raises:
            UserError: if a field contradicts the config, or its value cannot be read.
        """
        return self

    def agrees(self, field: str, value: Any) -> bool:
        """Return whether the user may say that a field has this value."""
        if field == "image_size":
            return size_of(value) == self.image_size
        return super().agrees(field, value)

    @property
    def all_codes(self) -> int:
        """Size of the full codebook, including codes that no token uses."""
        return self.codebook_size


class TransformerShape(NetworkShape):
    """The config of a transformer."""

    kind = "transformer"
    # The family's own defaults of fields of DistillConfig, for students of its networks.
    usual_students: ClassVar[Mapping[str, Any]] = {}
    codebook_size: int  # K; the ids of image tokens are 0 .. K-1
    num_classes: int  # their labels are 0 .. num_classes - 1

    if TYPE_CHECKING:  # as above

        @property
        @abstractmethod
        def seq_len(self) -> int:
            """The number of tokens of an image, L."""

        @property
        @abstractmethod
        def mask_token(self) -> int:
            """The token id that stands for "hidden"; image tokens have smaller ids."""

        @property
        @abstractmethod
        def null_class(self) -> int | None:
            """The label "no class" for guidance, which follows the classes; None without one."""

    @property
    def num_labels(self) -> int:
        """The number of labels: the classes, and the null class if there is one."""
        return self.num_classes + (self.null_class is not None)


@dataclass(frozen=True)
class AttentionShape(TransformerShape):
    """The config of a network of attention blocks; a checkpoint holds it.

    A family adds `seq_len` or `grid`, and, if it has a null class, `null_trained`: whether that was
    trained. Its weights exist in any case.

    Attributes:
        codebook_size: number of image tokens K; their ids are 0 .. K-1, and K is the mask token.
        num_classes: number of classes; the null class, if there is one, follows them.
        hidden_dim: width of the blocks D, a multiple of `heads`.
        depth: number of blocks.
        dropout: dropout rate on the embeddings and on the outputs of attention and MLP.
    """

    may_be_zero: ClassVar[tuple[str, ...]] = ()  # fields with numbers; all others are at least 1

    codebook_size: int
    num_classes: int
    _: KW_ONLY
    hidden_dim: int = 128
    depth: int = 10
    heads: int = 8
    dropout: float = 0.1

    @property
    def mask_token(self) -> int:
        """The token id that stands for "hidden"."""
        return self.codebook_size

    @property
    def null_class(self) -> int | None:
        """The label that means "no class", the unconditional input of guidance; None untrained."""
        return self.num_classes if getattr(self, "null_trained", False) else None

    def validate(self) -> None:
        """Check that the numbers fit together.

        Raises:
            FieldError: naming the first field with a wrong value, and what would work.
        """
        for one in fields(self):
            low = 0 if one.name in self.may_be_zero else 1
            if one.type is int:
                is_enough = getattr(self, one.name) >= low
                self.need(is_enough, f"TransformerConfig.{one.name}", f"must be at least {low}")
        in_range = 0 <= self.dropout < 1
        self.need(in_range, "TransformerConfig.dropout", "must be at least 0 and below 1")
        self.need(self.depth <= MAX_DEPTH, "depth", f"must be at most {MAX_DEPTH}")
        self.validate_heads()

    def validate_heads(self) -> None:
        """Check that the heads fit the width; raises FieldError."""
        fits = self.hidden_dim % self.heads == 0
        self.need(fits, "hidden_dim", f"must be divisible by `heads` {self.heads}")
