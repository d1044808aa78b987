"""The scores that can decide between settings, and the names of the protocols.

The command line reads the names before it shows its help, so this file imports nothing slow.
"""

from collections.abc import Callable
from typing import Any

BETTER: dict[str, Callable[..., Any]] = {  # picks the best of several scores
    "fid": min,
    "kid": min,
    "inception_score": max,
    "precision": max,
    "recall": max,
    "class_accuracy": max,
}

PROTOCOL_NAMES = ("ours", "adm", "edm2", "clean")  # the keys of metrics.protocols.PROTOCOLS
INCEPTION, DINOV2 = "inception", ("dinov2", "dinov2-pil")
FEATURES = (INCEPTION, *DINOV2)
"""Kinds of features: Inception's, and DINOv2's with the two ways to resize of metrics.dinov2."""
