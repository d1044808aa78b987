"""The trained models that the page offers; the most recently used stay in memory."""

import hashlib
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from data.images import ImageDataset
from data.spec import AS_IT_IS, Preparation
from data.token_set import TokenSet
from models.labels import parse_labels
from models.model import Model
from page.checks import RequestError
from page.form import CommandForm
from utils.errors import UserError

MOST_OPEN = 2  # models in memory
MOST_TRIES = 3  # to read a file that is replaced meanwhile
REPLACED = "the file of this model has been replaced"


@dataclass(frozen=True)
class OpenModel:
    """A model in memory.

    Attributes:
        validation_images: opens the validation split of its dataset, at its size.
        training_tokens: opens those that it was trained on; None if they are not here.
        shown: how its images are shown, and so a photo too.
        version: of the file; the catalog knows it.
    """

    path: Path
    model: Model
    validation_images: Callable[[], ImageDataset]
    training_tokens: Callable[[], TokenSet | None]
    shown: Preparation = AS_IT_IS
    version: str = ""

    def describe(self, form: CommandForm) -> dict[str, Any]:
        """Return what the page shows of the model, and what its form begins with."""
        model, tokenizer = self.model, self.model.tokenizer
        names, best, chosen, note = model.class_names, model.best, [], ""
        has_null = model.transformer.config.null_class is not None
        try:
            chosen = parse_labels(form.labels, names, has_null) if form.labels else []
        except UserError as error:  # they may be those of another model
            note = form.with_flags(f"{error}; choose its classes here")
        return {
            **names_of(self.path),
            "dataset": model.dataset,
            "classes": list(names),
            "chosen": chosen,
            "note": note,
            "size": tokenizer.image_size,
            "channels": tokenizer.channels,
            "grid": tokenizer.grid,
            "codes": tokenizer.codebook_size,
            "has_null": has_null,
            "background": self.shown.background,
            "fingerprint": model.fingerprint,
            "version": self.version,
            "best": None if best is None else form.values(best.sampling),
            "usual": form.begins_with(model.usual),
        }


class ModelFile(NamedTuple):
    """A regular file at some time."""

    path: Path
    inode: int
    changed: int  # in nanoseconds
    size: int

    @property
    def id(self) -> str:
        """What requests call the file."""
        return id_of(self.path)

    @property
    def version(self) -> str:
        """A text that is another one when the file has been replaced."""
        return f"{self.inode:x}-{self.changed:x}-{self.size:x}"


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
        self._open: dict[ModelFile, OpenModel] = {}

    def files(self) -> list[ModelFile]:
        """Return the files of all models, the newest first.

        Anything but a regular file is left out: opening a pipe could take forever.
        """
        files = [file for file in map(_regular_file, self._find()) if file is not None]
        return sorted(files, key=lambda file: -file.changed)

    def open(self, model_id: str, version: str = "") -> OpenModel:
        """Open a model, or take it from memory if its file is still the same.

        Args:
            model_id: the id of its file.
            version: the version that the browser has described; empty for any.

        Raises:
            RequestError: if there is no such model, or its file has another version now (409).
            UserError: if its file cannot be opened.
        """
        file = next((file for file in self.files() if file.id == model_id), None)
        if file is None:
            raise RequestError("this model is gone; choose another one", 404)
        opened = self._open.pop(file, None)
        if opened is None:
            file, opened = self._loaded(file)
        # Drop older versions of the file, and then the least recently used model.
        kept = {other: value for other, value in self._open.items() if other.path != file.path}
        self._open = dict([*kept.items(), (file, opened)][-MOST_OPEN:])
        if version not in ("", opened.version):
            raise RequestError(REPLACED, 409)
        return opened

    def _loaded(self, file: ModelFile) -> tuple[ModelFile, OpenModel]:
        """Open a file; errors as in `open`.

        Returns:
            The file as it was read, and its model.
        """
        for _ in range(MOST_TRIES):
            opened = self._load(file.path)
            now = _regular_file(file.path)
            if now == file:
                return file, replace(opened, version=file.version)
            file = now or file
        raise RequestError(REPLACED, 409)


def names_of(path: Path) -> dict[str, str]:
    """Return what the page calls the file of a model."""
    return {"id": id_of(path), "run": path.parent.name, "name": path.stem}


def id_of(path: Path) -> str:
    """Make an id for a file or folder that does not reveal its path."""
    return hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()[:12]


def _regular_file(path: Path) -> ModelFile | None:
    """Look at a file; None if it is gone, or not a regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    is_regular = stat.S_ISREG(status.st_mode)
    found = ModelFile(path, status.st_ino, status.st_mtime_ns, status.st_size)
    return found if is_regular else None
