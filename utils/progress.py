"""Progress bars on a terminal, and the lines that the program prints."""

import io
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.errors import UserError, printable
from utils.signals import Stopped, ask_to_stop, end_if_asked, is_training
from utils.streams import mute

log = logging.getLogger(__name__)

NOISY = ("PIL", "urllib3", "filelock", "torch", "matplotlib")  # say more than a user can use


def log_written(path: Path, what: str = "") -> None:
    """Log the path of a result: absolute, and in the quotes that a shell needs.

    So terminals can open it and it can be copied, from whatever folder the log is read.
    """
    told = shlex.quote(str(path.absolute()))
    log.info("written: %s", f"{told} ({what})" if what else told)


class _Bar(tqdm):
    """A bar that starts no thread; without one, tqdm has to look at the clock at every update."""

    monitor_interval = 0


def progress_bar(title: str, total: int, done: int = 0, unit: str = "it", **options: Any) -> tqdm:
    """Make a bar with rate and time left, or log one line where stderr is no terminal.

    Args:
        title: what the program does.
        total: units of work in all.
        done: units done before, by an earlier run.
        unit: name of one unit of work.
        **options: handed to tqdm.
    """
    end_if_asked()
    on_terminal = sys.stderr.isatty()
    if not on_terminal and total > done:
        log.info("%s: %d %ss", title, total - done, unit)
    return _Bar(
        total=total,
        initial=done,
        desc=title,
        unit=unit,
        disable=not on_terminal,
        dynamic_ncols=True,
        miniters=1,
        **options,
    )


class _TqdmHandler(logging.StreamHandler):
    """Writes lines above the bars, so that they do not cut through them."""

    def __init__(self, rewrite: Callable[[str], str]) -> None:
        super().__init__()
        self._rewrite = rewrite

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(printable(self._rewrite(self.format(record))), file=sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            _lose_output(error)


def _lose_output(error: OSError) -> None:
    """Decide what happens when stdout cannot be written.

    A training goes on without its messages. If their reader has gone, as `head` does, it stops as
    after a signal, with its state saved.

    Raises:
        Stopped: if the reader has gone and nothing is trained. It is no OSError, which others would
            take for one of their own files.
        UserError: if stdout cannot be written for another reason and nothing is trained.
    """
    has_no_reader = isinstance(error, BrokenPipeError)
    if is_training():
        mute(sys.stdout)
        if has_no_reader:
            ask_to_stop(signal.SIGPIPE)
    elif has_no_reader:
        raise Stopped(signal.SIGPIPE) from error
    else:
        raise UserError(f"stdout cannot be written: {error.strerror or error}") from error


@contextmanager
def logging_kept() -> Iterator[None]:
    """Let the block call `set_up_logging`; after it the caller's own set-up of logging is back."""
    root, stdout = logging.getLogger(), sys.stdout
    handlers = root.handlers[:]
    levels = {name: logging.getLogger(name).level for name in (None, *NOISY)}
    errors = getattr(stdout, "errors", None)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if isinstance(stdout, io.TextIOWrapper) and not stdout.closed:
            stdout.reconfigure(errors=errors)


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
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
