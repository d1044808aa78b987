"""Measures how well a tokenizer reconstructs images and uses its codebook."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanMetric, Metric, PearsonCorrCoef
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from models.codes import codebook_usage, count_codes
from models.perceptual import PerceptualLoss, load_vgg_weights
from models.tokenizer import Tokenizer
from utils.colors import OPPONENT_NAMES, opponent
from utils.device import send
from utils.errors import UserError

log = logging.getLogger(__name__)

RANGE = (-1.0, 1.0)  # of pixels


class Reconstructed(NamedTuple):
    """A batch of images and their reconstructions.

    Attributes:
        images: float (B, C, H, W) in [-1, 1].
    """

    images: Tensor
    reconstructions: Tensor
    labels: Tensor


def perceptual_if_there(vgg_file: Path | None) -> PerceptualLoss | None:
    """Build the network that measures LPIPS, if its weights are available.

    Args:
        vgg_file: file with its weights; None downloads them.

    Returns:
        The network; None if the download fails, which is logged.

    Raises:
        UserError: if a file was named but does not hold the weights.
    """
    try:
        return PerceptualLoss(load_vgg_weights(vgg_file))
    except UserError as error:
        if vgg_file is not None:
            raise
        log.warning("LPIPS is not measured: %s", error)
        return None


class ReconstructionMeter:
    """Passes images through a tokenizer and measures the reconstructions."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        """Start without images.

        Args:
            perceptual: measures LPIPS; None leaves it out.
        """
        self.tokenizer = tokenizer
        device = tokenizer.device
        self._perceptual = None if perceptual is None else perceptual.to(device)
        self._lpips = MeanMetric().to(device)
        self._counts = torch.zeros(tokenizer.codebook_size, device=device)
        self._l1 = MeanAbsoluteError().to(device)
        self._psnr = PeakSignalNoiseRatio(data_range=RANGE).to(device)
        self._ssim = StructuralSimilarityIndexMeasure(data_range=RANGE).to(device)
        self._colors = PearsonCorrCoef(len(OPPONENT_NAMES)).to(device)
        self._has_colors = tokenizer.channels == 3

    def reconstruct(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Reconstructed]:
        """Reconstruct batches, and add them to the result.

        Args:
            batches: pairs of images float (B, C, H, W) in [-1, 1] and labels.
        """
        for batch, labels in batches:
            images = send(batch, self.tokenizer.device)
            tokens = self.tokenizer.encode(images)
            reconstructions = self.tokenizer.decode(tokens)
            self._counts += count_codes(tokens, len(self._counts))
            for metric in (self._l1, self._psnr, self._ssim):
                metric.update(reconstructions.contiguous(), images)
            if self._has_colors:
                self._colors.update(_pixels(opponent(reconstructions)), _pixels(opponent(images)))
            if self._perceptual is not None:
                with torch.no_grad():
                    distance = self._perceptual(reconstructions, images)
                self._lpips.update(distance, weight=len(images))
            yield Reconstructed(images, reconstructions, labels)

    def result(self) -> dict[str, float]:
        """Compute the scores over all images so far.

        Returns:
            "l1" in units of [-1, 1], "psnr" in dB, "ssim" in [-1, 1], "lpips" from 0 (if it is
            measured), "codebook_usage" (share of the codes that occur) and "codebook_perplexity"
            in [1, K]. For color images also "luma_correlation", "red_green_correlation" and
            "blue_yellow_correlation" in [-1, 1]: those of all pixels with their reconstructions.
        """
        usage, perplexity = codebook_usage(self._counts)
        scores: dict[str, Metric] = {"l1": self._l1, "psnr": self._psnr, "ssim": self._ssim}
        if self._perceptual is not None:
            scores["lpips"] = self._lpips
        correlations = self._colors.compute().tolist() if self._has_colors else ()
        names = (f"{name}_correlation" for name in OPPONENT_NAMES)
        return {
            **{name: float(metric.compute()) for name, metric in scores.items()},
            **dict(zip(names, correlations, strict=False)),
            "codebook_usage": usage,
            "codebook_perplexity": perplexity,
        }


def _pixels(images: Tensor) -> Tensor:
    """List the pixels of images: (B, C, H, W) -> (B * H * W, C)."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)
