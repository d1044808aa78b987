"""The frozen VQ-GAN: what stage 2 and everything after it sees of stage 1."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from utils.checkpoint import weights_digest
from utils.device import send
from utils.errors import UserError, one_line
from utils.images import from_uint8
from utils.plain import from_plain, to_plain
from utils.weights import build_with_weights

# Images are computed in parts of at most this many pixels: on the CPU their activations stay in the
# caches, on GPUs a batch that fits the transformer need not fit the encoder.
CPU_PART_PIXELS = 16 * 32 * 32
GPU_PART_PIXELS = 64 * 256 * 256


class Tokenizer:
    """Turns images into tokens and back.

    Always in evaluation mode and without gradients. Not a Module on purpose: assigned to one, it
    does not become part of that module's weights, mode or checkpoints.

    Attributes:
        config: architecture.
        fingerprint: equal exactly if architecture and weights are equal.
        device: where it computes.
    """

    def __init__(self, model: VQModel) -> None:
        """Freeze a model, which then belongs to the tokenizer."""
        self._model = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.config = model.config
        self.fingerprint = weights_digest(to_plain(self.config), model.state_dict())
        self.device = next(model.parameters()).device

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.config.codebook_size

    @property
    def grid_size(self) -> int:
        """Tokens along one side of an image."""
        return self.config.grid_size

    @property
    def image_size(self) -> int:
        """Pixels along one side of an image."""
        return self.config.image_size

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.config.image_channels

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Tokens of images.

        Args:
            images: float (B, C, H, W) in [-1, 1], on any device.

        Returns:
            int64 (B, h, w) in [0, K), on the tokenizer's device.
        """
        images = images.to(self.device, memory_format=torch.channels_last)
        return torch.cat([self._model.encode(part) for part in self._parts(images)])

    def encode_bytes(self, images: Tensor) -> Tensor:
        """Tokens of images as files hold them: uint8 (B, C, H, W) -> int64 (B, L).

        Never in bfloat16, in which one token in ten of Fashion-MNIST is another one.
        """
        return self.encode(from_uint8(send(images, self.device))).flatten(1)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Images of tokens.

        Args:
            tokens: int64 (B, h, w), or (B, L) for a square grid, in [0, K), on any device.

        Returns:
            float32 (B, C, H, W) in [-1, 1], on the tokenizer's device.
        """
        if tokens.ndim == 2:
            tokens = tokens.unflatten(1, (self.grid_size, self.grid_size))
        parts = [self._model.decode_tokens(part) for part in self._parts(tokens.to(self.device))]
        return torch.cat(parts).float().clamp(-1, 1)

    @torch.no_grad()
    def to_rgb(self, images: Tensor) -> Tensor:
        """Images as they are to be shown; see VQModel.to_rgb."""
        return self._model.to_rgb(images.to(self.device))

    def to(self, device: torch.device) -> "Tokenizer":
        """Move to a device, in place; returns itself."""
        self._model.to(device)
        self.device = device
        return self

    def compile(self, *, dynamic: bool) -> None:
        """Run encoder and decoder through torch.compile; `dynamic` is its own."""
        self._model.compile_networks(dynamic)

    def entry(self) -> dict[str, Any]:
        """Plain data from which `from_entry` rebuilds the tokenizer; goes into checkpoints."""
        weights = {name: value.cpu() for name, value in self._model.state_dict().items()}
        return {
            "config": to_plain(self.config),
            "weights": weights,
            "fingerprint": self.fingerprint,
        }

    def remapped(self, remap: tuple[int, ...]) -> "Tokenizer":
        """The same model with a smaller alphabet, on the CPU.

        Args:
            remap: the codes in use; token i then stands for code remap[i].
        """
        config = replace(self.config, remap=remap)
        weights = {**self._model.state_dict(), "quantize.used": torch.tensor(remap)}
        return Tokenizer(build_with_weights(lambda: VQModel(config), weights))

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "Tokenizer":
        """Rebuild a tokenizer on the CPU.

        Raises:
            UserError: if the weights are not finite or do not fit the configuration or the
                fingerprint.
        """
        damaged = "the tokenizer in this checkpoint is damaged"
        try:
            config = from_plain(VQGANConfig, entry["config"])
            config.validate()
            fingerprint = entry["fingerprint"]
            model = build_with_weights(lambda: VQModel(config), entry["weights"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{damaged}: {one_line(error)}") from error
        tokenizer = cls(model)
        if tokenizer.fingerprint != fingerprint:
            raise UserError(
                f"{damaged}: its fingerprint is {tokenizer.fingerprint}, not {fingerprint}"
            )
        return tokenizer

    def _parts(self, batch: Tensor) -> tuple[Tensor, ...]:
        pixels = CPU_PART_PIXELS if self.device.type == "cpu" else GPU_PART_PIXELS
        return batch.split(max(1, pixels // self.image_size**2))
