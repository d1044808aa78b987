"""How close generated images are to real ones, from features of both; all in float64.

Frechet distance (FID, Heusel et al. 2017), kernel distance (KID, Binkowski et al. 2018), precision
and recall (Kynkaanniemi et al. 2019) and Inception Score (Salimans et al. 2016). The last three are
torch-fidelity's; the Frechet distance is computed here from statistics that are gathered batch by
batch, so that memory does not grow with the number of images.

Axes: N images, B images of a batch, D width of a feature, C classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from utils.seeding import rng

MIN_IMAGES = 10
KEPT = 10_000
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
NEIGHBOURS = 3
IS_SPLITS = 10


@dataclass(frozen=True)
class FeatureSet:
    """What is kept of the features of N images.

    Attributes:
        count: N.
        mean: float64 (D,).
        covariance: float64 (D, D), with N - 1 in the denominator.
        kept: (up to KEPT, D) as they were extracted: features of images drawn without replacement,
            in random order, for the metrics that compare images one by one. Any first part of them
            is thereby a fair sample, also of images that were sorted by class.
        logits: (N, C) as they were extracted, or None where there are none or they were not asked
            for.
    """

    count: int
    mean: Tensor
    covariance: Tensor
    kept: Tensor
    logits: Tensor | None = None


class FeatureCollector:
    """Gathers the features of N images, batch by batch."""

    def __init__(self, count: int) -> None:
        """Start with nothing.

        Args:
            count: N, known beforehand so that the kept features can be drawn from all of them.
        """
        self._count = count
        self._drawn = np.zeros(count, bool)
        self._drawn[rng(0, "kept features").permutation(count)[:KEPT]] = True
        self._seen = 0
        self._mean: Tensor | None = None
        self._scatter = torch.zeros(())
        self._kept: list[Tensor] = []
        self._logits: list[Tensor] = []

    def add(self, features: Tensor, logits: Tensor | None = None) -> None:
        """Add the features (B, D) and logits (B, C) of the next images.

        Mean and scatter of the batch are merged into those of all before it, which loses no digits
        where the mean is large against the spread (Chan, Golub and LeVeque 1983).
        """
        features = features.detach().cpu()  # (B, D)
        batch_mean = features.double().mean(0)
        centred = features.double() - batch_mean
        batch_scatter = centred.T @ centred  # (D, D)
        new, total = len(features), self._seen + len(features)
        if self._mean is None:
            self._mean, self._scatter = batch_mean, batch_scatter
        else:
            shift = batch_mean - self._mean
            self._scatter += batch_scatter + shift.outer(shift) * (self._seen * new / total)
            self._mean = self._mean + shift * (new / total)
        self._kept.append(features[torch.from_numpy(self._drawn[self._seen : total])])
        if logits is not None:
            self._logits.append(logits.detach().cpu())
        self._seen = total

    def result(self) -> FeatureSet:
        """The features of all N images."""
        assert self._mean is not None, "no features"
        assert self._seen == self._count, f"{self._seen} images instead of {self._count}"
        kept = torch.cat(self._kept)
        order = rng(0, "order of kept features").permutation(len(kept))
        return FeatureSet(
            count=self._count,
            mean=self._mean,
            covariance=self._scatter / (self._count - 1),
            kept=kept[torch.from_numpy(order)],
            logits=torch.cat(self._logits) if self._logits else None,
        )


def compare(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """All metrics of generated images against real ones; both sides have MIN_IMAGES or more.

    Returns:
        "fid" and "kid" (lower is better; with the spread of the latter over its subsets,
        "kid_std"), "precision" and "recall" in [0, 1], and where there are logits
        "inception_score" with "inception_score_std", in [1, C].
    """
    kept = generated.kept.double(), real.kept.double()
    scores = {
        "fid": frechet_distance(generated, real),
        **kernel_distance(*kept),
        **precision_recall(*kept),
    }
    if generated.logits is not None:
        scores |= inception_score(generated.logits)
    return scores


def frechet_distance(a: FeatureSet, b: FeatureSet) -> float:
    """Squared Frechet distance of the two Gaussians: |m - n|^2 + tr(A + B - 2 (A B)^(1/2)).

    The trace of (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2), which stays exact
    where a covariance is singular, as that of fewer images than features is.
    """
    cross = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(0.0, float((a.mean - b.mean).square().sum() + spread))


def kernel_distance(generated: Tensor, real: Tensor) -> dict[str, float]:
    """Unbiased squared MMD with a cubic kernel: mean and spread over KID_SUBSETS random subsets.

    Args:
        generated: float64 (N, D).
        real: float64 (M, D).
    """
    scores = kid_features_to_metric(
        generated,
        real,
        kid_subsets=KID_SUBSETS,
        kid_subset_size=min(KID_SUBSET_SIZE, len(generated), len(real)),
        verbose=False,
    )
    return {
        "kid": scores["kernel_inception_distance_mean"],
        "kid_std": scores["kernel_inception_distance_std"],
    }


def precision_recall(generated: Tensor, real: Tensor) -> dict[str, float]:
    """Share of each side that lies within the other side's balls to its NEIGHBOURS-th neighbour.

    Args:
        generated: float64 (N, D).
        real: float64 (M, D). Of the larger side as many are used as the smaller has.
    """
    count = min(len(generated), len(real))
    scores = prc_features_to_metric(
        generated[:count],
        real[:count],
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=1000,
        save_cpu_ram=True,
        verbose=False,
    )
    return {name: scores[name] for name in ("precision", "recall")}


def inception_score(logits: Tensor) -> dict[str, float]:
    """Exponential of the mean KL(p(class | image) || p(class)), over IS_SPLITS parts.

    Args:
        logits: (N, C).
    """
    scores = isc_features_to_metric(logits, splits=IS_SPLITS)
    return {
        "inception_score": scores["inception_score_mean"],
        "inception_score_std": scores["inception_score_std"],
    }


def class_accuracy(logits: Tensor, labels: np.ndarray) -> float | None:
    """Share of the images in which the extractor sees the class that was asked for.

    Args:
        logits: (N, C).
        labels: int (N,); those outside [0, C) are left out.

    Returns:
        The share, or None if no label is left.
    """
    known = (labels >= 0) & (labels < logits.shape[1])
    if not known.any():
        return None
    return float((logits.argmax(1).numpy() == labels)[known].mean())


def _root(covariance: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix (D, D)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
