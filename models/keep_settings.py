"""Writes the best settings of a sweep into the checkpoint of the model."""

from pathlib import Path

from models.best_settings import ENTRY, BestSettings
from models.open import own_model
from utils.checkpoint import contents_of, save_checkpoint
from utils.errors import UserError
from utils.torch_file import read_torch_file


def keep_best_settings(path: Path, fingerprint: str, best: BestSettings) -> None:
    """Write settings into the checkpoint of a model; everything else in it stays as it is.

    Args:
        path: a MaskGIT_*.pt of this program.
        fingerprint: that of the model that the settings are for.
        best: the settings.

    Raises:
        UserError: if the file now holds another model, is damaged or cannot be written; it is then
            as before.
    """
    stored = read_torch_file(path)
    if own_model(stored, path).fingerprint != fingerprint:
        raise UserError(
            f"{path} was replaced by another model meanwhile, so the best settings are not written "
            "into it"
        )
    contents = contents_of(stored, path, "maskgit")
    save_checkpoint(path, "maskgit", {**contents, ENTRY: best.entry()})
