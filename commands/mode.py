"""The description of a mode; MaskGIT.py has the table of all modes."""

import importlib
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Mode:
    """One thing that the program can do.

    Each mode has a file commands/<name>.py with these functions:

        complete(line)    optional; fills in options that a file decides, before all else
        check(line)       optional; refuses mistakes that the command line alone shows
        resolve(request)  returns the mode's Job
        run(job)          does the Job (MaskGIT.py does those of train_vae, train and sample)
        describe(job)     optional; returns names and values that --dry_run prints

    Attributes:
        name: name of the mode, of its option and of its file.
        help: what it does, in a few words.
        topics: words that say which options have an effect here: those that share a topic with
            the mode, and those without topics.
        runs_shared: whether several processes may do it together.
        takes_several: whether its option takes several values, which are then a list.
        unit: what help calls the value of its option; None if the option takes no value.
        choices: the values that the option accepts; None accepts any.
        default: the value if the option is written without one; None if it needs one.
    """

    name: str
    help: str
    topics: frozenset[str] = frozenset()
    runs_shared: bool = False
    takes_several: bool = False
    unit: str | None = None
    choices: tuple[str, ...] | None = None
    default: str | None = None

    def module(self) -> ModuleType:
        """Import the mode's file. Called after parsing only, because the file loads torch."""
        return importlib.import_module(f"commands.{self.name}")
