"""The trained models that the page offers; the most recently used stay in memory."""

import hashlib
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.images import ImageDataset
from models.labels import labels_in_turn
from models.model import Model
from page.checks import RequestError
from page.form import CommandForm

MOST_OPEN = 2  # models in memory

Version = tuple[Path, int, int]


@dataclass(frozen=True)
class OpenModel:
    """A model in memory.

    Attributes:
        path: its file.
        model: the model, on the device.
        validation: opens the validation split of its dataset, at its size.
    """

    path: Path
    model: Model
    validation: Callable[[], ImageDataset]

    def describe(self, form: CommandForm) -> dict[str, Any]:
        """Return what the page shows of the model, and what its form begins with."""
        model, tokenizer = self.model, self.model.tokenizer
        names, best, labels = model.class_names, model.best, form.labels
        has_null = model.transformer.config.null_class is not None
        return {
            "dataset": model.dataset,
            "classes": list(names),
            "chosen": labels_in_turn(labels, names, [], None, has_null=has_null) if labels else [],
            "size": tokenizer.image_size,
            "channels": tokenizer.channels,
            "grid": tokenizer.grid,
            "codes": tokenizer.codebook_size,
            "has_null": has_null,
            "fingerprint": model.fingerprint,
            "best": None if best is None else form.values(best.sampling),
            "usual": form.begins_with(model.usual),
        }


class Catalog:
    """The models by their ids; all but `files` is for the thread that owns the networks."""

    def __init__(
        self, find: Callable[[], Sequence[Path]], load: Callable[[Path], OpenModel]
    ) -> None:
        """Make a catalog.

        Args:
            find: lists the files of models.
            load: opens a file; raises UserError if that is not possible.
        """
        self._find, self._load = find, load
        self._open: dict[Version, OpenModel] = {}

    def files(self) -> dict[str, Path]:
        """Return the file of every model by its id, the newest first.

        Anything but a regular file is left out: opening a pipe could take forever.
        """
        versions = [version for version in map(_version, self._find()) if version is not None]
        newest_first = sorted(versions, key=lambda version: -version[1])
        return {id_of(path): path for path, _, _ in newest_first}

    def open(self, model_id: str) -> OpenModel:
        """Open a model, or take it from memory if its file is still the same.

        Raises:
            RequestError: if there is no such model.
            UserError: if its file cannot be opened.
        """
        path = self.files().get(model_id)
        if path is None:
            raise RequestError("there is no such model any more; reload the page", 404)
        version = _version(path) or (path, 0, 0)
        opened = self._open.pop(version, None) or self._load(path)
        # Drop older versions of the file, and then the least recently used model.
        kept = {other: value for other, value in self._open.items() if other[0] != path}
        self._open = dict(list(kept.items())[1 - MOST_OPEN :] if MOST_OPEN > 1 else {})
        self._open[version] = opened
        return opened


def id_of(path: Path) -> str:
    """Make an id for a file or folder that does not reveal its path."""
    return hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()[:12]


def _version(path: Path) -> Version | None:
    """Identify the version of a file; None if it is gone, or not a regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (path, status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None
