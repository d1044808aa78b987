"""Scores samples while a model trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """When samples are scored while a model trains, and how; the caller knows the metrics.

    Attributes:
        every: epochs between two evaluations; the last epoch is evaluated too.
        basis: digest of what the scores depend on besides the weights; equal ones can be compared.
        measure: scores samples of the averaged weights, by name; "fid" is one of them. It may
            change neither the weights nor the state of random numbers. Only the main process
            calls it.
    """

    every: int
    basis: str
    measure: Callable[[], Mapping[str, float]]
