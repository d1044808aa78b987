"""Measures how well a tokenizer reconstructs images and uses its codebook."""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
    """Passes images through a tokenizer and measures the reconstructions.

    Attributes:
        seen: number of images so far.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        """Start without images.

        Args:
            perceptual: measures LPIPS; None leaves it out.
        """
        self.tokenizer, self.seen = tokenizer, 0
        device = tokenizer.device
        self._perceptual = None if perceptual is None else perceptual.to(device)
        self._counts = torch.zeros(tokenizer.codebook_size, device=device)
        self._metrics: dict[str, Metric] = {
            "l1": MeanAbsoluteError(),
            "psnr": PeakSignalNoiseRatio(data_range=RANGE),
            "ssim": StructuralSimilarityIndexMeasure(data_range=(0.0, 1.0)),
        }
        if perceptual is not None:
            self._metrics["lpips"] = MeanMetric()
        if tokenizer.channels == 3:
            self._metrics["colors"] = PearsonCorrCoef(len(OPPONENT_NAMES))
        for metric in self._metrics.values():
            metric.to(device)
            metric.persistent(True)  # a part of state_dict

    def reconstruct(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Reconstructed]:
        """Reconstruct batches, and add them to the result.

        Args:
            batches: pairs of images float (B, C, H, W) in [-1, 1] and labels.
        """
        for batch, labels in batches:
            images = send(batch, self.tokenizer.device)
            tokens = self.tokenizer.encode(images)
            reconstructions = self.tokenizer.decode(tokens)
            self.seen += len(images)
            self._counts += count_codes(tokens, len(self._counts))
            for name in ("l1", "psnr"):
                self._metrics[name].update(reconstructions.contiguous(), images)
            # Its formula compares brightness, which is never negative (Wang et al. 2004).
            light = ((pixels.contiguous() + 1) / 2 for pixels in (reconstructions, images))
            self._metrics["ssim"].update(*light)
            if "colors" in self._metrics:
                pair = (_pixels(opponent(each)) for each in (reconstructions, images))
                self._metrics["colors"].update(*pair)
            if self._perceptual is not None:
                with torch.no_grad():
                    distance = self._perceptual(reconstructions, images)
                self._metrics["lpips"].update(distance, weight=len(images))
            yield Reconstructed(images, reconstructions, labels)

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs."""
        metrics = {name: dict(metric.state_dict()) for name, metric in self._metrics.items()}
        return {"seen": self.seen, "counts": self._counts, "metrics": metrics}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from an earlier state; the result has the same bits as without a stop."""
        self.seen = state["seen"]
        self._counts.copy_(state["counts"])
        for name, metric in self._metrics.items():
            metric.load_state_dict(state["metrics"][name])

    def result(self) -> dict[str, float]:
        """Compute the scores over all images so far.

        Returns:
            "l1" in units of [-1, 1], "psnr" in dB, "ssim" in [-1, 1], "lpips" from 0 (if it is
            measured), "codebook_usage" (share of the codes that occur) and "codebook_perplexity"
            in [1, K]. For color images also the correlations in [-1, 1] of all pixels with their
            reconstructions, "luma_correlation", "red_green_correlation" and
            "blue_yellow_correlation"; gray images have no colors to correlate.
        """
        usage, perplexity = codebook_usage(self._counts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchmetrics, about images of one color
            found = {name: metric.compute() for name, metric in self._metrics.items()}
        colors = found.pop("colors", torch.empty(0)).tolist()
        correlations = zip(OPPONENT_NAMES, colors, strict=False)
        return {
            **{name: float(value) for name, value in found.items()},
            **{f"{name}_correlation": one for name, one in correlations if math.isfinite(one)},
            "codebook_usage": usage,
            "codebook_perplexity": perplexity,
        }


def _pixels(images: Tensor) -> Tensor:
    """List the pixels of images: (B, C, H, W) -> (B * H * W, C)."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)
