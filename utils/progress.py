"""Progress on a terminal, and plain lines elsewhere."""

import io
import logging
import sys
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)


def progress_bar(title: str, total: int, done: int = 0, unit: str = "it", **options: Any) -> tqdm:
    """A bar with rate and time left on a terminal; where stderr is no terminal, one line instead.

    Args:
        title: what is going on.
        total: units of work in all.
        done: units done before, by an earlier run.
        unit: name of one unit.
        **options: handed to tqdm.
    """
    on_terminal = sys.stderr.isatty()
    if not on_terminal and total > done:
        log.info("%s: %d %ss", title, total - done, unit)
    return tqdm(
        total=total,
        initial=done,
        desc=title,
        unit=unit,
        disable=not on_terminal,
        dynamic_ncols=True,
        **options,
    )


class _TqdmHandler(logging.StreamHandler):
    """Writes lines above the bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def set_up_logging(verbose: bool = True) -> None:
    """Send the program's messages to stdout as plain lines; `verbose` is False on other ranks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that it cannot show
    root = logging.getLogger()
    root.handlers[:] = [_TqdmHandler()]
    root.setLevel(logging.INFO if verbose else logging.ERROR)
    for noisy in ("PIL", "urllib3", "filelock", "torch", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
