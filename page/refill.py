"""Fills the form from a picture that says how it was made."""

from pathlib import Path
from typing import Any

from models.labels import classes_in_turn, in_turn, labels_in_turn
from page.catalog import Catalog, OpenModel
from page.checks import RequestError
from page.form import COMMAND, MODEL, CommandForm, ReadCommand
from page.reading import MOST_IMAGES
from utils.pictures import png_texts

MOST_TRIED = 8  # models that are opened to find the one of a picture


def refill(data: bytes, chosen: str, catalog: Catalog, form: CommandForm) -> dict[str, Any] | None:
    """Return what the form must hold to make a picture again; None if it does not say how.

    Args:
        data: a file of any kind.
        chosen: the id of the model that the tab shows.
        catalog: the models.
        form: the command line.

    Raises:
        UserError: if its command is not one that the page can run, or its model is not here.
    """
    texts = png_texts(data)
    if COMMAND not in texts:
        return None
    made = form.read_command(texts[COMMAND])
    model_id, opened = _model_of(made, texts.get(MODEL, ""), chosen, catalog)
    model, count = opened.model, min(made.count, MOST_IMAGES, form.block_size)
    has_null = model.transformer.config.null_class is not None
    everything = classes_in_turn(len(model.class_names), made.first_image)
    labels = labels_in_turn(made.labels, model.class_names, everything, count, has_null)
    notes = []
    if count < made.count:
        notes.append(f"the first {count} of {made.count} images, equal up to rounding")
    if made.other:
        notes.append(f"it was made with {made.other}")
    return {
        "model": model_id,
        "labels": in_turn(labels) if made.labels else [],
        "seed": str(made.seed),
        "first_image": str(made.first_image),
        "count": count,
        "sampling": {**form.values(model.usual), **made.sampling},
        "note": "; ".join(notes),
    }


def _model_of(
    made: ReadCommand, fingerprint: str, chosen: str, catalog: Catalog
) -> tuple[str, OpenModel]:
    """Find the model of a picture by its fingerprint; errors as in `refill`."""

    def likeness(path: Path) -> int:
        """Count the names at the end of the path that are those in the command."""
        pairs = zip(reversed(path.parts), reversed(made.model.parts), strict=False)
        return next((n for n, (one, other) in enumerate(pairs) if one != other), 99)

    ids = {file.id: likeness(file.path) for file in catalog.files()}
    likely = sorted(ids, key=lambda one: (one != chosen, -ids[one]))
    for model_id in [one for one in likely if one == chosen or ids[one]][:MOST_TRIED]:
        opened = catalog.open(model_id)
        if opened.model.fingerprint == fingerprint:
            return model_id, opened
    raise RequestError(
        f"the model of this picture, {made.model}, is not here, or it was trained again: none has "
        f"the fingerprint {fingerprint[:16]}",
        404,
    )
