"""Errors of the user or of the machine, and how the program reports them: in one line."""

import re
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path

from utils.signals import Stopped, exit_code
from utils.streams import mute, say_last

# Parts of the messages of torch and its libraries when memory is exhausted. cuDNN reports that it
# finds no algorithm if each one needs more memory than there is.
OUT_OF_MEMORY = (
    "out of memory",
    "allocate memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",  # cuDNN 9
    "unable to find an engine",
    "Unable to find a valid cuDNN algorithm",
    "failed to map segment",  # of a library
    "Storage size calculation overflowed",  # more than 2^63 bytes
)

MEMORY_ADVICE = "out of memory: raise the limit (ulimit -v)"
NAMES_SHOWN = 10  # in a message; the others are counted
LEAST_NUMBER = 1e-30  # a setting that is nearer to 0, but not 0, is lost in float32

PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body", b"<script", b"<!--")

# Characters that control a terminal, or that change the order of the text around them.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class UserError(Exception):
    """A mistake of the user or a problem of their machine, reported in one line.

    The message names the bad value and says what would work. MaskGIT.py prints it to stderr without
    a traceback and exits with code 2.

    A message names a setting in backticks: `cache_dir`, or `TransformerConfig.dropout` if several
    configs have a field of that name. The command line shows its flag instead.
    """


class FieldError(UserError, ValueError):
    """A value that a setting cannot have.

    Attributes:
        field: name of the setting, as in the messages of `UserError` but without backticks.
    """

    def __init__(self, field: str, value: object, reason: str) -> None:
        """Make the message from the setting, its value and what is wrong with it.

        Args:
            field: for example "heads" or "TransformerConfig.dropout".
            value: what was asked for.
            reason: what would work, for example "must divide hidden_dim 128".
        """
        super().__init__(field, value_text(value), reason)  # these rebuild it in other processes
        self.field = field

    def __str__(self) -> str:
        field, value, reason = self.args
        return f"`{field}` {value}: {reason}"


class FileError(UserError):
    """A file that cannot be read; the message names it.

    A DataLoader raises the error of a worker again, with the traceback as its text. Only the last
    line of this text, the original message, is for the user.
    """

    def __init__(self, message: str) -> None:
        kind = type(self)
        if message.startswith(f"Caught {kind.__name__} in "):
            last = message.strip().splitlines()[-1]
            message = last.removeprefix(f"{kind.__module__}.{kind.__name__}: ")
        super().__init__(in_one_line(message))


def is_number(value: object) -> bool:
    """Whether a value is a number, of Python or numpy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _number_or_repr(value: object) -> object:
    """Return a number as it is, and write anything else as Python does: '3' and [3] are no 3."""
    return value if is_number(value) else repr(value)


def check_whole(field: str, value: object, low: int | None = None) -> None:
    """Raise a FieldError unless a value is a whole number, of Python or numpy, at least `low`."""
    need = "must be a whole number" + ("" if low is None else f" of at least {low}")
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or (low is not None and value < low):  # type: ignore[operator]
        raise FieldError(field, _number_or_repr(value), need)


def check_number(field: str, value: object, low: float, high: float, above: bool = False) -> None:
    """Raise a FieldError unless a value is a number from `low`, or `above` it, to `high`."""
    is_lost = is_number(value) and 0 < abs(value) < LEAST_NUMBER  # type: ignore[arg-type]
    if not is_number(value) or not low <= value <= high or (above and value == low) or is_lost:  # type: ignore[operator]
        bounds = f"above {low:.16g} and at most" if above else f"from {low:.16g} to"
        reason = f"must be a number {bounds} {high:.16g}"
        reason += f", no nearer to 0 than {LEAST_NUMBER:g}" if is_lost else ""
        raise FieldError(field, _number_or_repr(value), reason)


def check_choice(field: str, value: object, choices: Collection[str]) -> None:
    """Raise a FieldError unless a value is one of these names."""
    if not isinstance(value, str) or value not in choices:
        shown = value if isinstance(value, str) else repr(value)
        raise FieldError(field, shown, f"unknown; choose from {', '.join(choices)}")


def value_text(value: object) -> str:
    """Format the value of a setting as on a command line."""
    return " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def named(names: Iterable[str], most: int = NAMES_SHOWN) -> str:
    """Write the first names, in printable text, and the number of the others."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return in_one_line(", ".join(every[:most])).encode(errors="backslashreplace").decode() + more


def counted(count: float, noun: str) -> str:
    """Write a number with its noun: "1 class", "2 classes", "0.25 epochs"."""
    is_exact = not isinstance(count, float) or count >= 100
    number = f"{count:.0f}" if is_exact else f"{count:.3g}"
    ending = "" if number == "1" else "es" if noun.endswith(("s", "tch")) else "s"
    return f"{number} {noun}{ending}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python or torch means that memory is exhausted."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def printable(text: str) -> str:
    """Write control characters as escapes, except tabs and ends of lines.

    Names of files, and of classes in a checkpoint of another person, may contain any character.
    """
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def in_one_line(text: str) -> str:
    """Write all control characters as escapes, also ends of lines and tabs."""
    return printable(text).replace("\n", r"\n").replace("\t", r"\t")


def one_line(error: BaseException, length: int = 300) -> str:
    """Shorten the message of an exception to a single line, for a UserError.

    Unprintable characters become question marks: a message may quote a file from anybody, and some
    characters control the terminal.
    """
    text = " ".join(str(error).split()) or repr(error)
    return "".join(one if one.isprintable() else "?" for one in text)[:length]


@contextmanager
def failures_of(what: str, advice: str = "") -> Iterator[None]:
    """Turn an OSError of the block into a UserError: what failed, the reason, and the advice.

    Raises:
        UserError: for an OSError; other errors pass.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: {error.strerror or error}{advice}") from error


@contextmanager
def reading(path: str | Path, what: str = "") -> Iterator[None]:
    """Turn any exception of the block into one line that names the file.

    A file can be wrong in any way. Then libraries raise anything from a SyntaxError to a
    MemoryError.

    Args:
        path: the file that the block reads.
        what: what the file should be, for example "the image".

    Raises:
        FileError: for any exception; errors for the user pass unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        name = f"{what} {path}".strip()
        raise FileError(f"cannot read {name}: {_why_unreadable(path, error)}") from error


def _why_unreadable(path: str | Path, error: Exception) -> str:
    """Say why a file cannot be read; often it is something else than its name says."""
    if is_out_of_memory(error):
        return "it needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the name of the file, which is already in the line
    with suppress(OSError), Path(path).open("rb") as file:
        start = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if not start:
            return "it is empty"
        if start.startswith(b"version https://git-lfs"):
            return "it is a pointer of Git LFS, not the file itself: git lfs pull fetches that"
        if start.startswith(PAGES) and b"<svg" not in start:
            return "it is a web page and not the file behind it: download that in a browser"
    if isinstance(error, ValueError | OSError | EOFError | SyntaxError):
        return one_line(error)
    return f"it is damaged ({type(error).__name__}: {one_line(error)})"


@contextmanager
def errors_on_one_line(program: str, rewrite: Callable[[str], str] = str) -> Iterator[None]:
    """Report an error of the user or the machine in one line and end the process.

    Args:
        program: name of the program, the first word of the line.
        rewrite: changes a message before it is shown, for example to name settings by their flags.

    Raises:
        SystemExit: with code 2 for a UserError, an OSError, a package that cannot be loaded and a
            lack of memory, 130 after Ctrl-C, 143, 129 or 138 after another signal
            (`end_on_signals`), 141 if the reader of the output has closed it.
    """
    try:
        yield
    except UserError as error:
        reason, code = f"error: {rewrite(str(error))}", 2
    except Stopped as stop:
        name = signal.Signals(stop.signal_number).name
        reason, code = f"stopped by {name}", exit_code(stop.signal_number)
    except KeyboardInterrupt:
        reason, code = "stopped", exit_code(signal.SIGINT)
    except (ImportError, MemoryError) as error:
        advice = MEMORY_ADVICE if is_out_of_memory(error) else "pip install -r requirements.txt"
        reason, code = f"error: {one_line(error)}: {advice}", 2
    except BrokenPipeError:
        reason, code = "", exit_code(signal.SIGPIPE)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else one_line(error)
        reason, code = f"error: {text}", 2
    else:
        return
    if code == exit_code(signal.SIGPIPE):  # end silently, as other programs do after `| head`
        mute(sys.stdout)  # for what is still buffered
        raise SystemExit(code)
    say_last(f"{program}: {in_one_line(reason)}\n")
    raise SystemExit(code)
