"""From labels to images: decode tokens with the transformer, then images with the tokenizer.

Images are made in blocks of one size, the last one padded, so that an image does not depend on the
other images of its block, nor on the process that makes it. Blocks of another size, as where fewer
images are made than a block holds, give the same images up to rounding.

Axes: B images of a block, L tokens of an image, K codebook.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from models.maskgit.config import SamplingConfig
from models.maskgit.decoding import (
    LogitsFn,
    Plan,
    decoding_steps,
    guided_logits,
    make_plan,
    parallel_decode,
)
from models.maskgit.samplers import Noise, draw_noise
from models.maskgit.transformer import MaskedTransformer
from utils.device import autocast
from utils.images import to_uint8
from utils.seeding import rng


class KnownTokens(NamedTuple):
    """What an image is to keep (Chang et al. 2022, section 4.3: editing is decoding the rest).

    Attributes:
        tokens: int64 (L,), of which those at hidden positions do not matter.
        hidden: bool (L,), True where a token is to be made.
    """

    tokens: Tensor
    hidden: Tensor


class Decoder(Protocol):
    """The part of a tokenizer that sampling needs."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens int64 (B, L) -> images (B, C, H, W) in [-1, 1]."""


def sample_images(
    model: MaskedTransformer,
    tokenizer: Decoder,
    labels: Sequence[int],
    config: SamplingConfig,
    *,
    seed: int,
    block_size: int,
    precision: torch.dtype = torch.float32,
    first_image: int = 0,
    known: KnownTokens | None = None,
    blocks: Iterable[int] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Generate one image per label, block by block.

    Args:
        model: in evaluation mode.
        tokenizer: the one whose tokens the model was trained on.
        labels: classes, the null class for "no class"; image i gets the i-th.
        config: how to decode.
        seed: with the index of an image all that its noise depends on.
        block_size: images computed at once.
        precision: of the matrix products, the tokenizer's too.
        first_image: index of the first image.
        known: what all images have in common; nothing if None.
        blocks: indices of the blocks to make; all of them if None.

    Yields:
        Images uint8 (up to block_size, H, W, C) and their labels int64, in the labels' order.
    """
    block_size = min(block_size, len(labels))
    for index in range(math.ceil(len(labels) / block_size)) if blocks is None else blocks:
        start = index * block_size
        wanted = np.asarray(labels[start : start + block_size])
        block = np.pad(wanted, (0, block_size - len(wanted)), mode="edge")
        indices = first_image + start + np.arange(block_size)
        tokens = sample_tokens(model, block, indices, config, seed, precision, known)
        with autocast(tokens.device, precision):
            images = tokenizer.decode(tokens)
        yield to_uint8(images)[: len(wanted)], wanted


def film(
    model: MaskedTransformer,
    tokenizer: Decoder,
    labels: Sequence[int],
    config: SamplingConfig,
    *,
    seed: int,
    precision: torch.dtype = torch.float32,
    first_image: int = 0,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Generate images as `sample_images` does, and tell which tokens were still hidden when.

    Returns:
        The finished images, uint8 (B, H, W, C), and what was hidden at the start and after each
        step, bool (B, h, w) each.
    """
    indices = first_image + np.arange(len(labels))
    start = prepare_decoding(model, np.asarray(labels), indices, config, seed, precision, None)
    tokens, hidden = zip((start.tokens, start.hidden), *decoding_steps(*start), strict=True)
    with autocast(start.tokens.device, precision):
        images = to_uint8(tokenizer.decode(tokens[-1]))
    side = math.isqrt(model.config.seq_len)
    return images, [still.unflatten(1, (side, side)).cpu().numpy() for still in hidden]


def sample_tokens(
    model: MaskedTransformer,
    labels: np.ndarray,
    image_indices: np.ndarray,
    config: SamplingConfig,
    seed: int,
    precision: torch.dtype = torch.float32,
    known: KnownTokens | None = None,
) -> Tensor:
    """Decode images from labels, and from what is known of them.

    Args:
        model: in evaluation mode.
        labels: int (B,).
        image_indices: int (B,), choose the noise of each image.
        config: how to decode.
        seed: chooses the noise of the whole run.
        precision: of the transformer's matrix products.
        known: what all images have in common; nothing if None.

    Returns:
        int64 (B, L) in [0, K), on the model's device.
    """
    return parallel_decode(
        *prepare_decoding(model, labels, image_indices, config, seed, precision, known)
    )


class Decoding(NamedTuple):
    """The arguments of `parallel_decode` and `decoding_steps`."""

    logits_fn: LogitsFn
    plan: Plan
    noise: Noise
    tokens: Tensor
    hidden: Tensor


def prepare_decoding(
    model: MaskedTransformer,
    labels: np.ndarray,
    image_indices: np.ndarray,
    config: SamplingConfig,
    seed: int,
    precision: torch.dtype,
    known: KnownTokens | None,
) -> Decoding:
    """Plan the decoding of a block, draw its noise, and lay out what it starts from.

    Arguments as of `sample_tokens`.
    """
    device = model.position_embedding.device
    seq_len = model.config.seq_len
    tokens = start_tokens(model, image_indices, config.start_token, seed).to(device)
    alike = config.start_token is None or config.start_token >= 0
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    num_hidden = seq_len
    if known is not None:
        num_hidden = int(known.hidden.sum())
        hidden = known.hidden.to(device).expand_as(hidden)
        tokens = torch.where(hidden, tokens, known.tokens.to(device))
    plan = make_plan(np.full(len(labels), num_hidden), config)
    noise = draw_noise(seed, image_indices, plan.num_steps, seq_len, device)
    on_device = torch.from_numpy(labels).to(device)
    logits_fn = guided_predictor(model, on_device, plan, precision, alike)
    return Decoding(logits_fn, plan, noise, tokens, hidden)


def guided_predictor(
    model: MaskedTransformer, labels: Tensor, plan: Plan, precision: torch.dtype, alike: bool
) -> LogitsFn:
    """The model under classifier-free guidance, as decoding calls it.

    Where the plan's guidance is 0 the unconditional half is not computed. Where all images start
    from equal tokens, the first step is computed once per label, if there are not more labels than
    images. It is all labels, wanted or not, so that an image does not depend on the others'.

    Args:
        model: in evaluation mode.
        labels: int64 (B,).
        plan: has the guidance of each step.
        precision: of the matrix products.
        alike: whether all images start from equal tokens.
    """
    null_class = model.config.null_class
    all_labels = torch.arange(null_class + 1, device=labels.device)
    both_labels = torch.cat([labels, torch.full_like(labels, null_class)])
    once_per_label = alike and len(all_labels) <= len(labels)

    @torch.no_grad()
    def logits_fn(tokens: Tensor, step: int) -> Tensor:
        guidance = float(plan.guidance[step])
        with autocast(tokens.device, precision):
            if step == 0 and once_per_label:
                predicted = model(tokens[: len(all_labels)], all_labels).float()  # (C+1, L, K)
                conditional, unconditional = predicted[labels], predicted[null_class]
            elif guidance == 0:
                return model(tokens, labels)
            else:
                predicted = model(tokens.repeat(2, 1), both_labels).float()  # (2B, L, K)
                conditional, unconditional = predicted.chunk(2)
        return guided_logits(conditional, unconditional, guidance)

    return logits_fn


def start_tokens(
    model: MaskedTransformer, image_indices: np.ndarray, start_token: int | None, seed: int
) -> Tensor:
    """What the model sees at the hidden positions before the first step (--mask-value).

    Returns:
        int64 (B, L): the mask token, the given token, or random image tokens where it is negative.
    """
    config = model.config
    shape = (len(image_indices), config.seq_len)
    if start_token is None or start_token >= 0:
        return torch.full(shape, config.mask_token if start_token is None else start_token)
    rows = [
        rng(seed, "start", int(index)).integers(0, config.codebook_size, config.seq_len)
        for index in image_indices
    ]
    return torch.from_numpy(np.stack(rows))
