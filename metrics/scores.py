"""The metrics: how close generated images are to real ones, from features of both, in float64.

METRICS is the table of all metrics. To add one, write its function, add a row there, and describe
its settings in `protocol` if it has some.

Axes: N generated images, M real ones, B images of a batch, D width of a feature, C classes.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from metrics.features import FeatureSet

FEW = 1000  # images; with fewer, scores of single images are rough
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000  # images of a subset
NEIGHBORS = 3  # of precision and recall
IS_SPLITS = 10  # parts of the images for the Inception Score
ORDER_SEED = 2020  # torch-fidelity's, of the order in which these parts take the images


def compare(
    generated: FeatureSet, real: FeatureSet, metrics: Mapping[str, "Metric"] | None = None
) -> dict[str, float]:
    """Compute metrics of generated images against real ones.

    Args:
        generated: features of at least MIN_IMAGES images.
        real: the same.
        metrics: functions as in METRICS; None takes METRICS.

    Returns:
        The scores of all functions, by name, in the order of the table.
    """
    scores: dict[str, float] = {}
    for measure in (METRICS if metrics is None else metrics).values():
        scores |= measure(generated, real)
    return scores


def limits(generated: FeatureSet, real: FeatureSet) -> list[str]:
    """Say which scores mean little, because there are too few images."""
    count = min(one.count for one in (generated, real) if one.count is not None)
    said = []
    if count <= len(real.mean):
        said.append(
            f"fid: {count} images are fewer than the {len(real.mean)} features, which raises it; "
            "compare it only with that of as many images"
        )
    if count < FEW:
        said.append(
            f"precision, recall and kid: {count} images are few; below {FEW} they change much from "
            "one sample to the next, a high precision may come from images that are alike, and "
            "inception_score is too low"
        )
    return said


def settings(generated: int, real: FeatureSet) -> dict[str, str]:
    """Describe the settings of each metric, for a number of generated images and the real ones."""
    parts = {"inception_score": f"{IS_SPLITS} parts"}
    if real.kept is None:
        return parts
    neighbors = min(generated, len(real.kept))
    return {
        **kernel_settings(generated, real),
        "precision_recall": f"{NEIGHBORS} neighbours, {neighbors} images a side",
        **parts,
    }


def kernel_settings(generated: int, real: FeatureSet) -> dict[str, str]:
    """Describe the settings of KID; arguments as in `settings`."""
    if real.kept is None:
        return {}
    subset = min(KID_SUBSET_SIZE, generated, len(real.kept))
    return {"kid": f"cubic kernel, {KID_SUBSETS} subsets of {subset}"}


def frechet_distance(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """Compute the squared Frechet distance of two Gaussians (FID, Heusel et al. 2017).

    With means m and n and covariances A and B it is |m - n|^2 + tr(A + B - 2 (A B)^(1/2)). The
    trace of (A B)^(1/2) is computed as the sum of the singular values of A^(1/2) B^(1/2), which
    stays exact if a covariance is singular, as with fewer images than features. Mean and covariance
    are gathered batch by batch, so memory does not grow with the number of images.

    Returns:
        "fid", at least 0; lower is better.
    """
    return {"fid": distance_of(generated.mean, generated.covariance, real.mean, real.covariance)}


def distance_of(mean: Tensor, covariance: Tensor, mean_2: Tensor, covariance_2: Tensor) -> float:
    """Compute the distance of `frechet_distance` from means (D,) and covariances (D, D)."""
    cross = torch.linalg.svdvals(_root(covariance) @ _root(covariance_2)).sum()
    spread = covariance.trace() + covariance_2.trace() - 2 * cross
    return max(0.0, float((mean - mean_2).square().sum() + spread))


def kernel_distance(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """Compute the unbiased squared MMD with a cubic kernel (KID, Binkowski et al. 2018).

    The computation is torch-fidelity's, on KID_SUBSETS random subsets.

    Returns:
        "kid", the mean over the subsets (lower is better), and "kid_std", their spread; this
        not if every subset is the whole set. Nothing if a side has statistics only.
    """
    if generated.kept is None or real.kept is None:
        return {}
    fake, true = generated.kept.double(), real.kept.double()
    subset_size = min(KID_SUBSET_SIZE, len(fake), len(true))
    scores = kid_features_to_metric(
        fake, true, kid_subsets=KID_SUBSETS, kid_subset_size=subset_size, verbose=False
    )
    kid = {"kid": scores["kernel_inception_distance_mean"]}
    if subset_size == len(fake) == len(true):
        return kid
    return {**kid, "kid_std": scores["kernel_inception_distance_std"]}


def precision_recall(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """Compute how much of each side lies close to the other side (Kynkaanniemi et al. 2019).

    "Close" means inside a ball around an image of the other side that reaches to the NEIGHBORS-th
    neighbor of this image on its own side. Both sides use as many images as the smaller side has.
    The computation is torch-fidelity's.

    Returns:
        "precision", the share of the generated images that are close to real ones, and "recall",
        the share of the real ones that are close to generated ones; both in [0, 1]. Nothing if a
        side has statistics only.
    """
    if generated.kept is None or real.kept is None:
        return {}
    fake, true = generated.kept.double(), real.kept.double()
    count = min(len(fake), len(true))
    scores = prc_features_to_metric(
        fake[:count],
        true[:count],
        prc_neighborhood=NEIGHBORS,
        prc_batch_size=1000,
        save_cpu_ram=True,
        verbose=False,
    )
    return {name: scores[name] for name in ("precision", "recall")}


def inception_score(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """Compute exp(mean KL(p(class | image) || p(class))) (Salimans et al. 2016).

    The computation is torch-fidelity's, on IS_SPLITS parts of the images in its random order.

    Returns:
        "inception_score" in [1, C] (higher is better) and "inception_score_std", the spread over
        the parts; nothing without logits.
    """
    if generated.logits is None:
        return {}
    count = len(generated.logits)
    order = np.random.RandomState(ORDER_SEED).permutation(count)
    bounds = [i * count // IS_SPLITS for i in range(IS_SPLITS + 1)]
    parts = [torch.from_numpy(order[i:j]) for i, j in itertools.pairwise(bounds)]
    scores = score_of_parts(generated.logits, parts)
    return {
        "inception_score": float(np.mean(scores)),
        "inception_score_std": float(np.std(scores)),
    }


def score_of_parts(logits: Tensor, parts: Iterable[Tensor]) -> list[float]:
    """Compute the Inception Score of each part; only one part is in memory in float64.

    Args:
        logits: (N, C).
        parts: the indices of the images of each part.
    """
    scores = (isc_features_to_metric(logits[part], splits=1, shuffle=False) for part in parts)
    return [score["inception_score_mean"] for score in scores]


def class_accuracy(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    """Compute the share of images in which the extractor sees the requested class.

    Returns:
        "class_accuracy", in [0, 1], over the images whose label is a class. If some classes have
        more of them than others, also "class_accuracy_balanced", the mean over the classes. Nothing
        without logits, or if no label is a class.
    """
    logits, labels, right = generated.logits, generated.labels, is_recognized(generated)
    if logits is None or labels is None or right is None:
        return {}
    known = (labels >= 0) & (labels < logits.shape[1])
    if not known.any():
        return {}
    right, labels = right[known], labels[known]
    scores = {"class_accuracy": float(right.mean())}
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    if counts.max() > counts.min() + 1:  # classes in turn differ by one image
        of_class = [right[labels == label].mean() for label in np.unique(labels)]
        scores["class_accuracy_balanced"] = float(np.mean(of_class))
    return scores


def is_recognized(generated: FeatureSet) -> np.ndarray | None:
    """Return for each image whether the extractor sees the requested class.

    Returns:
        bool (N,); None without logits or labels.
    """
    if generated.logits is None or generated.labels is None:
        return None
    return generated.logits.argmax(1).numpy() == generated.labels


Metric = Callable[[FeatureSet, FeatureSet], dict[str, float]]

METRICS: dict[str, Metric] = {
    "frechet_distance": frechet_distance,
    "kernel_distance": kernel_distance,
    "precision_recall": precision_recall,
    "inception_score": inception_score,
    "class_accuracy": class_accuracy,
}
"""All metrics: (generated, real) -> scores by name, none if the metric does not apply."""


def _root(covariance: Tensor) -> Tensor:
    """Compute the symmetric square root of a positive semi-definite matrix (D, D)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
