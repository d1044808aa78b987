"""Progress bars on a terminal, and the lines that the program prints."""

import io
import logging
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.errors import UserError, counted, printable
from utils.signals import Stopped, ask_to_stop, end_if_asked, is_training
from utils.streams import mute

log = logging.getLogger(__name__)

LINE_EVERY = 60.0  # seconds between two lines where no bar shows the progress
NOISY = ("PIL", "urllib3", "filelock", "torch", "matplotlib")  # log more than a user needs


def log_written(path: Path, what: str = "") -> None:
    """Log the path of a result, absolute and quoted for a shell; `what` says what is in it.

    So the path works from any folder: a terminal can open it, and it can be copied.
    """
    quoted = shlex.quote(str(path.absolute()))
    log.info("written: %s", f"{quoted} ({what})" if what else quoted)


@cache
def log_once(text: str, level: int = logging.INFO) -> None:
    """Log a line at its first time only: both splits of a dataset are read in the same way."""
    log.log(level, "%s", text)


def duration(seconds: float) -> str:
    """Write a duration in words: "45 s", "12 min" or "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def end_time(seconds: float) -> str:
    """Write the time of day in `seconds` from now, with the date if it is another day."""
    now = datetime.now().astimezone()
    end = now + timedelta(seconds=min(seconds, timedelta.max.total_seconds() / 100))
    return end.strftime("%H:%M" if end.date() == now.date() else "%Y-%m-%d %H:%M")


class _Bar(tqdm):
    """A bar without a thread; tqdm then looks at the clock at every update. Shows whole units."""

    monitor_interval = 0

    @property
    def format_dict(self) -> Any:
        """What is shown, for tqdm."""
        shown = super().format_dict
        shown["n"] = round(shown["n"])
        return shown

    def update(self, n: float | None = 1) -> bool | None:
        """Count units of work; a signal that was swallowed ends the work."""
        end_if_asked()
        shown: bool | None = super().update(n)
        return shown


class _Lines(_Bar):
    """Logs a line a minute where no bar can be shown."""

    def __init__(self, title: str, total: int, done: int, unit: str) -> None:
        super().__init__(total=total, initial=done, disable=True)
        self._title, self._first, self._unit = title, done, unit
        self._began = self._last_line = time.monotonic()

    def update(self, n: float | None = 1) -> None:
        """Count units of work; a signal that was swallowed ends the work."""
        end_if_asked()
        self.n += n
        now = time.monotonic()
        if now - self._last_line > LINE_EVERY and self._first < self.n < self.total:
            left = (now - self._began) / (self.n - self._first) * (self.total - self.n)
            total = counted(self.total, self._unit)
            log.info("%s: %d of %s, %s left", self._title, self.n, total, duration(left))
            self._last_line = now


def progress_bar(
    title: str, total: int, done: int = 0, unit: str = "it", lines: bool = True
) -> tqdm:
    """Make a bar with rate and time left; log lines if stderr is not a terminal.

    Args:
        title: what the program does.
        total: units of work in total.
        done: units that an earlier run has done.
        unit: name of one unit of work.
        lines: whether a line is logged every minute where no bar can be shown; one is at the start.
    """
    end_if_asked()
    if sys.stderr.isatty():
        return _Bar(
            desc=title, total=total, initial=done, unit=unit, dynamic_ncols=True, miniters=0
        )
    if total > done:
        log.info("%s: %s", title, counted(total - done, unit))
    return _Lines(title, total, done, unit) if lines else _Bar(disable=True)


class _TqdmHandler(logging.StreamHandler):
    """Writes lines above the bars, so that they do not break them."""

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
    """Decide what to do when stdout cannot be written.

    A training goes on without its messages. If the reader of stdout has ended, as `head` does, the
    training stops as after a signal, with its state saved.

    Raises:
        Stopped: if the reader has ended and nothing is being trained. It is not an OSError, which a
            caller could mistake for an error of its own file.
        UserError: if stdout cannot be written for another reason and nothing is being trained.
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
    """Let the block call `set_up_logging`, and restore the caller's logging afterwards."""
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
        verbose: False for errors only, as in all processes except the main one.
        rewrite: changes a message before it is shown, for example to name settings by their flags.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that stdout cannot show
    root = logging.getLogger()
    root.handlers[:] = [_TqdmHandler(rewrite)]
    root.setLevel(logging.INFO if verbose else logging.ERROR)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Its messages about fonts and its cache folder are useless here.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
