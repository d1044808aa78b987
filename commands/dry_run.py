"""--dry_run: print what the modes would do. It writes only the notes of checked images."""

import logging
from collections.abc import Mapping
from typing import Any

from commands.modes import Mode
from commands.request import Request

log = logging.getLogger(__name__)


def show_options(request: Request) -> None:
    """Print the value of every option, and what follows from them."""
    line, machine = request.line, request.machine
    for name, value in sorted(vars(line.values).items()):
        if name != "n_classes" or name in line.given:  # its default, 10, is used nowhere
            _row(name, f"{value}{'  (given)' if name in line.given else ''}")
    if not line.checkpoint:  # its results go to the folder of its own run
        _row("run folder", request.run().path)
    _row("device, precision", f"{machine.device}, {machine.precision}")


def show_jobs(jobs: Mapping[Mode, Any]) -> None:
    """Print what each mode's `describe` says about its Job. The plan is a table and comes last."""
    shown: set[tuple[str, str]] = set()
    plan = None
    for mode, job in jobs.items():
        describe = getattr(mode.module(), "describe", None)
        described = describe(job) if describe else {}
        plan = described.pop("plan", plan)
        for name, value in described.items():
            if (name, str(value)) not in shown:  # modes with the same model repeat rows
                _row(name, value)
            shown.add((name, str(value)))
    if plan:
        log.info("%s", plan)


def _row(name: str, value: Any) -> None:
    """Print a name and its value in two columns."""
    log.info("%-22s %s", name, value)
