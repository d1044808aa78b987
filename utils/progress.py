"""Progress bars on a terminal, and the lines that the program prints."""

import io
import logging
import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)


def progress_bar(title: str, total: int, done: int = 0, unit: str = "it", **options: Any) -> tqdm:
    """Make a bar with rate and time left, or log one line where stderr is no terminal.

    Args:
        title: what the program does.
        total: units of work in all.
        done: units done before, by an earlier run.
        unit: name of one unit of work.
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
    """Writes lines above the bars, so that they do not cut through them."""

    def __init__(self, rewrite: Callable[[str], str]) -> None:
        super().__init__()
        self._rewrite = rewrite

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self._rewrite(self.format(record)), file=sys.stdout)
        sys.stdout.flush()


def set_up_logging(verbose: bool = True, rewrite: Callable[[str], str] = str) -> None:
    """Print the program's messages to stdout as plain lines.

    Args:
        verbose: False for errors alone, as in every process but the main one.
        rewrite: changes a message before it is shown, for example to name settings by their flags.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that stdout cannot show
    root = logging.getLogger()
    root.handlers[:] = [_TqdmHandler(rewrite)]
    root.setLevel(logging.INFO if verbose else logging.ERROR)
    for noisy in ("PIL", "urllib3", "filelock", "torch", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
