"""Children that are forked from this process, so that none of them has to load torch."""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress


def fork(work: Callable[[], object], output: int, errors: int) -> int:
    """Call `work` in a child that writes its messages into these descriptors.

    Returns:
        The id of the child. It ends with the code of a SystemExit, 0 without one, and 70 after
        another exception.
    """
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.dup2(output, 1)
        os.dup2(errors, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody reads it
                stream.flush()
        os._exit(code)


def exit_code(child: int) -> int:
    """Wait for a child; its exit code, or the signal that ended it with a minus sign."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
