"""The table of a sweep: scores and a strip of images for each combination of sampling settings.

Its folder holds `sweep.csv`, `sweep.png` (the contact sheet), `protocol.json` (what all rows share)
and `strips/`. The values of all sampling settings are the key of a row. So a sweep can continue a
table, or add other combinations, as long as the protocol is the same. A row ends with a checksum of
its names and values. A row that does not match it is ignored, and so measured again.
"""

import csv
import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metrics.better import BETTER
from utils.errors import UserError, counted, failures_of
from utils.files import make_folder, remove_leftovers, write_csv_atomic
from utils.pictures import is_intact_png, save_png, save_strips, tile
from utils.plots import DrawingBudget
from utils.records import CHECKSUM, checksum, finite, read_record, write_record

log = logging.getLogger(__name__)

STRIP_IMAGES = 10  # images of a strip


class SweepTable:
    """The rows of a sweep; the table is written again after each new row.

    Attributes:
        rows: texts by the names of the columns, without the checksum.
    """

    def __init__(
        self, folder: Path, protocol: Mapping[str, Any], usual: Mapping[str, Any] | None = None
    ) -> None:
        """Open the table in a folder, with its existing rows.

        Args:
            folder: created if needed.
            protocol: plain data that all rows share.
            usual: the default of every setting, used for rows that were written before the setting
                existed.

        Raises:
            UserError: if the rows there have another protocol, or the protocol or all rows are
                damaged.
        """
        self._folder = folder
        self.csv, self.sheet = folder / "sweep.csv", folder / "sweep.png"
        self._budget, self._is_sheet_old = DrawingBudget(), False
        for place in (folder, make_folder(folder / "strips")):
            remove_leftovers(place)
        texts = {name: table_text(value) for name, value in (usual or {}).items()}
        self.rows = [{**texts, **row} for row in read_rows(self.csv)]
        stored = read_record(folder / "protocol.json") if self.csv.is_file() else protocol
        differing = [n for n in {**protocol, **stored} if stored.get(n) != protocol.get(n)]
        if differing:
            name = differing[0]
            raise UserError(
                f"{self.csv} was measured with other settings ({name}: {stored.get(name)}, now "
                f"{protocol.get(name)}); move {folder} away or choose another `run_name`"
            )
        write_record(folder / "protocol.json", protocol)

    def find(self, setting: Mapping[str, Any]) -> dict[str, str] | None:
        """Find the row with these values of all sampling settings by name, or None."""
        wanted = {name: table_text(value) for name, value in setting.items()}
        return next((row for row in self.rows if wanted.items() <= row.items()), None)

    def keep_strip(
        self, setting: Mapping[str, Any], blocks: Iterator[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pass blocks of images on, and keep the first images for the contact sheet.

        Args:
            setting: the values of all sampling settings of the images, by name.
            blocks: images uint8 (B, H, W, C) and labels.
        """
        path = strip_file(self._folder, setting)
        for number, (images, labels) in enumerate(blocks):
            if number == 0:
                first = images[:STRIP_IMAGES]
                save_png(path, tile(first, columns=len(first), padding=1))
            yield images, labels

    def add(self, setting: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Write a row, and the contact sheet if drawing is not too slow.

        Args:
            setting: the values of all sampling settings by name.
            scores: numbers by name, the same names for each row; a cell of one that is not finite
                is empty.
        """
        settings = {name: table_text(value) for name, value in setting.items()}
        numbers = {name: f"{value:.6g}" for name, value in finite(scores).items()}
        self.rows.append(settings | dict.fromkeys(scores, "") | numbers)
        names = [*self.rows[0]]
        rows = ([*(row.get(name, "") for name in names), checksum(row)] for row in self.rows)
        write_csv_atomic(self.csv, [[*names, CHECKSUM], *rows])
        self._is_sheet_old = True
        if self._budget.may_draw():
            self.draw_sheet(list(setting))

    def show(self, setting: Mapping[str, Any], names: Iterable[str]) -> str:
        """Format cells of the row of a setting on one line; empty ones are left out."""
        row = self.find(setting) or {}
        return " ".join(f"{name}={row[name]}" for name in names if row.get(name))

    def best(self, score: str) -> dict[str, str]:
        """Return the row with the best value of a score, a key of BETTER.

        Raises:
            UserError: if no row has a value of it.
        """
        values = [(float(row.get(score) or "nan"), row) for row in self.rows]
        measured = [(value, row) for value, row in values if math.isfinite(value)]
        if not measured:
            raise UserError(f"{self.csv} has no {score}; choose the best settings by another score")
        return BETTER[score](measured, key=lambda pair: pair[0])[1]

    def draw_sheet(self, names: list[str]) -> None:
        """Draw the contact sheet, unless it is as new as the table.

        It has a strip for each row, titled with the settings that vary and the FID.

        Args:
            names: names of all sampling settings.
        """
        if not self._is_sheet_old and _is_as_new(self.sheet, self.csv):
            return
        strips = []
        for row in self.rows:
            path = strip_file(self._folder, {name: row[name] for name in names})
            title = "  ".join(f"{name}={row[name]}" for name in varied(self.rows, names))
            if is_intact_png(path):
                fid = f"{float(row['fid']):.4g}" if row["fid"] else "not finite"
                strips.append((f"{title}  fid={fid}".strip(), path))
        if len(strips) < len(self.rows):
            log.warning("%s lacks %s", self.sheet, counted(len(self.rows) - len(strips), "strip"))
        if strips:
            with self._budget.drawing():
                save_strips(self.sheet, strips)
            self._is_sheet_old = False


def varied(settings: Sequence[Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    """Return those of the names whose value is not the same in all settings."""
    return [name for name in names if len({table_text(one[name]) for one in settings}) > 1]


def read_rows(file: Path) -> list[dict[str, str]]:
    """Read the intact rows of a `sweep.csv`; none if it does not exist.

    Raises:
        UserError: if it cannot be read, or all rows are damaged.
    """
    with failures_of(f"cannot read {file}"):
        return rows_of(file, file.read_bytes()) if file.is_file() else []


def rows_of(file: Path, content: bytes) -> list[dict[str, str]]:
    """Return the intact rows of a `sweep.csv`.

    Args:
        file: its name in messages.
        content: its bytes.

    Returns:
        The rows, texts by the names of the columns, without the checksum.

    Raises:
        UserError: if all rows are damaged.
    """
    try:
        text = content.decode("utf-8", errors="replace").replace("\r\n", "\n")
        header, *lines = text.removesuffix("\n").split("\n")
        names = _cells(header)
        rows = [row for row in (_row(names, line) for line in lines) if row]
        # Damaged rows fail one by one; if all fail, the names of the columns are wrong.
        if "fid" not in names or (lines and not rows):
            raise ValueError("no row matches its checksum")
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); delete it to measure all again") from error
    if len(rows) < len(lines):
        log.warning("%s: damaged rows, measured again: %d", file, len(lines) - len(rows))
    return rows


def strip_file(folder: Path, setting: Mapping[str, Any]) -> Path:
    """Name the file with a setting's strip of images.

    Args:
        setting: the values of all sampling settings by name.
    """
    key = "\n".join(f"{name}={table_text(value)}" for name, value in setting.items())
    return folder / "strips" / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.png"


def _is_as_new(file: Path, source: Path) -> bool:
    """Whether a file exists, and was not written before its source."""
    return file.is_file() and file.stat().st_mtime_ns >= source.stat().st_mtime_ns


def table_text(value: Any) -> str:
    """Format the value of a setting for the table."""
    if isinstance(value, tuple | list):
        return f"[{','.join(map(str, value))}]"
    return "" if value is None else str(value)


def _cells(line: str) -> list[str]:
    """Split a line of the file into cells; empty if it is damaged."""
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error:
        return []


def _row(names: list[str], line: str) -> dict[str, str] | None:
    """Read a row and remove its checksum; None if it is damaged."""
    cells = _cells(line)
    row = dict(zip(names, cells, strict=False))
    expected = row.pop(CHECKSUM, None)
    # Older tables have no checksums; their last column is the time in seconds.
    is_older = expected is None and names[-1:] == ["seconds"]
    is_intact = _is_number(row.get("fid")) if is_older else expected == checksum(row)
    return row if is_intact and len(cells) == len(names) else None


def _is_number(text: str | None) -> bool:
    """Whether a cell holds a number."""
    try:
        float(text or "")
    except ValueError:
        return False
    return True
