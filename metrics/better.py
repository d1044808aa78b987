"""Which scores decide between settings, and which way.

The command line reads the names before it can show its help, so this file imports nothing slow.
"""

from collections.abc import Callable
from typing import Any

BETTER: dict[str, Callable[..., Any]] = {  # picks the better ones of some scores
    "fid": min,
    "kid": min,
    "inception_score": max,
    "precision": max,
    "recall": max,
    "class_accuracy": max,
}
