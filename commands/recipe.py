"""The command line that makes images again: the page shows it, and PNG files hold it."""

import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from commands.flags import option_values
from commands.option import Option
from commands.options import OPTIONS
from commands.parser import CommandLine, parse
from metrics.sweep_table import table_text
from page.form import Recipe
from utils.errors import UserError
from utils.hub import hub_name

# Keywords of the texts in a PNG: the command that makes it, and the fingerprint of the model.
COMMAND, MODEL = "MaskGIT command", "MaskGIT model"
MOST_CHARACTERS = 1 << 16  # of the command
SAMPLE = ["python", "MaskGIT.py", "--sample"]


def command_lines(recipe: Recipe, more: Sequence[str], output_dir: Path) -> list[str]:
    """Write the command line that makes the images of a recipe again, an option a line.

    It names a run folder of its own, so that it overwrites nothing in the run of the model.

    Args:
        recipe: what the images are made from.
        more: the words of `same_again`.
        output_dir: folder of all runs.
    """
    words = [*_words(recipe), *more]
    return _lines([*words, "--output_dir", _path_text(output_dir), *_own_run(words)])


def command_texts(recipe: Recipe, fingerprint: str, more: Sequence[str]) -> dict[str, str]:
    """Say for a PNG, which others may get, how it was made: names of folders stay here.

    Args:
        recipe: what the images are made from.
        fingerprint: of the model.
        more: the words of `same_again` with `to_share`.

    Returns:
        The texts by keyword; none if the command is too long.
    """
    words = [*_words(replace(recipe, model=Path(_shared(str(recipe.model))))), *more]
    command = " ".join(_lines([*words, *_own_run(words)]))
    return {COMMAND: command, MODEL: fingerprint} if len(command) <= MOST_CHARACTERS else {}


def same_again(line: CommandLine, *, to_share: bool = False) -> Iterator[str]:
    """Yield the words of those options that change images, besides the ones of a recipe.

    Args:
        line: the command line.
        to_share: for `command_texts`, which only samples.
    """
    for name in sorted(line.given & _computing() - {"batch_size"}):
        option, value = OPTIONS[name], getattr(line, name)
        if to_share and option.is_path:
            value = _shared(value)
        # A model of the run itself needs no description, and sampling reads no images.
        describes = option.compared or "show_plan" in option.modes
        is_needed = "checkpoint" in line.given if describes else "sample" in option.modes
        if is_needed or not to_share:
            yield from _written(option, value)


def read_command(line: CommandLine, text: str) -> tuple[CommandLine, str]:
    """Read the command in a picture, which may come from anybody.

    Args:
        line: the command line of this page.
        text: as `command_texts` writes it.

    Returns:
        The command, and those of its options that the page does not take from it, as words; empty
        if they are the same here.

    Raises:
        UserError: if it is anything else.
    """
    where = "the command in this picture"
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{where} has more than {MOST_CHARACTERS} characters")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{where} is cut off: {text[-40:]!r}") from error
    if words[: len(SAMPLE)] != SAMPLE or "$'" in text:
        raise UserError(f"{where} is not one that samples: {text[:40]!r}")
    # Anything else could print something, or asks for what the page does not do.
    both = {"sample", "page"}
    allowed = {one.flag for one in OPTIONS.values() if both <= one.modes or one.compared}
    for word in words[len(SAMPLE) :]:
        if word.startswith("-") and word.partition("=")[0] not in allowed:
            raise UserError(f"{where} has {word[:40]!r}, which the page cannot fill in")
    made = parse(words[2:])
    other = sorted(n for n in made.given & _computing() if getattr(made, n) != getattr(line, n))
    return made, " ".join(w for n in other for w in _written(OPTIONS[n], getattr(made, n)))


def _computing() -> set[str]:
    """Name the options that say how networks compute, or which ones they are."""
    names = {"batch_size"}
    for name, option in OPTIONS.items():
        # Those of how networks compute act in --reconstruct too, those of --curves on no image.
        computes = "reconstruct" in option.modes and "curves" not in option.modes
        if option.compared or (computes and name != "checkpoint"):
            names.add(name)
    return names


def _own_run(words: Sequence[str]) -> list[str]:
    """Name a run folder after the words of a command."""
    return ["--run_name", f"again-{hashlib.sha256(repr(words).encode()).hexdigest()[:10]}"]


def _lines(words: Sequence[str]) -> list[str]:
    """Quote the words of a command, an option with its values a line."""
    # Split by words, because a name may contain " --".
    starts = [n for n, word in enumerate(words) if word.startswith("--")]
    ends = [*starts[1:], len(words)]
    options = [words[start:end] for start, end in zip(starts, ends, strict=True)]
    lines = [[*SAMPLE[:2], *options[0]], *options[1:]]
    return [" ".join(map(_quoted, line)) for line in lines]


def _shared(path: str) -> str:
    """Take the folders of this machine away from a path; name a file on the hub there."""
    return hub_name(path) or (Path(path).name if Path(path).is_absolute() else path)


def _path_text(path: Path) -> str:
    """Write a path so that it cannot be taken for an option or a home folder."""
    text = str(path)
    return str(path.absolute()) if text.startswith(("-", "~")) else text


def _quoted(word: str) -> str:
    """Quote a word for bash; write characters as bytes if they are not printable UTF-8."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = os.fsencode(word.replace("\\", "\\\\").replace("'", "\\'"))
    letters = (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in escaped)
    return f"$'{''.join(letters)}'"


def _words(recipe: Recipe) -> list[str]:
    """Write a recipe as words of a command line."""
    edited, series = recipe.edited, recipe.series
    count = len(series.labels)
    words = ["--edit" if edited else "--sample", "--checkpoint", _path_text(recipe.model)]
    if edited:
        words += ["--init_image", edited.image]
        for box in edited.boxes:
            words += ["--mask_box", ",".join(map(str, box))]
        if edited.margins:
            words += ["--outpaint", *(f"{side}={n}" for side, n in edited.margins.items())]
        words += ["--mask_grow", str(edited.grow)] if edited.grow else []
        words += [] if edited.put_back else ["--no_composite"]
    words += ["--start_tokens", recipe.start] if recipe.start else []
    words += ["--labels", *recipe.labels] if recipe.labels else []
    words += ["--num_samples", str(count), "--seed", str(series.seed)]
    words += ["--first_image", str(series.first_image)] if series.first_image else []
    words += ["--batch_size", str(series.block_size)] if series.block_size < count else []
    usual = option_values(recipe.usual)
    for name, value in option_values(series.sampling).items():
        if value != usual[name]:
            words.append(f"{OPTIONS[name].flag}={table_text(value) or 'none'}")
    return words


def _written(option: Option, value: Any) -> list[str]:
    """Write an option with its value; nothing for a switch that is off."""
    if option.kind is None:
        return [option.flag] if value else []
    values = value if isinstance(value, list) else [value]
    return [option.flag, *map(str, values)]
