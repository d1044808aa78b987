"""How well a tokenizer keeps images: distances and the use of its codebook."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from models.vqgan.codebook import count_codes
from models.vqgan.quantizer import codebook_usage
from models.vqgan.tokenizer import Tokenizer
from utils.device import autocast

RANGE = (-1.0, 1.0)


class Reconstructed(NamedTuple):
    """One batch and what became of it."""

    images: Tensor  # (B, C, H, W) in [-1, 1]
    reconstructions: Tensor  # (B, C, H, W) in [-1, 1]
    labels: Tensor


class ReconstructionMeter:
    """Passes images through a tokenizer and keeps the score."""

    def __init__(self, tokenizer: Tokenizer, precision: torch.dtype) -> None:
        self.tokenizer, self.precision = tokenizer, precision
        device = tokenizer.device
        self._counts = torch.zeros(tokenizer.codebook_size, device=device)
        self._l1 = MeanAbsoluteError().to(device)
        self._psnr = PeakSignalNoiseRatio(data_range=RANGE).to(device)
        self._ssim = StructuralSimilarityIndexMeasure(data_range=RANGE).to(device)

    def reconstruct(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Reconstructed]:
        """Reconstruct batches of (images float (B, C, H, W) in [-1, 1], labels), and score them."""
        for batch, labels in batches:
            images = batch.to(self.tokenizer.device, non_blocking=True)
            with autocast(self.tokenizer.device, self.precision):
                tokens = self.tokenizer.encode(images)
                reconstructions = self.tokenizer.decode(tokens)
            self._counts += count_codes(tokens, len(self._counts))
            for metric in (self._l1, self._psnr, self._ssim):
                metric.update(reconstructions.contiguous(), images)
            yield Reconstructed(images, reconstructions, labels)

    def result(self) -> dict[str, float]:
        """The score of all images so far.

        Returns:
            "l1" in units of [-1, 1], "psnr" in dB, "ssim" in [-1, 1], "codebook_usage" (share of
            the codes that occur) and "codebook_perplexity" in [1, K].
        """
        usage, perplexity = codebook_usage(self._counts)
        scores = {"l1": self._l1, "psnr": self._psnr, "ssim": self._ssim}
        return {
            **{name: float(metric.compute()) for name, metric in scores.items()},
            "codebook_usage": usage,
            "codebook_perplexity": perplexity,
        }
