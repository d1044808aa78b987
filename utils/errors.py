"""The one exception that means: the user asked for something that cannot be done."""


class UserError(Exception):
    """A user's mistake or a condition of their machine, told in one line.

    The message names the bad value and the way out. MaskGIT.py prints it to stderr without a
    traceback and exits with code 2.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python or torch means that memory is exhausted."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


def one_line(error: BaseException, length: int = 300) -> str:
    """What an exception says, fit to be part of a UserError's message."""
    return (" ".join(str(error).split()) or repr(error))[:length]
