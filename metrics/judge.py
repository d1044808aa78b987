"""Scores generated images against real ones, with a protocol that describes the measurement."""

import logging
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from tqdm import tqdm

from data.generated import NO_LABEL, Blocks
from metrics import scores as metrics
from metrics.extractor import Extractor
from metrics.features import FeatureSet, extract
from metrics.protocols import Protocol
from metrics.references import Reference
from metrics.unfinished import Unfinished
from utils.progress import log_once
from utils.version import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judge:
    """Scores images against a set of real ones, with the features of one extractor.

    Attributes:
        reference: what the real images are.
        real: features of the real images.
        num_classes: number of classes of the dataset; None if unknown.
        how: how to measure, a row of PROTOCOLS.
    """

    extractor: Extractor
    reference: Reference
    real: FeatureSet
    num_classes: int | None
    how: Protocol

    def score(self, blocks: Blocks, count: int, bar: tqdm) -> dict[str, float]:
        """Compute all metrics of `count` images; arguments and errors as in `measure`."""
        return self.compare(self.measure(blocks, count, bar))

    def measure(
        self, blocks: Blocks, count: int, bar: tqdm, unfinished: Unfinished | None = None
    ) -> FeatureSet:
        """Extract the features of `count` images.

        Args:
            blocks: images uint8 (B, H, W, C) and labels int (B,); without those that `unfinished`
                has.
            count: number of all images, at least `metrics.features.MIN_IMAGES`.
            bar: as in `extract`.
            unfinished: keeps the features of an interrupted measurement; None keeps nothing.

        Returns:
            The features; with labels only if the extractor has one logit for each class of the
            dataset.

        Raises:
            UserError: if the extractor cannot take them.
        """
        generated, labels = extract(
            self.extractor,
            blocks,
            count,
            bar,
            with_logits=True,
            keeps_all=self.how.keeps_all,
            unfinished=unfinished,
        )
        self._note_missing(labels)
        logits = generated.logits
        # Labels with two axes, for several findings, do not name a single class.
        if logits is not None and logits.shape[1] == self.num_classes and labels.ndim == 1:
            generated = replace(generated, labels=labels)
        return generated

    def compare(self, generated: FeatureSet) -> dict[str, float]:
        """Compute the scores of the protocol, as `metrics.scores.compare`; log their limits.

        Returns:
            The scores; "fid" has the name that it has for these features.
        """
        for limit in metrics.limits(generated, self.real):
            log_once(limit)  # a sweep measures many times
        scores = metrics.compare(generated, self.real, self.how.metrics)
        distance = self.extractor.distance
        return {distance if name == "fid" else name: scores[name] for name in scores}

    def protocol(self, count: int) -> dict[str, Any]:
        """Describe what is needed to compare the scores of `count` images with others."""
        return {
            "basis": f"{self.how.name}, {self.reference.name}",
            "protocol": f"{self.how.name}, as {self.how.program}",
            "images": count,
            "reference": dict(self.reference.facts),
            "extractor": {
                "name": self.extractor.name,
                "sha256": self.extractor.digest,
                **({"variant": self.extractor.variant} if self.extractor.variant else {}),
                "features": len(self.real.mean),
                "input": "uint8",
            },
            **self.how.settings(count, self.real),
            "rounding": self.how.rounding,
            "program": VERSION,
            "torch-fidelity": version("torch-fidelity"),
        }

    def _note_missing(self, labels: np.ndarray) -> None:
        """Warn if labels are not classes of the dataset, or not all classes have images."""
        if self.num_classes is None or labels.ndim != 1:
            return
        wrong = int(((labels < NO_LABEL) | (labels > self.num_classes)).sum())
        if wrong:
            log.warning("labels that are not classes of the dataset: %d of %d", wrong, len(labels))
        found = np.unique(labels[(labels >= 0) & (labels < self.num_classes)])
        if 0 < len(found) < self.num_classes:
            missing, classes = self.num_classes - len(found), self.num_classes
            log.warning("classes without an image, which raises FID: %d of %d", missing, classes)
