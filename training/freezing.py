"""Keeps parts of a network as they are while the rest is trained."""

import fnmatch
from collections.abc import Sequence

from torch import nn

from utils.errors import FieldError

SHOWN = 6  # names in a message


def freeze(network: nn.Module, patterns: Sequence[str], field: str) -> None:
    """Turn off the gradients of the parameters whose names match a pattern.

    Without a gradient a parameter gets no state of an optimizer and no weight decay, and its
    average never changes.

    Args:
        patterns: shell patterns, such as "encoder.*".
        field: names the setting that holds the patterns.

    Raises:
        FieldError: if a pattern matches no parameter, or nothing is left to train.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        matching = [name for name in parameters if fnmatch.fnmatchcase(name, pattern)]
        if not matching:
            some = ", ".join([*parameters][:: len(parameters) // SHOWN + 1])
            raise FieldError(field, pattern, f"no parameter has such a name; some are {some}")
        for name in matching:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise FieldError(field, ",".join(patterns), "leaves nothing to train")
