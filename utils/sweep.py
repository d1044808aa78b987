"""A grid over sampling options on one checkpoint: a row of scores and a strip of images for each.

Everything lies in one folder: `sweep.csv`, `sweep.png` (the contact sheet), `protocol.json` (what
all rows have in common) and `strips/`. A row's key is the value of every sampling option, so the
table can be continued, and extended by another grid, as long as the protocol is the same.
"""

import csv
import difflib
import hashlib
import io
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files import make_folder, read_json, write_json_atomic, write_text_atomic

STRIP_IMAGES = 10


def parse_grid(
    text: str, names: Collection[str], parse: Callable[[str, str], Any]
) -> list[dict[str, Any]]:
    """Read `step=4,8 cfg_w=0,3`: every combination, the last option changing fastest.

    Args:
        text: options with their values, separated by spaces.
        names: the options that may be swept over.
        parse: (option, text of one value) -> value.

    Raises:
        UserError: if the text has another form, or an option is unknown or named twice.
    """
    axes: dict[str, list[Any]] = {}
    for part in text.split():
        spelled, equals, values = part.partition("=")
        name = spelled.lstrip("-").replace("-", "_")
        if not equals or not all(values.split(",")):
            raise UserError(f'--sweep {part!r}: needs option=value,value, as in "step=4,8 cfg_w=0"')
        if name not in names:
            near = difflib.get_close_matches(name, names, cutoff=0.4) or sorted(names)
            raise UserError(
                f"--sweep {spelled!r} is no sampling option; did you mean {' or '.join(near)}?"
            )
        if name in axes:
            raise UserError(f"--sweep names {name} twice; give all its values at once")
        axes[name] = list(dict.fromkeys(parse(name, value) for value in values.split(",")))
    if not axes:
        raise UserError('--sweep needs options with values, as in "step=4,8,16 cfg_w=0,1,3"')
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


class SweepTable:
    """The rows of a sweep, on the disk after each one."""

    def __init__(self, folder: Path, protocol: Mapping[str, Any]) -> None:
        """Open the table in a folder, with the rows that are there.

        Args:
            folder: made if needed.
            protocol: plain data that all rows share.

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
                "or choose another --run_name"
            )
        write_json_atomic(folder / "protocol.json", protocol)
        self.rows = self._read()

    def find(self, setting: Mapping[str, Any]) -> dict[str, str] | None:
        """The row of a setting (the values of all sampling options), if it is there."""
        wanted = {name: _text(value) for name, value in setting.items()}
        return next((row for row in self.rows if wanted.items() <= row.items()), None)

    def keep_strip(
        self, setting: Mapping[str, Any], blocks: Iterator[tuple[np.ndarray, np.ndarray]]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pass images on, and keep the first ones for the contact sheet."""
        from utils.images import save_png, tile

        path = self._strip(setting)
        for number, (images, labels) in enumerate(blocks):
            if number == 0:
                first = images[:STRIP_IMAGES]
                save_png(path, tile(first, columns=len(first), padding=1))
            yield images, labels

    def add(self, setting: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """Write a row and the contact sheet.

        Args:
            setting: the values of all sampling options.
            scores: every row has the same names.
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
        """The row of a setting, for people."""
        return _line(self.find(setting) or {})

    def best(self, score: str = "fid") -> str:
        """The row with the lowest score, for people."""
        return _line(min(self.rows, key=lambda row: float(row[score])))

    def _read(self) -> list[dict[str, str]]:
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
        key = "\n".join(f"{name}={_text(value)}" for name, value in setting.items())
        return self._strips / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.png"

    def _write_sheet(self, names: list[str]) -> None:
        """One strip a row, under the options that differ between rows and the row's FID."""
        from utils.images import save_strips

        varied = [name for name in names if len({row[name] for row in self.rows}) > 1]
        strips = []
        for row in self.rows:
            path = self._strip({name: row[name] for name in names})
            title = "  ".join(f"{name}={row[name]}" for name in varied)
            if path.is_file():
                strips.append((f"{title}  fid={float(row['fid']):.4g}".strip(), path))
        save_strips(self.sheet, strips)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _line(row: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in row.items() if value)
