"""The best sampling settings that a sweep found; they are stored in the model's checkpoint."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.sampling import SamplingConfig
from utils.plain import from_plain, to_plain

ENTRY = "best_settings"  # its name in a checkpoint
MAX_DEPTH = 8  # of nested plain data; a protocol needs three


@dataclass(frozen=True)
class BestSettings:
    """Sampling settings, and how they were measured.

    Attributes:
        metric: name of the score that decided.
        scores: all scores of these settings, by name.
        protocol: how it was measured, as plain data: number of images, real images, feature
            network, version of the program and more.
    """

    sampling: SamplingConfig
    metric: str
    scores: dict[str, float]
    protocol: dict[str, Any]

    def entry(self) -> dict[str, Any]:
        """Return plain data for a checkpoint; `read_best_settings` reads it."""
        entry = {**vars(self), "sampling": to_plain(self.sampling)}
        plain: dict[str, Any] = json.loads(json.dumps(entry))  # lists for tuples, at any depth
        return plain

    def summary(self) -> str:
        """Summarize their score in a few words."""
        return f"{self.metric} {self.scores[self.metric]:.4g} on {self.protocol['images']} images"


def read_best_settings(entry: Any) -> BestSettings:
    """Read the settings in a checkpoint. The file may come from anyone, so every value is checked.

    Raises:
        ValueError: if a value is wrong; a FieldError if it is a setting.
    """
    if not isinstance(entry, Mapping) or not _is_plain(entry, MAX_DEPTH):
        raise ValueError("its best settings are not plain data")
    sampling = from_plain(SamplingConfig, entry.get("sampling", {}))
    found = from_plain(BestSettings, {**entry, "sampling": sampling})
    found.sampling.validate()
    are_numbers = all(type(v) in (int, float) and math.isfinite(v) for v in found.scores.values())
    if not found.metric.isidentifier() or found.metric not in found.scores or not are_numbers:
        raise ValueError(f"its best settings have no scores, or none called {found.metric[:40]!r}")
    if type(found.protocol.get("images")) is not int:
        raise ValueError("its best settings do not say how many images were measured")
    return found


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a value is plain data with at most `depth` nested containers."""
    if isinstance(value, Mapping):
        inside = all(type(name) is str for name in value)
        return inside and depth > 0 and all(_is_plain(v, depth - 1) for v in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(v, depth - 1) for v in value)
    return value is None or type(value) in (str, int, float, bool)
