"""Scores generated images against real ones, with a protocol that describes the measurement."""

import logging
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from data.generated import Blocks
from metrics import scores as metrics
from metrics.extractor import Extractor
from metrics.features import FeatureSet, extract
from metrics.protocols import PROTOCOLS
from metrics.references import FileReference, Reference
from metrics.unfinished import Unfinished
from utils.version import VERSION

log = logging.getLogger(__name__)


class Judge:
    """Scores images against a set of real ones, with the features of one extractor.

    Attributes:
        real: features of the real images.
    """

    def __init__(
        self,
        extractor: Extractor,
        about: Reference | FileReference,
        real: FeatureSet,
        classes: int | None,
        protocol: str = "ours",
    ) -> None:
        """Take the features of the real images.

        Args:
            about: what the real images are.
            classes: number of classes of the dataset; None if unknown.
            protocol: how to measure, a key of PROTOCOLS.
        """
        self._extractor, self._about, self._classes = extractor, about, classes
        self._protocol = protocol
        self.real = real

    def score(self, blocks: Blocks, count: int, title: str) -> dict[str, float]:
        """Compute all metrics of `count` images; arguments and errors as in `measure`."""
        return self.compare(self.measure(blocks, count, title))

    @property
    def distance(self) -> str:
        """Name of the Frechet distance of the extractor's features."""
        return self._extractor.distance

    def measure(
        self, blocks: Blocks, count: int, title: str, unfinished: Unfinished | None = None
    ) -> FeatureSet:
        """Extract the features of `count` images.

        Args:
            blocks: images uint8 (B, H, W, C) and labels int (B,); without those that `unfinished`
                has.
            unfinished: keeps the features of an interrupted measurement; None keeps nothing.

        Returns:
            The features; with labels only if the extractor has one logit for each class of the
            dataset.

        Raises:
            UserError: if there are too few images, or the extractor cannot take them.
        """
        keeps_all = PROTOCOLS[self._protocol].keeps_all
        generated, labels = extract(
            self._extractor,
            blocks,
            count,
            title,
            with_logits=True,
            keeps_all=keeps_all,
            unfinished=unfinished,
        )
        self._note_missing(labels)
        logits = generated.logits
        # Labels with two axes, for several findings, do not name a single class.
        if logits is not None and logits.shape[1] == self._classes and labels.ndim == 1:
            generated = replace(generated, labels=labels)
        return generated

    def compare(self, generated: FeatureSet) -> dict[str, float]:
        """Compute the scores of the protocol, as `metrics.scores.compare`; log their limits.

        Returns:
            The scores; "fid" has the name that it has for these features.
        """
        for limit in metrics.limits(generated, self.real):
            log.info("%s", limit)
        scores = metrics.compare(generated, self.real, PROTOCOLS[self._protocol].metrics)
        return {self.distance if name == "fid" else name: scores[name] for name in scores}

    def protocol(self, count: int) -> dict[str, Any]:
        """Describe what is needed to compare the scores of `count` images with others."""
        how = PROTOCOLS[self._protocol]
        return {
            "basis": f"{self._protocol}, {self._about.name}",
            "protocol": f"{self._protocol}, as {how.program}",
            "images": count,
            "reference": asdict(self._about),
            "extractor": {
                "name": self._extractor.name,
                "sha256": self._extractor.digest,
                **({"variant": self._extractor.variant} if self._extractor.variant else {}),
                "features": len(self.real.mean),
                "input": "uint8",
            },
            **how.settings(count, self.real),
            "rounding": how.rounding,
            "program": VERSION,
            "torch-fidelity": version("torch-fidelity"),
        }

    def _note_missing(self, labels: np.ndarray) -> None:
        """Warn if the images have labels, but not of all classes of the dataset."""
        if self._classes is None or labels.ndim != 1:
            return
        found = np.unique(labels[(labels >= 0) & (labels < self._classes)])
        if 0 < len(found) < self._classes:
            missing, classes = self._classes - len(found), self._classes
            log.warning("%d of %d classes have no image, which raises FID", missing, classes)
