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
    warning = warning_for_few(protocol["images"], protocol["extractor"]["features"])
    found = {"scores": scores, "basis": protocol["basis"], "protocol": protocol, "warning": warning}
    write_json_atomic(path, found)
    log.info("%s", report(scores, protocol))
    if warning:
        log.warning("%s", warning)
    log_written(path)


def warning_for_few(count: int, width: int) -> str | None:
    """Return a warning if scores come from fewer than STANDARD_IMAGES images, else None.

    Args:
        count: number of images.
        width: width of a feature.
    """
    if count >= STANDARD_IMAGES:
        return None
    singular = (
        f"; {count} images do not fix a covariance of {width} features, so FID is far too high"
        if count <= width
        else ""
    )
    return (
        f"measured on {count} images: published figures use {STANDARD_IMAGES}, and FID falls as "
        f"the number grows, so compare only with scores of the same number{singular}"
    )


def report(scores: Mapping[str, float | None], protocol: Mapping[str, Any]) -> str:
    """Format scores, each with the basis of its comparison, and the protocol as aligned lines."""
    basis = protocol["basis"]
    lines = [
        f"{name:<22}{'not measured' if value is None else format(value, '.4f'):<14}{basis}"
        for name, value in scores.items()
    ]
    return "\n".join([*lines, "", *_protocol_lines(protocol)])


def _protocol_lines(protocol: Mapping[str, Any]) -> list[str]:
    """Format a protocol, one entry per line."""
    lines = []
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {entry}" for key, entry in value.items())
        lines.append(f"{name:<22}{value}")
    return lines
