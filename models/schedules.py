"""The tables of schedules: how many tokens are hidden, and how guidance changes over the steps.

A mask schedule is a function gamma on [0, 1] with gamma(0) = 1 and gamma(1) = 0. Training hides a
share gamma(u) of an image's tokens, with u uniform in [0, 1] (Chang et al. 2022, section 3.2). The
same function shapes the plan of decoding. To add a schedule, add a row.

The command line reads the names before torch is loaded, so this file imports only numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from models.sampling import SamplingConfig

# Arguments and results are float64 of any shape, in [0, 1].
MASK_SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "arccos": lambda u: 2 / np.pi * np.arccos(u),  # valeoai/Maskgit-pytorch v1.0
    "cosine": lambda u: np.cos(np.pi / 2 * u),  # Chang et al. 2022
    "linear": lambda u: 1 - u,
    "square": lambda u: 1 - u**2,
    "root": lambda u: 1 - np.sqrt(u),
}


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


class GuidanceSchedule(NamedTuple):
    """A row of the table of guidance schedules.

    Attributes:
        share: (progress, hidden, settings) -> share of the guidance at each step. All are float64
            (T,) in [0, 1]: progress is 0 at the first step and 1 at the last; hidden is the share
            of the tokens to fill in that are hidden before a step. Where the result is 0, the
            prediction without a class is not computed.
        uses_interval, uses_power: whether it uses these settings, `guidance_interval` and
            `guidance_power`.
    """

    share: Callable[[np.ndarray, np.ndarray, SamplingConfig], np.ndarray]
    uses_interval: bool = False
    uses_power: bool = False


def _share_inside(progress: np.ndarray, hidden: np.ndarray, config: SamplingConfig) -> np.ndarray:
    """Return 1 where the hidden share is in the interval, both ends included, and 0 elsewhere."""
    low, high = config.guidance_interval
    return np.where((low <= hidden) & (hidden <= high), 1.0, 0.0)


def _power_cosine(progress: np.ndarray, hidden: np.ndarray, config: SamplingConfig) -> np.ndarray:
    """Return (1 - cos(pi (t / T)^power)) / 2 at step t of T, as in MaskBit and TiTok."""
    steps = np.arange(len(progress)) / len(progress)
    return (1 - np.cos(np.pi * steps**config.guidance_power)) / 2


GUIDANCE_SCHEDULES: dict[str, GuidanceSchedule] = {
    "linear": GuidanceSchedule(lambda progress, hidden, config: progress),
    "constant": GuidanceSchedule(lambda progress, hidden, config: np.ones_like(progress)),
    # The default interval is that of eMIGM (You et al. 2025) for 16 steps.
    "interval": GuidanceSchedule(_share_inside, uses_interval=True),
    "power-cosine": GuidanceSchedule(_power_cosine, uses_power=True),
}
