"""Writes --help: alone it shows the modes, with modes the options that act in them."""

import textwrap
from collections.abc import Collection

from commands.modes import MODES, Mode
from commands.option import Option
from commands.options import GROUPS, TRAINING

OVERVIEW = """\
usage: MaskGIT.py MODE [MODE ...] [options]

Train a MaskGIT and sample from it: a frozen VQ-GAN turns images into tokens, a bidirectional
transformer learns to fill in hidden tokens, and images are decoded in a few parallel steps.

modes (at least one; they run in this order):
"""
FURTHER = """
further help:
  python MaskGIT.py --train --help      the options of a mode, or of several
  python MaskGIT.py --train --dry_run   what a command would do
  docs/options.md                       all options

examples:
  python MaskGIT.py --train --sample --dataset fashionmnist
  python MaskGIT.py --train_vae --train --sample --dataset cifar10
  python MaskGIT.py --train --dataset cifar10 --checkpoint_vae VQGAN_cifar10.pt
  python MaskGIT.py --sample --checkpoint runs/cifar10/MaskGIT_cifar10.pt --cfg_w 2

Both - and _ may stand between the words of an option.
"""
COLUMN = 27  # where the help of an option begins
WIDTH = 120


def help_text(modes: Collection[Mode]) -> str:
    """Return the help of some modes; without any, the overview of all."""
    if not modes:
        return OVERVIEW + "".join(_row(mode.usage, mode.help) for mode in MODES) + FURTHER
    names = {mode.name for mode in modes}
    text, elsewhere = f"usage: MaskGIT.py {' '.join(mode.usage for mode in modes)} [options]\n", ""
    for group in GROUPS:
        shown = [o for o in group.options if o.modes & names]
        if shown and group.home is not None and names <= TRAINING:
            elsewhere += f"{group.title}: see --{group.home} --help\n"
        elif shown:
            text += f"{group.title}:\n" + "".join(map(_option_row, shown))
    return f"{text}\n{elsewhere}" if elsewhere else text


def _option_row(option: Option) -> str:
    """Write an option with its choices and its default."""
    text = option.help
    if option.choices and option.default_text:
        text += ": " + ", ".join(option.choices)
    if option.default_text:
        text += f" [{option.default_text}]"
    return _row(option.usage, text)


def _row(left: str, text: str) -> str:
    """Write two columns, the right one wrapped."""
    start, later = f"  {left}  ".ljust(COLUMN), " " * COLUMN
    lines = textwrap.fill(
        text, WIDTH, initial_indent=start, subsequent_indent=later, break_on_hyphens=False
    )
    return f"{lines}\n"
