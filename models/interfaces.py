"""The interfaces of tokenizers and transformers: what a new family of networks must offer.

Training, sampling, editing and measuring use these interfaces only. models/open.py has the table of
the families.

Axes: B images of a batch, L tokens of an image, h w token grid, C H W of an image, K codebook.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

from torch import Tensor


class TransformerShape(Protocol):
    """The fields that the config of every transformer has."""

    family: ClassVar[str]  # its name in checkpoints
    contradiction_hint: ClassVar[str]  # what else a user can do where `agrees` says no

    @property
    def codebook_size(self) -> int:
        """The number of image tokens K; their ids are 0 .. K-1."""

    @property
    def num_classes(self) -> int:
        """The number of classes; their labels are 0 .. num_classes - 1."""

    @property
    def seq_len(self) -> int:
        """The number of tokens of an image, L."""

    @property
    def mask_token(self) -> int:
        """The token id that stands for "hidden"; image tokens have smaller ids."""

    @property
    def null_class(self) -> int | None:
        """The label that means "no class", for guidance; None if there is none, or untrained."""

    def validate(self) -> None:
        """Check that the numbers fit together; raises FieldError or ValueError."""

    def agrees(self, field: str, value: object) -> bool:
        """Return whether the user may say that a field has this value."""


class Transformer(Protocol):
    """A module that predicts hidden tokens from the known ones and a class."""

    @property
    def config(self) -> Any:
        """The family's config, which is a `TransformerShape`."""

    def __call__(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        """Predict the image token at each position.

        Args:
            tokens: int64 (B, L), with the mask token at hidden positions.
            labels: int64 (B,), classes or the null class.
            at: int64 (N,), the wanted ones of the B * L flattened positions; None for all.

        Returns:
            Logits (B, L, K), or (N, K) with `at`.
        """

    def parameters(self) -> Iterator[Any]:
        """As in nn.Module."""

    def state_dict(self) -> dict[str, Any]:
        """As in nn.Module."""

    def compile(self, *, dynamic: bool, mode: str) -> None:
        """As in nn.Module."""


class TokenizerShape(Protocol):
    """The fields that the config of every tokenizer has."""

    family: ClassVar[str]  # its name in checkpoints
    contradiction_hint: ClassVar[str]  # what else a user can do where `agrees` says no

    @property
    def image_size(self) -> int:
        """The height and width of an image in pixels."""

    @property
    def image_channels(self) -> int:
        """The number of channels of an image, C: 1 for grey, 3 for colour."""

    @property
    def codebook_size(self) -> int:
        """The number of image tokens K; their ids are 0 .. K-1."""

    @property
    def all_codes(self) -> int:
        """The number of codes, also of those that no token stands for; K where there are none."""

    @property
    def grid_size(self) -> int:
        """The number of tokens along one side of an image, h = w."""

    def validate(self) -> None:
        """Check that the numbers fit together; raises FieldError or ValueError."""

    def agrees(self, field: str, value: object) -> bool:
        """Return whether the user may say that a field has this value."""


class TokenizerNetwork(Protocol):
    """A module that turns images into tokens and back; models/tokenizer.py freezes it."""

    @property
    def config(self) -> Any:
        """The family's config, which is a `TokenizerShape`."""

    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) in [-1, 1] into tokens int64 (B, h, w) in [0, K)."""

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Turn tokens int64 (B, h, w) into images (B, C, H, W), not clamped to [-1, 1]."""

    def to_rgb(self, images: Tensor) -> Tensor:
        """Turn images into the ones that people look at: (B, 1 or 3, H, W) in [-1, 1]."""

    def compile_networks(self, dynamic: bool) -> None:
        """Run its parts through torch.compile; `dynamic` is passed on."""
