"""The tables of schedules: how many tokens are hidden, and how guidance changes over the steps.

A mask schedule is a function gamma on [0, 1] with gamma(0) = 1 and gamma(1) = 0. Training hides a
share gamma(u) of an image's tokens, with u uniform in [0, 1] (Chang et al. 2022, section 3.2). The
same function shapes the plan of decoding. To add a schedule, add a row.

The command line reads the names before torch is loaded, so this file imports only numpy.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

MASK_SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "arccos": lambda u: 2 / np.pi * np.arccos(u),  # valeoai/Maskgit-pytorch v1.0
    "cosine": lambda u: np.cos(np.pi / 2 * u),  # Chang et al. 2022
    "linear": lambda u: 1 - u,
    "square": lambda u: 1 - u**2,
    "root": lambda u: 1 - np.sqrt(u),
}


def mask_ratio(u: np.ndarray, schedule: str) -> np.ndarray:
    """Compute the share of tokens that is hidden at progress u.

    Args:
        u: uniform noise in training, progress in decoding; float64, any shape, in [0, 1].

    Returns:
        Ratios in [0, 1], float64, in the shape of u: 1 at u = 0, 0 at u = 1.

    Raises:
        ValueError: if the schedule is not a key of MASK_SCHEDULES.
    """
    if schedule not in MASK_SCHEDULES:
        known = ", ".join(MASK_SCHEDULES)
        raise ValueError(f"unknown mask schedule {schedule!r}; choose from {known}")
    return np.clip(MASK_SCHEDULES[schedule](np.asarray(u, np.float64)), 0, 1)


class CumulativePlan(NamedTuple):
    """A plan in the paper's form: the schedule gives the share of tokens that stay hidden.

    Their number is rounded down, or with `rounds_revealed` that of the revealed ones.
    """

    schedule: str
    rounds_revealed: bool = False


CUMULATIVE_SCHEDULES = {
    "cosine-cumulative": CumulativePlan("cosine"),  # Chang et al. 2022
    "arccos-cumulative": CumulativePlan("arccos"),
    "arccos-halton": CumulativePlan("arccos", rounds_revealed=True),  # valeoai/Halton-MaskGIT
}


class Course(NamedTuple):
    """The course of a decoding, the input of a guidance schedule; T steps.

    Attributes:
        progress: float64 (T,), 0 at the first step and 1 at the last.
        hidden: float64 (T,), share of the tokens to fill in that are hidden before each step; 1 at
            the first.
        interval: two of these shares, between which guidance is on (`guidance_interval`).
        power: how late guidance rises (`guidance_power`).
    """

    progress: np.ndarray
    hidden: np.ndarray
    interval: tuple[float, float]
    power: float


class GuidanceSchedule(NamedTuple):
    """A row of the table of guidance schedules.

    Attributes:
        share: share of the guidance at each step, float64 (T,) in [0, 1]. Where it is 0, the
            prediction without a class is not computed.
        uses_interval, uses_power: whether it uses these fields of the course.
    """

    share: Callable[[Course], np.ndarray]
    uses_interval: bool = False
    uses_power: bool = False


def _share_inside(course: Course) -> np.ndarray:
    """Return 1 where the hidden share is in the interval, both ends included, and 0 elsewhere."""
    low, high = course.interval
    return np.where((low <= course.hidden) & (course.hidden <= high), 1.0, 0.0)


def _power_cosine(course: Course) -> np.ndarray:
    """Return (1 - cos(pi (t / T)^power)) / 2 at step t of T, as in MaskBit and TiTok."""
    num_steps = len(course.progress)
    return (1 - np.cos(np.pi * (np.arange(num_steps) / num_steps) ** course.power)) / 2


GUIDANCE_SCHEDULES: dict[str, GuidanceSchedule] = {
    "linear": GuidanceSchedule(lambda course: course.progress),
    "constant": GuidanceSchedule(lambda course: np.ones_like(course.progress)),
    # The default interval is eMIGM's for 16 steps.
    "interval": GuidanceSchedule(_share_inside, uses_interval=True),
    "power-cosine": GuidanceSchedule(_power_cosine, uses_power=True),
}
