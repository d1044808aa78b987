"""The table of a sweep: scores and a strip of images for each combination of sampling settings.

Its folder holds `sweep.csv`, `sweep.png` (the contact sheet), `protocol.json` (what all rows share)
and `strips/`. The values of all sampling settings are the key of a row. So a sweep can continue a
table, or add other combinations, as long as the protocol is the same.
"""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files import make_folder, read_json, write_json_atomic, write_text_atomic
from utils.pictures import save_png, save_strips, tile

STRIP_IMAGES = 10  # images of a strip


class SweepTable:
    """The rows of a sweep; the files are written again after each new row.

    Attributes:
        csv: file of the table.
        sheet: file of the contact sheet.
        rows: each with its texts by the names of the columns.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any]) -> None:
        """Open the table in a folder, with the rows that are there.

        Args:
            folder: made if needed.
            protocol: plain data that is the same for all rows.

        Raises:
            UserError: if the rows there have another protocol, or are damaged.
        """
        self.csv, self.sheet = folder / "sweep.csv", folder / "sweep.png"
        self._strips = make_folder(folder / "strips")
        stored = read_json(folder / "protocol.json") if self.csv.is_file() else protocol
        differing = [name for name in protocol if stored.get(name) != protocol[name]]
        if differing:
            raise UserError(
                f"{self.csv} was measured with another {differing[0]} "
                f"({stored.get(differing[0])}, now {protocol[differing[0]]}); move {folder} away "
                "or choose another `run_name`"
            )
        write_json_atomic(folder / "protocol.json", protocol)
        self.rows = self._read()

    def find(self, setting: Mapping[str, Any]) -> dict[str, str] | None:
        """Find the row of a setting, the values of all sampling settings by name; None without."""
        wanted = {name: _text(value) for name, value in setting.items()}
        return next((row for row in self.rows if wanted.items() <= row.items()), None)

    def keep_strip(
        self, setting: Mapping[str, Any], blocks: Iterator[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pass blocks of images on, and keep the first images for the contact sheet.

        Args:
            setting: the one that the images were sampled with.
            blocks: images uint8 (B, H, W, C) and labels.
        """
        path = self._strip(setting)
        for number, (images, labels) in enumerate(blocks):
            if number == 0:
                first = images[:STRIP_IMAGES]
                save_png(path, tile(first, columns=len(first), padding=1))
            yield images, labels

    def add(self, setting: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Write a row and the contact sheet.

        Args:
            setting: the values of all sampling settings by name.
            scores: numbers by name, the same names for each row.
        """
        settings = {name: _text(value) for name, value in setting.items()}
        self.rows.append(settings | {name: f"{value:.6g}" for name, value in scores.items()})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text_atomic(self.csv, text.getvalue())
        self._write_sheet(list(setting))

    def show(self, setting: Mapping[str, Any]) -> str:
        """Format the row of a setting, for people."""
        return _line(self.find(setting) or {})

    def best(self, score: str = "fid") -> str:
        """Format the row with the lowest score, for people."""
        return _line(min(self.rows, key=lambda row: float(row[score])))

    def _read(self) -> list[dict[str, str]]:
        """Read the rows of the file; none if it is not there."""
        if not self.csv.is_file():
            return []
        try:
            with self.csv.open(newline="") as file:
                rows = list(csv.DictReader(file, strict=True))
            for row in rows:
                float(row["fid"])
                if None in row or None in row.values():
                    raise ValueError("a row has another length")
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise UserError(
                f"{self.csv} is damaged ({error}); delete it and it is made anew"
            ) from error
        return rows

    def _strip(self, setting: Mapping[str, Any]) -> Path:
        """Name the file with a setting's strip of images."""
        key = "\n".join(f"{name}={_text(value)}" for name, value in setting.items())
        return self._strips / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.png"

    def _write_sheet(self, names: list[str]) -> None:
        """Draw the contact sheet: a strip for each row, titled with what differs and the FID."""
        varied = [name for name in names if len({row[name] for row in self.rows}) > 1]
        strips = []
        for row in self.rows:
            path = self._strip({name: row[name] for name in names})
            title = "  ".join(f"{name}={row[name]}" for name in varied)
            if path.is_file():
                strips.append((f"{title}  fid={float(row['fid']):.4g}".strip(), path))
        save_strips(self.sheet, strips)


def _text(value: Any) -> str:
    """Format a value as the table holds it."""
    return "" if value is None else str(value)


def _line(row: Mapping[str, str]) -> str:
    """Format a row on one line, without its empty cells."""
    return " ".join(f"{name}={value}" for name, value in row.items() if value)
