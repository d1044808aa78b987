"""Samples images: labels -> tokens, block by block -> images.

The last block is padded, so an image does not depend on the other images or on the process that
computes it. With another block size, or with fewer images than a block holds, the images are the
same up to rounding.

Axes: B images, C channels, H W pixels, h w token grid, L tokens of an image.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.decoding import Decoding
from models.family import Transformer
from models.labels import read_labels
from models.predictors import prepare_decoding
from models.sampling import SamplingConfig
from models.steps import KnownTokens
from models.tokenizer import Tokenizer
from utils.cuda_graphs import CudaGraphs, has_cuda_graphs
from utils.device import in_usual_torch
from utils.errors import FieldError, check_number, check_whole
from utils.pictures import to_uint8
from utils.weights import with_linear_weights_in

BLOCK_SIZE = 256  # images computed at once, by default
# Most logits of the images that are decoded at once, without guidance: 1 GiB. Larger blocks are
# decoded in parts; with 16,384 codes a block of 256 images would need tens of gigabytes.
MOST_LOGITS = 2**28
MOST_INDEX = 2**53  # of an image, as on the command line
Labels = Iterable[int | str] | np.ndarray | Tensor | int | str
"""One class per image, as on the command line: numbers, names, ranges, or "none" for no class."""


@dataclass(frozen=True)
class ImageSeries:
    """A numbered series of images to sample.

    Attributes:
        labels: the class of each image, as `ImageGenerator.label_numbers` returns them.
        seed: of their noise, which also depends on the number of an image.
        first_image: the number of the first image.
        block_size: images computed at once.
        known: the tokens that all images have already; None hides all tokens.
    """

    labels: list[int]
    sampling: SamplingConfig
    seed: int = 0
    first_image: int = 0
    block_size: int = BLOCK_SIZE
    known: KnownTokens | None = None

    def validate(self) -> None:
        """Check the numbers; raises a FieldError naming the first one that is wrong."""
        for name, low in (("seed", 0), ("first_image", 0), ("block_size", 1)):
            check_whole(name, getattr(self, name), low)
        check_number("first_image", self.first_image, 0, MOST_INDEX)


@dataclass(frozen=True, eq=False)
class ImageGenerator:
    """A trained transformer with its tokenizer and class names.

    Attributes:
        transformer: the network, in evaluation mode, with the weights of its file.
        class_names: names of the classes, in the order of the labels.
    """

    transformer: Transformer
    tokenizer: Tokenizer
    dataset: str
    class_names: tuple[str, ...]
    precision: torch.dtype = torch.float32

    @property
    def usual(self) -> SamplingConfig:
        """The default settings: those of the family, without guidance if it is not trained."""
        return SamplingConfig.usual_for(self.transformer.config)

    @cached_property
    def _predictor(self) -> Transformer:
        """The transformer for sampling, with linear weights in the precision of matrix products.

        Otherwise autocast casts them at every step: a quarter of the kernel launches on a GPU. The
        results are the same, bit for bit.
        """
        if self.precision == torch.float32:
            return self.transformer
        return with_linear_weights_in(self.precision, self.transformer)

    @cached_property
    def cuda_graphs(self) -> CudaGraphs:
        """How the work of a block is repeated on a GPU; `compile` turns it off."""
        return CudaGraphs(has_cuda_graphs(self.tokenizer.device) and not self.transformer.waits)

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
        numbers, settings = self.label_numbers(labels), self.settings(sampling)
        series = ImageSeries(numbers, settings, seed, first_image, block_size)
        return np.concatenate([images for images, _ in self.sample_blocks(series)])

    def settings(self, changed: Mapping[str, Any]) -> SamplingConfig:
        """Return the default settings with some changed; FieldError for one that does not exist."""
        known = [one.name for one in fields(SamplingConfig)]
        for name, value in changed.items():
            if name not in known:
                raise FieldError(name, value, f"no such setting; there are {', '.join(known)}")
        return replace(self.usual, **changed)

    def label_numbers(self, labels: Labels) -> list[int]:
        """Turn labels into indices of `class_names`; raises a UserError that names a wrong one.

        The length of `class_names` stands for no class.
        """
        return read_labels(labels, self.class_names, self.transformer.config.null_class is not None)

    @in_usual_torch
    def sample_blocks(
        self,
        series: ImageSeries,
        blocks: Iterable[int] | None = None,
        rounding: str = "nearest",
        advance: Callable[[float], object] = lambda images: None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Sample the images of a series, block by block.

        Args:
            blocks: indices of the blocks to compute; None computes all.
            rounding: how pixels become bytes, a key of `utils.pictures.ROUNDINGS`.
            advance: gets, after each step, its share of the work in images, for a progress bar.

        Yields:
            Images uint8 (B, H, W, C) and labels int64 (B,), in order; the last block may be less.
        """
        series.validate()
        labels = series.labels
        block_size = min(series.block_size, len(labels))
        size = self._images_at_once(block_size)
        for index in range(math.ceil(len(labels) / block_size)) if blocks is None else blocks:
            start = index * block_size
            block_labels = np.asarray(labels[start : start + block_size])
            padded = np.pad(block_labels, (0, block_size - len(block_labels)), mode="edge")
            parts = (
                self._decoding(series, padded[at : at + size], start + at)
                for at in range(0, block_size, size)
            )
            moved = partial(_advance, advance, len(block_labels) / block_size)
            tokens = torch.cat([self._tokens(series, part, moved) for part in parts])
            decode = partial(self.tokenizer.decode_sampled, tokens, self.precision)
            graphs = self.cuda_graphs
            images = graphs.run("pixels", [tokens], decode) if graphs.is_on else decode()
            yield to_uint8(images, rounding)[: len(block_labels)], block_labels

    def _tokens(
        self, series: ImageSeries, decoding: Decoding, advance: Callable[[float], object]
    ) -> Tensor:
        """Decode to the end: int64 (B, L)."""
        if not self.cuda_graphs.is_on:
            return decoding.result(advance)
        kind = series.sampling, series.known and (series.known.num_planned, series.known.steps)
        inputs = [decoding.tokens, decoding.hidden, decoding.labels, *decoding.noise]
        tokens = self.cuda_graphs.run(kind, inputs, decoding.result)
        advance(len(tokens))
        return tokens

    def _images_at_once(self, block_size: int) -> int:
        """Choose how many images of a block are decoded at once."""
        shape = self.transformer.config
        most = max(1, MOST_LOGITS // (shape.seq_len * shape.codebook_size))
        return math.ceil(block_size / math.ceil(block_size / most))  # parts of about one size

    def _decoding(self, series: ImageSeries, labels: np.ndarray, start: int = 0) -> Decoding:
        """Prepare the decoding of the images of a series from the `start`-th, one per label."""
        series.sampling.validate_for(self.transformer.config)
        return prepare_decoding(
            self._predictor,
            labels,
            series.first_image + start + np.arange(len(labels)),
            series.sampling,
            series.seed,
            self.precision,
            series.known,
            self.tokenizer.grid,
        )

    def _pixels(self, tokens: Tensor) -> np.ndarray:
        """Decode tokens int64 (B, L) or (B, h, w) to images uint8 (B, H, W, C)."""
        return to_uint8(self.tokenizer.decode_sampled(tokens, self.precision))


def _advance(advance: Callable[[float], object], share: float, images: float) -> object:
    """Tell `advance` of the images that are wanted, a share of those that were decoded."""
    return advance(images * share)
