"""Metrics as ADM counts them (guided-diffusion, evaluations/evaluator.py, read in 2026).

Precision and recall compare all pairs of images, block by block, so memory does not grow with the
number of pairs. Axes: N generated images, M real ones, D width of a feature, C classes.
"""

import numpy as np
import torch
from torch import Tensor

from metrics.features import FeatureSet
from metrics.scores import NEIGHBORS, Metric, distance_of, score_of_parts

PART = 5000  # images of a part of the Inception Score
ROWS, COLUMNS = 1000, 10_000  # of a block of distances


def spatial_distance(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """Compute the Frechet distance of spatial features (sFID, Nash et al. 2021).

    Returns:
        "sfid", at least 0; nothing if a side has no spatial features.
    """
    if generated.spatial is None or real.spatial is None:
        return {}
    return {"sfid": distance_of(*generated.spatial, *real.spatial)}


def inception_score(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """Compute the Inception Score over parts of PART images in their order; the last may be less.

    Returns:
        "inception_score", the mean over the parts; nothing without logits.
    """
    if generated.logits is None:
        return {}
    parts = torch.arange(len(generated.logits)).split(PART)
    return {"inception_score": float(np.mean(score_of_parts(generated.logits, parts)))}


def precision_recall(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """Compute precision and recall (Kynkaanniemi et al. 2019) of all images of both sides.

    A point is covered if its squared distance to a point of the other side is at most that of the
    latter to its NEIGHBORS-th neighbor. Distances are |u|^2 - 2 u v + |v|^2 in float32. The
    original rounds them to float16, so its figures differ in the third digit.

    Returns:
        "precision" and "recall", in [0, 1], and both with distances rounded to float16, as
        "precision_float16" and "recall_float16"; nothing if a side has statistics only.
    """
    if generated.kept is None or real.kept is None:
        return {}
    fake, true = generated.kept.float(), real.kept.float()
    found: dict[str, float] = {}
    for ending, is_half in (("", False), ("_float16", True)):
        precision, recall = _covered(fake, true, is_half)
        found |= {f"precision{ending}": precision, f"recall{ending}": recall}
    return found


METRICS: dict[str, Metric] = {
    "spatial_distance": spatial_distance,
    "precision_recall": precision_recall,
    "inception_score": inception_score,
}


def settings(generated: int, real: FeatureSet) -> dict[str, str]:
    """Describe the settings of the metrics; arguments as in `metrics.scores.settings`."""
    sides = "" if real.kept is None else f", {len(real.kept)} real against {generated} images"
    return {
        "precision_recall": f"{NEIGHBORS} neighbours{sides}, distances in float32",
        "inception_score": f"runs of {PART} in order",
    }


def squared_distances(u: Tensor, v: Tensor, is_half: bool) -> Tensor:
    """Compute |u|^2 - 2 u v + |v|^2 of all pairs.

    Args:
        u: float32 (N, D).
        v: float32 (M, D).
        is_half: whether every step is rounded to float16; if that overflows, none is, as in ADM.

    Returns:
        float32 (N, M), at least 0.
    """

    def rounded(values: Tensor) -> Tensor:
        return values.half().float() if is_half else values

    a, b = rounded(u), rounded(v)
    norms = [rounded(rounded(x.square()).sum(1)) for x in (a, b)]
    distances = rounded(norms[0][:, None] - 2 * rounded(a @ b.T))
    distances = rounded(distances + norms[1]).clamp(min=0)
    if is_half and not distances.isfinite().all():
        return squared_distances(u, v, False)
    return distances


def _covered(fake: Tensor, true: Tensor, is_half: bool) -> tuple[float, float]:
    """Compute the shares of generated and of real images that the other side covers."""
    of_fake, of_true = _radii(fake, is_half), _radii(true, is_half)
    is_precise, is_recalled = torch.zeros(len(fake)).bool(), torch.zeros(len(true)).bool()
    for rows in torch.arange(len(true)).split(ROWS):
        for columns in torch.arange(len(fake)).split(COLUMNS):
            distances = squared_distances(true[rows], fake[columns], is_half)
            is_precise[columns] |= (distances <= of_true[rows, None]).any(0)
            is_recalled[rows] |= (distances <= of_fake[columns]).any(1)
    return float(is_precise.double().mean()), float(is_recalled.double().mean())


def _radii(features: Tensor, is_half: bool) -> Tensor:
    """Compute the squared distance of each feature to its NEIGHBORS-th neighbor; float32 (N,)."""
    radii = []
    for rows in features.split(ROWS):
        nearest = torch.full((len(rows), NEIGHBORS + 1), torch.inf)  # with the feature itself
        for columns in features.split(COLUMNS):
            distances = squared_distances(rows, columns, is_half)
            nearest = torch.cat([nearest, distances], 1).topk(NEIGHBORS + 1, largest=False).values
        radii.append(nearest.amax(1))
    return torch.cat(radii)
