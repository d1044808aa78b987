"""--start_tokens: the middle of a decoding, from which all images continue."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from commands.generation import Generation
from commands.parser import CommandLine
from models.decoding import make_plan
from models.steps import KnownTokens, check_known
from utils.errors import FieldError, UserError
from utils.plain import from_plain

MOST_BYTES = 16 << 20  # of the file


@dataclass(frozen=True)
class StartTokens:
    """What the file holds: the number of steps that are done, and tokens, None for hidden ones."""

    steps: int
    tokens: tuple[int | None, ...]


def with_start_tokens(line: CommandLine, generation: Generation) -> Generation:
    """Let all images continue from the file of --start_tokens, if the option is given.

    Raises:
        UserError: if the file does not fit the model or the plan.
        OSError: if it cannot be read.
    """
    if line.start_tokens is None:
        return generation
    path, shape, series = Path(line.start_tokens), generation.model.shape, generation.series
    start: StartTokens | None
    try:
        with path.open("rb") as file:
            start = from_plain(StartTokens, json.loads(file.read(MOST_BYTES)))
    except (ValueError, RecursionError):
        start = None
    codes = {None, *range(shape.codebook_size)}
    if start is None or len(start.tokens) != shape.seq_len or not codes.issuperset(start.tokens):
        need = (
            f'needs {{"steps": N, "tokens": [...]}} with {shape.seq_len} tokens, each null where it'
            f" is hidden, else a number from 0 to {shape.codebook_size - 1}; the page writes it"
        )
        raise FieldError("start_tokens", path, need)
    tokens = torch.tensor([token or 0 for token in start.tokens])
    hidden = torch.tensor([token is None for token in start.tokens])
    known = KnownTokens(tokens, hidden, start.steps, generation.num_hidden)
    try:
        check_known(known, make_plan(generation.num_hidden, series.sampling))
    except UserError as error:
        raise FieldError("start_tokens", path, str(error)) from error
    return replace(generation, series=replace(series, known=known))
