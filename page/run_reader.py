"""Reads what runs have written: their numbers, preview grids, reconstructions and sweeps.

Nothing is locked and nothing is written, so a training goes on undisturbed. The numbers of a run
are read on from where the last look ended.
"""

import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from metrics.better import BETTER
from metrics.sweep_table import rows_of, strip_file
from page.catalog import id_of
from page.checks import MOST_NUMBER, RequestError
from page.run_files import names_inside, open_inside, read_inside, status_inside
from training.run_folder import RunFiles
from training.run_record import STAGES
from training.tracking import is_row
from utils.errors import one_line
from utils.records import finite, read_line

log = logging.getLogger(__name__)

MOST_RUNS = 200
# Bytes: of a picture, of a sweep's table, of numbers read in one look, of one line of them.
MOST_PICTURE, MOST_TABLE, MOST_LOOK, MOST_LINE = 64 << 20, 4 << 20, 8 << 20, 1 << 20
MOST_ROWS = 200_000  # of a stage
MOST_END, MOST_OPTION = 1 << 14, 200  # bytes with the last row; characters of an option


@dataclass
class _Tail:
    """The rows of a file that grows.

    Attributes:
        version: differs between files that replaced each other.
        offset: bytes that are read.
        rows: the intact rows of them.
        lock: held while rows are added.
    """

    version: int
    offset: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read_on(self, file: BinaryIO) -> None:
        """Read the complete lines that were added; a large rest waits for the next look."""
        if len(self.rows) >= MOST_ROWS:
            return
        file.seek(self.offset)
        added = file.read(MOST_LOOK)
        complete = added[: added.rfind(b"\n") + 1]
        # The end may be a line that is still written, but not forever.
        self.offset += len(complete) if len(added) - len(complete) <= MOST_LINE else len(added)
        lines = (line for line in complete.splitlines() if len(line) <= MOST_LINE)
        rows = (read_line(line, is_row) for line in lines)
        self.rows += [finite(row) for row in rows if row is not None]
        del self.rows[MOST_ROWS:]


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
        """Describe every run, the one that changed last first.

        A run that cannot be described is left out: it must not hide the others.
        """
        runs = []
        for run_id, run in self._runs().items():
            try:
                runs.append(self._describe(run_id, run))
            except (OSError, ValueError) as error:
                log.warning("a run is left out: %s", one_line(error))
        return sorted((run for run in runs if run["stages"]), key=lambda run: run["age"])

    def rows(self, run_id: str, stage: str, version: int, known: int) -> dict[str, Any]:
        """Return the numbers of a stage that a tab does not have yet.

        Args:
            run_id: the run.
            stage: one of `training.run_record.STAGES`.
            version: the version of which it has some; 0 for none.
            known: how many it has.

        Raises:
            RequestError: if there is no such run or stage.
        """
        run = self._run(run_id)
        path = run.metrics(_stage(stage))
        with _there(f"numbers of {stage}"), open_inside(run.path, path) as file:
            tail = self._tail(path, os.fstat(file.fileno()))
            with tail.lock:
                tail.read_on(file)
        start = known if version == tail.version else 0
        return {"version": tail.version, "start": start, "rows": tail.rows[start:]}

    def settings(self, run_id: str, stage: str) -> dict[str, str]:
        """Return the options that a stage keeps, as texts; none if they cannot be read."""
        run = self._run(run_id)
        try:
            stored = json.loads(read_inside(run.path, run.config, MOST_TABLE))
            options = dict(stored[_stage(stage)])
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return {}
        plain = {name: value for name, value in options.items() if not isinstance(value, dict)}
        return {name: json.dumps(value).strip('"')[:MOST_OPTION] for name, value in plain.items()}

    def preview(self, run_id: str, stage: str, step: int) -> bytes:
        """Return a picture that was made while a stage trained; errors as in `_picture`."""
        run = self._run(run_id)
        return _picture(run, run.preview(_stage(stage), step))

    def reconstructions(self, run_id: str) -> bytes:
        """Return the tokenizer's originals beside reconstructions; errors as in `_picture`."""
        run = self._run(run_id)
        return _picture(run, run.path / "reconstructions.png")

    def sweep(self, run_id: str) -> dict[str, Any]:
        """Return the table of a sweep, and which of its scores are better when higher or lower.

        Raises:
            RequestError: if there is none.
            UserError: if it is damaged.
        """
        run = self._run(run_id)
        rows = _sweep_rows(run)
        settings = [name for name in self._setting_names if name in rows[0]]
        files = (strip_file(_sweep_folder(run), self._setting(row)) for row in rows)
        strips = [_time_of(run, file) != 0 for file in files]
        better = {name: "higher" if of is max else "lower" for name, of in BETTER.items()}
        return {"settings": settings, "rows": rows, "strips": strips, "better": better}

    def strip(self, run_id: str, number: int) -> bytes:
        """Return the images of a row of a sweep; errors as in `sweep`."""
        run = self._run(run_id)
        rows = _sweep_rows(run)
        if not 0 <= number < len(rows):
            raise RequestError("the sweep has no such row", 404)
        return _picture(run, strip_file(_sweep_folder(run), self._setting(rows[number])))

    def _tail(self, path: Path, status: os.stat_result) -> _Tail:
        """Return what is read of a file; nothing if it was replaced, as a resumed training does."""
        version = status.st_ino % 2**53  # a number that JavaScript can hold
        with self._lock:
            tail = self._tails.get(path)
            if tail is None or tail.version != version or status.st_size < tail.offset:
                tail = self._tails[path] = _Tail(version)
            return tail

    def _runs(self) -> dict[str, RunFiles]:
        return {id_of(path): RunFiles(path) for path in list(self._find())[:MOST_RUNS]}

    def _run(self, run_id: str) -> RunFiles:
        run = self._runs().get(run_id)
        if run is None:
            raise RequestError("there is no such run any more", 404)
        return run

    def _setting(self, row: Mapping[str, str]) -> dict[str, str]:
        """Return the values of a row's sampling settings, in their order."""
        return {name: row[name] for name in self._setting_names if name in row}

    def _describe(self, run_id: str, run: RunFiles) -> dict[str, Any]:
        """Say what a run has to show, and how many seconds ago it wrote numbers."""
        found = {stage: status_inside(run.path, run.metrics(stage)) for stage in STAGES}
        changed = {stage: status.st_mtime for stage, status in found.items() if status}
        newest = max(changed, key=lambda stage: changed[stage], default=STAGES[0])
        return {
            "id": run_id,
            "name": run.path.name,
            "stages": list(changed),
            "age": max(0.0, time.time() - changed.get(newest, 0.0)),
            "trains": _is_held(run),
            **_progress(run, newest),
            "previews": {stage: _steps(run, stage) for stage in changed},
            # When they were written, 0 if they were not.
            "reconstructions": _time_of(run, run.path / "reconstructions.png"),
            "sweep": _time_of(run, _sweep_folder(run) / "sweep.csv"),
        }


def _stage(name: str) -> str:
    if name not in STAGES:
        raise RequestError(f"a stage is one of {', '.join(STAGES)}", 404)
    return name


def _time_of(run: RunFiles, path: Path) -> float:
    """Return when a file of a run was written; 0 if it is missing or not a regular file."""
    status = status_inside(run.path, path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return 0.0
    return status.st_mtime or 1.0  # archives may say 0


def _sweep_folder(run: RunFiles) -> Path:
    return run.path / "sweep"


def _sweep_rows(run: RunFiles) -> list[dict[str, str]]:
    """Read the table of a run's sweep; errors as in `RunReader.sweep`."""
    file = _sweep_folder(run) / "sweep.csv"
    with _there("sweep"):
        rows = rows_of(file, read_inside(run.path, file, MOST_TABLE))
        if not rows:
            raise FileNotFoundError
    return rows


def _steps(run: RunFiles, stage: str) -> list[int]:
    """List the steps of which there is a preview."""
    steps = []
    for name in names_inside(run.path, run.samples):
        text = name.removeprefix(f"{stage}_step_").removesuffix(".png")
        if text.isascii() and text.isdecimal() and name == run.preview(stage, int(text)).name:
            steps.append(int(text))
    return sorted(step for step in steps if step <= MOST_NUMBER)


def _is_held(run: RunFiles) -> bool | None:
    """Whether a training of this machine holds the lock of a run; None if the system hides locks.

    Looking at the kernel's list takes no lock, which could get in the way of a training.
    """
    status = status_inside(run.path, run.lock)
    try:
        held = Path("/proc/locks").read_text()
    except OSError:
        return None
    return status is not None and f":{status.st_ino} " in held


def _progress(run: RunFiles, stage: str) -> dict[str, float | None]:
    """Say which share of a stage is done, and the seconds that the rest takes; None if unknown."""
    try:
        with open_inside(run.path, run.metrics(stage)) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_END))
            rows = [read_line(line, is_row) for line in file.read(MOST_END).splitlines()]
    except OSError:
        rows = []
    for row in map(finite, filter(None, reversed(rows))):
        progress, speed = row.get("train/progress", 0), row.get("train/images_per_second", 0)
        if progress > 0 and speed > 0:
            left = row.get("train/images", 0) * (1 / progress - 1) / speed
            return {"progress": progress, "left": left}
    return {"progress": None, "left": None}


def _picture(run: RunFiles, path: Path) -> bytes:
    """Read a picture.

    Raises:
        RequestError: if it is not there.
    """
    with _there("such picture"):
        return read_inside(run.path, path, MOST_PICTURE)


@contextmanager
def _there(what: str) -> Iterator[None]:
    """Say of an OSError of the block that the run has no such thing."""
    try:
        yield
    except OSError as error:
        raise RequestError(f"this run has no {what}", 404) from error
