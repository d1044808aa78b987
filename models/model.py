"""A trained model, ready to use: sample images, edit an image, watch the decoding.

Images are computed in blocks of one size; the last block is padded. So an image does not depend on
the other images or on the process that computes it. With another block size, or with fewer images
than a block holds, the images are the same up to rounding.

Axes: B images, C channels, H W pixels, h w token grid, L tokens of an image.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.cells import check_cells, check_image, composite, hidden_cells, pixels_of
from models.family import Transformer
from models.labels import label_without_class, read_labels
from models.predictors import KnownTokens, Midway, prepare_decoding
from models.sampling import BestSettings, SamplingConfig
from models.series import BLOCK_SIZE, DecodedStep, ImageSeries
from models.tokenizer import Tokenizer
from utils.checkpoint import weights_digest
from utils.device import in_usual_torch
from utils.pictures import to_uint8
from utils.plain import to_plain
from utils.weights import with_linear_weights_in

Labels = Iterable[int | str] | np.ndarray | Tensor | int | str
"""One class per image, as on the command line: numbers, names, ranges, or "none" for no class."""


@dataclass(frozen=True, eq=False)  # compared by identity, so that sets can hold it
class Model:
    """A trained transformer with its tokenizer and class names; `models.open.load_model` opens one.

    Attributes:
        transformer: the network, in evaluation mode, with the weights of its file.
        class_names: names of the classes, in the order of the labels.
        precision: dtype of matrix products.
        best: the best settings that a sweep found; None without a sweep.
        made_for: the settings that a student was distilled for; None for other models.
    """

    transformer: Transformer
    tokenizer: Tokenizer
    dataset: str
    class_names: tuple[str, ...]
    precision: torch.dtype = torch.float32
    best: BestSettings | None = None
    made_for: SamplingConfig | None = None

    @property
    def usual(self) -> SamplingConfig:
        """The default settings: `made_for`, or those of the family.

        A model without a trained null class has no guidance by default.
        """
        return self.made_for or SamplingConfig.usual_for(self.transformer.config)

    @property
    def best_settings(self) -> dict[str, Any]:
        """The settings in `best`, as arguments of `sample` and `edit`; empty without a sweep."""
        return dict(vars(self.best.sampling)) if self.best else {}

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the transformer's config and weights, 16 hexadecimal digits."""
        return weights_digest(to_plain(self.transformer.config), self.transformer.state_dict())

    def to(self, device: torch.device, precision: torch.dtype) -> "Model":
        """Move the networks in place, and return the model with this precision."""
        self.transformer.to(device)
        self.tokenizer.to(device)
        return replace(self, precision=precision)

    @in_usual_torch
    def compile(self) -> None:
        """Run the networks through torch.compile; all blocks of images should have one size.

        On CUDA a decoding step of the transformer becomes a graph, whose kernels start together.
        """
        is_cuda = self.tokenizer.device.type == "cuda"
        self._predictor.compile(dynamic=False, mode="reduce-overhead" if is_cuda else "default")
        self.tokenizer.compile(dynamic=False)

    @cached_property
    def _predictor(self) -> Transformer:
        """The transformer for sampling, with linear weights in the precision of matrix products.

        Otherwise autocast casts them at every step, which takes a quarter of the kernel launches on
        a GPU. The results are the same, bit for bit.
        """
        if self.precision == torch.float32:
            return self.transformer
        return with_linear_weights_in(self.precision, self.transformer)

    def sample(
        self,
        labels: Labels,
        *,
        seed: int = 0,
        first_image: int = 0,
        block_size: int = BLOCK_SIZE,
        **sampling: Any,
    ) -> np.ndarray:
        """Sample one image per label.

        Args:
            labels: one class per image, in any sequence, array or tensor. A number means the same
                as on the command line: if the class names are numbers, it is a name.
            first_image: index of the first image. An image depends on its index, its class, the
                seed and the settings, but not on the other images.
            block_size: images computed at once.
            **sampling: sampling settings, the fields of SamplingConfig; `usual` has their defaults.

        Returns:
            uint8 (B, H, W, C).

        Raises:
            UserError: if a label is not a class of the model, or a setting has a wrong value.
        """
        series = ImageSeries(seed, first_image, block_size)
        config = replace(self.usual, **sampling)
        blocks = self.sample_blocks(self.label_numbers(labels), config, series)
        return np.concatenate([images for images, _ in blocks])

    def edit(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        labels: Labels | None = None,
        *,
        grow: int = 0,
        put_back: bool = True,
        seed: int = 0,
        first_image: int = 0,
        block_size: int = BLOCK_SIZE,
        **sampling: Any,
    ) -> np.ndarray:
        """Regenerate the marked part of an image, once per label.

        A token is regenerated if its cell overlaps the marked pixels. All other tokens are kept.
        The arguments that are not described here are those of `sample`.

        Args:
            image: uint8 (H, W, C), of the model's size.
            mask: bool (H, W), True where pixels are regenerated.
            labels: as in `sample`; None for no class.
            grow: tokens by which the marked region grows on every side.
            put_back: whether pixels outside the marked region get their original values back;
                otherwise they are the tokenizer's reconstruction.

        Returns:
            uint8 (B, H, W, C).

        Raises:
            UserError: if the image or the mask does not fit the model; and as in `sample`.
        """
        check_image(image, mask, self.tokenizer.image_size, self.tokenizer.channels)
        known, mask = self.known_tokens(image, mask, grow)
        if labels is None:
            config = self.transformer.config
            numbers = [label_without_class(config.num_classes, config.null_class)]
        else:
            numbers = self.label_numbers(labels)
        blocks = self.sample_blocks(
            numbers,
            replace(self.usual, **sampling),
            ImageSeries(seed, first_image, block_size),
            known=known,
        )
        images = np.concatenate([images for images, _ in blocks])
        return composite(image, images, mask) if put_back else images

    def decode_steps(
        self,
        labels: Labels,
        *,
        seed: int = 0,
        first_image: int = 0,
        known: KnownTokens | None = None,
        midway: Midway | None = None,
        **sampling: Any,
    ) -> Iterator[DecodedStep]:
        """Decode one image per label, all in one block, and return every step.

        The arguments that are not described here are those of `sample`.

        Args:
            known: tokens that all images keep (`known_tokens`); None hides all tokens.
            midway: the step of an earlier decoding where all images continue; None starts at 0.

        Returns:
            The tokens before the first step, and then those after each step; `image_of` turns them
            into pixels.

        Raises:
            UserError: as in `sample`; or if `midway` does not fit the plan.
        """
        config, series = replace(self.usual, **sampling), ImageSeries(seed, first_image)
        numbers = self.label_numbers(labels)
        return self.sample_steps(numbers, config, series, known=known, midway=midway)

    @in_usual_torch
    def sample_steps(
        self,
        labels: Sequence[int],
        config: SamplingConfig,
        series: ImageSeries,
        *,
        known: KnownTokens | None = None,
        midway: Midway | None = None,
    ) -> Iterator[DecodedStep]:
        """Decode as `decode_steps`, with labels from `label_numbers`.

        Args:
            series: seed and index of the first image; its block size is not used.
        """
        self._check(config, series)
        numbers = np.asarray(labels)
        indices = series.first_image + np.arange(len(numbers))
        seed, grid = series.seed, self.tokenizer.grid
        start = prepare_decoding(
            self._predictor, numbers, indices, config, seed, self.precision, known, midway, grid
        )
        hidden, confidence = start.hidden, (~start.hidden).float()  # (B, L)
        yield self._step(start.tokens, hidden, confidence)
        for step in start.steps():
            # A revealed token keeps the probability that it had when it was revealed.
            chosen = step.log_probs.gather(-1, step.proposal.tokens[..., None]).squeeze(-1).exp()
            confidence = torch.where(hidden, chosen, confidence)
            hidden = step.hidden
            yield self._step(step.tokens, hidden, confidence)

    @in_usual_torch
    def image_of(self, step: DecodedStep) -> np.ndarray:
        """Decode the tokens of a step: uint8 (B, H, W, C); hidden cells have no meaning."""
        tokens = torch.from_numpy(step.tokens).clamp(max=self.tokenizer.codebook_size - 1)
        return self._pixels(tokens)

    def label_numbers(self, labels: Labels) -> list[int]:
        """Turn labels into indices of `class_names`; its length stands for no class.

        Raises:
            UserError: naming a label that is not a class of the model.
        """
        has_null = self.transformer.config.null_class is not None
        return read_labels(labels, self.class_names, has_null)

    @in_usual_torch
    def sample_blocks(
        self,
        labels: Sequence[int],
        config: SamplingConfig,
        series: ImageSeries,
        *,
        known: KnownTokens | None = None,
        blocks: Iterable[int] | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Sample one image per label, block by block.

        Args:
            labels: what `label_numbers` returned; image i gets the i-th.
            known: tokens that all images keep; None hides all tokens.
            blocks: indices of the blocks to compute; None computes all.

        Yields:
            Images uint8 (B, H, W, C) and their labels int64 (B,), in order; B is at most the block
            size.
        """
        self._check(config, series)
        block_size = min(series.block_size, len(labels))
        for index in range(math.ceil(len(labels) / block_size)) if blocks is None else blocks:
            start = index * block_size
            block_labels = np.asarray(labels[start : start + block_size])
            padded = np.pad(block_labels, (0, block_size - len(block_labels)), mode="edge")
            indices = series.first_image + start + np.arange(block_size)
            seed, grid = series.seed, self.tokenizer.grid
            decoding = prepare_decoding(
                self._predictor, padded, indices, config, seed, self.precision, known, grid=grid
            )
            yield self._pixels(decoding.result())[: len(block_labels)], block_labels

    @in_usual_torch
    def known_tokens(
        self, image: np.ndarray, mask: np.ndarray, grow: int = 0
    ) -> tuple[KnownTokens, np.ndarray]:
        """Encode an image for editing; arguments as in `edit`.

        Returns:
            Its tokens, those to regenerate hidden; and bool (H, W), the pixels to regenerate.
        """
        check_cells(self.tokenizer.grid, "a part of an image cannot be kept")
        hidden = hidden_cells(mask, self.tokenizer.grid, grow)  # (h, w)
        pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)[None]  # (1, C, H, W)
        tokens = self.tokenizer.encode_bytes(pixels)[0]  # (L,)
        region = pixels_of(hidden, self.tokenizer.image_size) if grow else mask
        return KnownTokens(tokens, torch.from_numpy(hidden.flatten())), region

    def _pixels(self, tokens: Tensor) -> np.ndarray:
        """Decode tokens int64 (B, L) or (B, h, w) to images uint8 (B, H, W, C)."""
        return to_uint8(self.tokenizer.decode(tokens, self.precision))

    def _step(self, *of_positions: Tensor) -> DecodedStep:
        """Arrange tokens, hidden and confidence, all (B, L), on the grid."""
        shape = (-1, *self.tokenizer.grid)
        return DecodedStep(*(values.reshape(shape).cpu().numpy() for values in of_positions))

    def _check(self, config: SamplingConfig, series: ImageSeries) -> None:
        """Check the settings, also against the model; errors as in `sample`."""
        config.validate_for(self.transformer.config)
        series.validate()
