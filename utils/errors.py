"""The one exception that means: the user asked for something that cannot be done."""


class UserError(Exception):
    """A user's mistake or a condition of their machine, told in one line.

    The message names the bad value and the way out. MaskGIT.py prints it to stderr without a
    traceback and exits with code 2.
    """
