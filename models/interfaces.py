"""The base classes of the networks: what a new family must implement.

models/shapes.py has the base classes of their configs, models/open.py the table of families.

Axes: B images of a batch, L tokens of an image, h w token grid, C H W of an image, K codebook.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from models.shapes import TokenizerShape, TransformerShape


class Transformer(nn.Module, ABC):
    """A network that predicts hidden tokens from the known ones and a class."""

    config: TransformerShape

    @abstractmethod
    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        """Predict the image token at each position.

        Args:
            tokens: int64 (B, L), with the mask token at hidden positions.
            labels: int64 (B,), classes or the null class.
            at: int64 (N,), which of the B * L flattened positions to predict; None for all.

        Returns:
            Logits (B, L, K), or (N, K) with `at`.
        """


class TokenizerNetwork(nn.Module, ABC):
    """A network that turns images into tokens and back; models/tokenizer.py freezes it."""

    config: TokenizerShape

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) in [-1, 1] into tokens int64 (B, h, w), or (B, L), in [0, K)."""

    @abstractmethod
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Turn such tokens into images (B, C, H, W), not clamped to [-1, 1]."""

    def to_rgb(self, images: Tensor) -> Tensor:
        """Turn images into displayable ones: (B, 1 or 3, H, W) in [-1, 1]."""
        return images

    def compile_networks(self, dynamic: bool) -> None:
        """Run the slow parts through torch.compile with `dynamic`; the default compiles nothing."""
