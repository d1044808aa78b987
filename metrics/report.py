"""Scores as text and as a file, each with the protocol of its measurement."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.files import make_folder, write_json_atomic
from utils.progress import log_written

log = logging.getLogger(__name__)

STANDARD_IMAGES = 50_000  # for published scores
SPREAD = "_spread"  # ends the name of a standard deviation over several seeds


def write_scores(
    path: Path, scores: Mapping[str, float | None], protocol: Mapping[str, Any]
) -> None:
    """Log scores with their protocol, and write both as JSON.

    Args:
        scores: scores by name; None if not measured. One that is not finite is written as null.
        protocol: from `Judge.protocol`, possibly with more entries; "basis" is shown beside every
            score.

    Raises:
        UserError: if the file cannot be written.
    """
    make_folder(path.parent)
    lost = [name for name, value in scores.items() if not math.isfinite(value or 0)]
    if lost:
        log.warning("%s: not a finite number, as the features are too large", ", ".join(lost))
    scores = {**scores, **dict.fromkeys(lost)}
    warning = warning_for_few(protocol["images"])
    found = {"scores": scores, "basis": protocol["basis"], "protocol": protocol, "warning": warning}
    write_json_atomic(path, found)
    log.info("%s", report(scores, protocol))
    if warning:
        log.warning("%s", warning)
    log_written(path)


def warning_for_few(count: int) -> str | None:
    """Return a warning if scores come from fewer than STANDARD_IMAGES images, else None."""
    if count >= STANDARD_IMAGES:
        return None
    return (
        f"measured on {count} images: published figures use {STANDARD_IMAGES}, and FID falls as "
        "the number grows, so compare only with scores of the same number"
    )


def report(scores: Mapping[str, float | None], protocol: Mapping[str, Any]) -> str:
    """Format scores, each with the basis of its comparison, and the protocol as aligned lines."""
    values = {name: value for name, value in scores.items() if not name.endswith(SPREAD)}
    described = {name: _describe(value) for name, value in protocol.items()}
    width = max(map(len, [*values, *described])) + 2
    lines = []
    for name, value in values.items():
        shown = "not measured" if value is None else _number(value)
        if (spread := scores.get(name + SPREAD)) is not None:
            shown += f" ± {_number(spread)}"
        lines.append(f"{name:<{width}}{shown:<22}  {protocol['basis']}")
    return "\n".join([*lines, "", *(f"{name:<{width}}{text}" for name, text in described.items())])


def _number(value: float) -> str:
    """Write a score with 4 decimal places, or 3 digits if it is small, as KID often is."""
    return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.3g}"


def _describe(value: object) -> str:
    """Write a value of a protocol in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return str(value)
