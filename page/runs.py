"""Reads what runs have written: their numbers, preview grids, reconstructions and sweeps.

Nothing is locked and nothing is written, so a training goes on undisturbed. The numbers of a run
are read on from where the last look ended.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metrics.sweep_table import read_rows, strip_file
from page.catalog import id_of
from page.checks import RequestError
from training.run_folder import RunFolder
from training.runs import STAGES
from training.tracking import is_row
from utils.errors import one_line
from utils.records import read_line

MOST_RUNS = 200


@dataclass
class _Tail:
    """The rows of a file that grows.

    Attributes:
        version: tells apart files that replaced each other.
        offset: bytes that are read.
        rows: the intact rows of them.
    """

    version: int
    offset: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def read_on(self, path: Path) -> None:
        """Read the lines that were added and are complete."""
        with path.open("rb") as file:
            file.seek(self.offset)
            added = file.read()
        complete = added[: added.rfind(b"\n") + 1]
        self.offset += len(complete)
        rows = (read_line(line, is_row) for line in complete.splitlines())
        self.rows += [_finite(row) for row in rows if row is not None]


class RunReader:
    """The runs of some folders."""

    def __init__(self, find: Callable[[], Sequence[Path]], setting_names: Sequence[str]) -> None:
        """Make a reader.

        Args:
            find: lists the folders of runs.
            setting_names: names of all sampling settings, in the order of a sweep's table.
        """
        self._find = find
        self._setting_names = setting_names
        self._tails: dict[Path, _Tail] = {}
        self._lock = threading.Lock()

    def described(self) -> list[dict[str, Any]]:
        """Describe every run, the one that changed last first."""
        runs = [self._describe(run_id, run) for run_id, run in self._runs().items()]
        return sorted((run for run in runs if run["stages"]), key=lambda run: run["age"])

    def rows(self, run_id: str, stage: str, version: int, known: int) -> dict[str, Any]:
        """Return the numbers of a stage that a tab does not have yet.

        Args:
            run_id: the run.
            stage: one of `training.runs.STAGES`.
            version: the version of which it has some; 0 for none.
            known: how many it has.

        Raises:
            RequestError: if there is no such run or stage.
        """
        path = self._run(run_id).metrics(_stage(stage))
        with self._lock:
            try:
                now = path.stat()
                tail = self._tails.get(path)
                # A resumed training replaces the file.
                if tail is None or tail.version != _version(now) or now.st_size < tail.offset:
                    tail = self._tails[path] = _Tail(_version(now))
                tail.read_on(path)
            except OSError as error:
                raise RequestError(f"this run has no numbers of {stage}", 404) from error
            start = known if version == tail.version else 0
            return {"version": tail.version, "start": start, "rows": tail.rows[start:]}

    def preview(self, run_id: str, stage: str, step: int) -> bytes:
        """Return a picture that was made while a stage trained; errors as in `picture`."""
        return _picture(self._run(run_id).preview(_stage(stage), step))

    def reconstructions(self, run_id: str) -> bytes:
        """Return the tokenizer's originals beside reconstructions; errors as in `picture`."""
        return _picture(self._run(run_id).path / "reconstructions.png")

    def sweep(self, run_id: str) -> dict[str, Any]:
        """Return the table of a sweep.

        Raises:
            RequestError: if there is none.
            UserError: if it is damaged.
        """
        folder = self._sweep_folder(run_id)
        rows = read_rows(folder / "sweep.csv")
        if not rows:
            raise RequestError("this run has no sweep", 404)
        settings = [name for name in self._setting_names if name in rows[0]]
        strips = [strip_file(folder, self._setting(row)).is_file() for row in rows]
        return {"settings": settings, "rows": rows, "strips": strips}

    def strip(self, run_id: str, number: int) -> bytes:
        """Return the images of a row of a sweep; errors as in `sweep`."""
        folder = self._sweep_folder(run_id)
        rows = read_rows(folder / "sweep.csv")
        if not 0 <= number < len(rows):
            raise RequestError("the sweep has no such row", 404)
        return _picture(strip_file(folder, self._setting(rows[number])))

    def _runs(self) -> dict[str, RunFolder]:
        return {id_of(path): RunFolder(path, "") for path in list(self._find())[:MOST_RUNS]}

    def _run(self, run_id: str) -> RunFolder:
        run = self._runs().get(run_id)
        if run is None:
            raise RequestError("there is no such run any more", 404)
        return run

    def _sweep_folder(self, run_id: str) -> Path:
        return self._run(run_id).path / "sweep"

    def _setting(self, row: Mapping[str, str]) -> dict[str, str]:
        """Return the values of a row's sampling settings, in their order."""
        return {name: row[name] for name in self._setting_names if name in row}

    def _describe(self, run_id: str, run: RunFolder) -> dict[str, Any]:
        """Say what a run has to show, and how many seconds ago it wrote numbers."""
        files = {stage: run.metrics(stage) for stage in STAGES}
        changed = {stage: _time_of(file) for stage, file in files.items() if _time_of(file)}
        return {
            "id": run_id,
            "name": run.path.name,
            "stages": list(changed),
            "age": max(0.0, time.time() - max(changed.values(), default=0.0)),
            "previews": {stage: _steps(run, stage) for stage in changed},
            # When they were written, 0 if they were not.
            "reconstructions": _time_of(run.path / "reconstructions.png"),
            "sweep": _time_of(run.path / "sweep" / "sweep.csv"),
        }


def _stage(name: str) -> str:
    if name not in STAGES:
        raise RequestError(f"a stage is one of {', '.join(STAGES)}", 404)
    return name


def _steps(run: RunFolder, stage: str) -> list[int]:
    """List the steps of which there is a preview."""
    texts = (path.stem.rpartition("_")[2] for path in run.samples.glob(f"{stage}_step_*.png"))
    return sorted(int(text) for text in texts if text.isascii() and text.isdecimal())


def _picture(path: Path) -> bytes:
    """Read a picture.

    Raises:
        RequestError: if it is not there.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"there is no such picture ({one_line(error, 60)})", 404) from error


def _time_of(path: Path) -> float:
    """Return when a file was written; 0 if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _version(status: os.stat_result) -> int:
    """Tell apart files that replaced each other, in a number that JavaScript can hold."""
    return status.st_ino % 2**53


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out what JSON cannot say: NaN and infinity."""
    return {name: value for name, value in row.items() if math.isfinite(value)}
