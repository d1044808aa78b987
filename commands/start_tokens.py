"""--start_tokens: the middle of a decoding, from which all images continue."""

import json
from pathlib import Path
from typing import Any

import torch

from commands.model_source import ModelSource
from commands.parser import CommandLine
from models.decoding import make_plan
from models.sampling import SamplingConfig
from models.steps import Midway, check_midway
from utils.errors import FieldError, UserError

MOST_BYTES = 16 << 20  # of the file


def read_start_tokens(
    line: CommandLine, model: ModelSource, sampling: SamplingConfig, num_hidden: int
) -> Midway | None:
    """Read the file of --start_tokens; None without the option.

    Args:
        sampling: the settings of the decoding that continues.
        num_hidden: tokens that it hides at its start.

    Raises:
        UserError: if the file cannot be read, or does not fit the model or the plan.
    """
    if line.start_tokens is None:
        return None
    path, shape = Path(line.start_tokens), model.shape
    try:
        with path.open("rb") as file:
            stored = json.loads(file.read(MOST_BYTES))
    except OSError as error:
        raise FieldError("start_tokens", path, error.strerror or str(error)) from error
    except (ValueError, RecursionError):
        stored = None
    if not _is_start(stored, shape.seq_len, shape.codebook_size):
        need = (
            f'needs {{"steps": N, "tokens": [...]}} with {shape.seq_len} tokens, each null where it'
            f" is hidden, else a number from 0 to {shape.codebook_size - 1}; the page writes it"
        )
        raise FieldError("start_tokens", path, need)
    tokens = stored["tokens"]
    midway = Midway(
        stored["steps"],
        torch.tensor([token or 0 for token in tokens]),
        torch.tensor([token is None for token in tokens]),
    )
    try:
        check_midway(midway, make_plan([num_hidden], sampling))
    except UserError as error:
        raise FieldError("start_tokens", path, str(error)) from error
    return midway


def _is_start(stored: Any, seq_len: int, codebook_size: int) -> bool:
    """Whether plain data is what the file must hold."""
    if not isinstance(stored, dict) or type(stored.get("steps")) is not int:
        return False
    tokens = stored.get("tokens")
    return (
        isinstance(tokens, list)
        and len(tokens) == seq_len
        and all(t is None or (type(t) is int and 0 <= t < codebook_size) for t in tokens)
    )
