"""The frozen tokenizer, through which stage 2, sampling, editing and measuring use stage 1.

Axes: B images of a batch, C channels, H W pixels, h w token grid, L = h * w, K codebook.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.batch_sizes import in_few_sizes
from models.family import TokenizerNetwork
from utils.checkpoint import weights_digest
from utils.device import autocast, choose_precision, in_usual_torch, send, usual_torch
from utils.errors import FieldError
from utils.pictures import from_uint8
from utils.plain import to_plain

# A batch is computed in parts of at most this many pixels. On the CPU the activations of a part
# stay in the caches. On a GPU a batch that fits the transformer may be too large for the encoder.
CPU_PART_PIXELS = 16 * 32 * 32
GPU_PART_PIXELS = 64 * 256 * 256
MOST_PIXEL = 2.0  # bicubic filters overshoot from [-1, 1] to 1.9 at most


class Tokenizer:
    """Turns images into tokens and back.

    The network is always in evaluation mode and has no gradients. A Tokenizer is not an nn.Module,
    so it never becomes part of another module's weights, mode or checkpoints.

    Attributes:
        fingerprint: digest of config and weights, 16 hexadecimal digits.
        encoder_fingerprint: digest of what the tokens depend on. Tokenizers in which it is equal
            make the same tokens of an image, even if their decoders differ.
        codebook_size: number of codes K.
        grid: the token grid, (h, w) if each token describes a cell of the image, else (L,).
        image_size: height and width of an image in pixels.
        channels: channels of an image C.
    """

    def __init__(self, network: TokenizerNetwork) -> None:
        """Freeze a network in place."""
        # mypy does not know of memory_format.
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._is_compiled, self._encoder_layout = False, torch.channels_last
        self._encode_part: Callable[[Tensor], Tensor] = network.encode
        self._decode_part: Callable[[Tensor], Tensor] = network.decode_tokens
        config = self.config = network.config
        self.codebook_size, self.grid = config.codebook_size, config.grid
        self.image_size, self.channels = config.image_size, config.image_channels
        self.fingerprint = weights_digest(to_plain(self.config), network.state_dict())
        self.encoder_fingerprint = weights_digest(*network.parts_of_encoder())
        self.device = next(network.parameters()).device

    @in_usual_torch
    def encode(self, images: Tensor) -> Tensor:
        """Turn images into tokens.

        Args:
            images: float (B, C, H, W) in [-1, 1], on any device.

        Returns:
            int64 in [0, K), (B, h, w), or (B, L) without cells, on the tokenizer's device.

        Raises:
            FieldError: if their shape or dtype is another one, or a value is not a number, or is
                farther from 0 than MOST_PIXEL.
        """
        images = self._batch(images, "float")
        is_pixel = images.abs() <= MOST_PIXEL
        if not is_pixel.all():
            reason = "must be in [-1, 1]; for bytes that is images / 127.5 - 1"
            raise FieldError("images", f"with the value {images[~is_pixel][0]:g}", reason)
        return self._encode(images)

    def encode_bytes(self, images: Tensor) -> Tensor:
        """Turn images of bytes into tokens: uint8 (B, C, H, W) -> int64 (B, L).

        This never runs in bfloat16, which changes one token in ten on Fashion-MNIST.

        Raises:
            FieldError: if their shape or dtype is another one.
        """
        images = self._batch(images, "uint8")
        return self._encode(from_uint8(send(images, self.device))).flatten(1)

    @in_usual_torch
    def decode(self, tokens: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
        """Turn tokens into images.

        Args:
            tokens: int64 (B, h, w) or (B, L), in [0, K), on any device.
            precision: dtype of matrix products, or its name as in `load_model`.

        Returns:
            float32 (B, C, H, W) in [-1, 1], on the tokenizer's device.

        Raises:
            FieldError: if their shape or dtype is another one, or a token is not in the codebook.
        """
        need = f"must be int64 {_batch_of(self.grid)}"
        tokens = _tensor_of("tokens", tokens, need)
        is_whole = tokens.dtype != torch.bool and not tokens.is_floating_point()
        if not is_whole or tuple(tokens.shape[1:]) not in {self.grid, (self.config.seq_len,)}:
            raise FieldError("tokens", _described(tokens), need)
        tokens = tokens.to(torch.int64)
        check_codes("tokens", tokens, self.codebook_size)
        return self.decode_sampled(tokens, choose_precision(precision, self.device))

    @in_usual_torch
    @torch.no_grad()
    def decode_sampled(self, tokens: Tensor, precision: torch.dtype) -> Tensor:
        """Decode tokens that are known to be right, as `decode`, without waiting for a GPU."""
        tokens = tokens.to(self.device).reshape(-1, *self.grid)
        with autocast(self.device, precision):
            parts = [self._decode_part(part) for part in self._parts(tokens)]
        return torch.cat(parts).float().clamp(-1, 1)

    @in_usual_torch
    @torch.no_grad()
    def to_rgb(self, images: Tensor) -> Tensor:
        """Turn images (B, C, H, W) into displayable ones: (B, 1 or 3, H, W)."""
        return self.network.to_rgb(images.to(self.device))

    def to(self, device: torch.device | str) -> "Tokenizer":
        """Move to a device, in place; returns itself."""
        self.network.to(device)
        self.device = torch.device(device)
        self._lay_out_encoder()
        return self

    def compile(self) -> None:
        """Run the network through torch.compile; a smaller batch is filled up to an earlier one."""
        self._is_compiled = True
        self._lay_out_encoder()
        self.network.compile_networks()
        self._encode_part = in_few_sizes(self.network.encode, math.inf)
        self._decode_part = in_few_sizes(self.network.decode_tokens, math.inf)

    def entry(self) -> dict[str, Any]:
        """Return plain data and tensors for a checkpoint; `models.open.tokenizer_of` reads them."""
        weights = {name: value.cpu() for name, value in self.network.state_dict().items()}
        return {
            "family": self.config.family,
            "config": to_plain(self.config),
            "weights": weights,
            "fingerprint": self.fingerprint,
        }

    def _batch(self, images: Any, kind: str) -> Tensor:
        """Return images as a tensor; FieldError unless they are (B, C, H, W) of a kind of dtype."""
        shape = (self.channels, *self.image_size)
        need = f"must be {kind} {_batch_of(shape)}"
        images = _tensor_of("images", images, need)
        is_kind = images.is_floating_point() if kind == "float" else images.dtype == torch.uint8
        if not is_kind or images.shape[1:] != shape:
            raise FieldError("images", _described(images), need)
        return images

    def _encode(self, images: Tensor) -> Tensor:
        """Turn images into tokens as `encode`, without its checks."""
        with usual_torch(), torch.no_grad():
            images = images.float().to(self.device, memory_format=self._encoder_layout)
            return torch.cat([self._encode_part(part) for part in self._parts(images)])

    def _lay_out_encoder(self) -> None:
        """Choose the memory layout of the encoder and its input.

        Channels last is the faster one, except on CUDA without the compiler (docs/log/speed.md).
        """
        is_plain = self.device.type == "cuda" and not self._is_compiled
        self._encoder_layout = torch.contiguous_format if is_plain else torch.channels_last
        self.network.lay_out_encoder(self._encoder_layout)

    def _parts(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Split a batch of images or tokens into parts to compute one after the other."""
        pixels = CPU_PART_PIXELS if self.device.type == "cpu" else GPU_PART_PIXELS
        return batch.split(max(1, pixels // math.prod(self.image_size)))


def check_codes(field: str, tokens: Tensor, codebook_size: int) -> None:
    """Refuse int64 tokens of any shape outside a codebook; FieldError with the first of them."""
    outside = tokens[(tokens < 0) | (tokens >= codebook_size)]
    if len(outside):
        reason = f"the codebook has the tokens 0 to {codebook_size - 1}"
        raise FieldError(field, int(outside[0]), reason)


def _tensor_of(field: str, values: Any, need: str) -> Tensor:
    """Turn arrays and lists into a tensor; FieldError with what is needed for anything else."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FieldError(field, f"of type {type(values).__name__}", need) from error


def _described(values: Tensor) -> str:
    """Write dtype and shape for a message."""
    return f"{values.dtype} {tuple(values.shape)}"


def _batch_of(shape: tuple[int, ...]) -> str:
    """Write the shape of B arrays of a shape: "(B, 3, 32, 32)"."""
    return f"({', '.join(map(str, ('B', *shape)))})"
