"""--page: a page in the browser that generates, edits and shows what runs have written.

page/ does not know the options. This file describes the form for it, reads the form's values, and
writes the command line that makes an image again.
"""

import importlib
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from commands.flags import changed, option_values, options_of, with_flags
from commands.generation import resolve_generation
from commands.kinds import Number
from commands.model_source import data_of, find_model, is_in_run
from commands.option import Many
from commands.options import OPTIONS
from commands.parser import CommandLine
from commands.recipe import (
    COMMAND,
    MODEL,
    command_lines,
    command_texts,
    read_command,
    same_again,
)
from commands.request import Request
from data.token_cache import find_tokens
from models.labels import classes_in_turn, in_turn, labels_in_turn
from models.model import Model
from models.sampling import SamplingConfig
from page.catalog import Catalog, OpenModel
from page.checks import RequestError
from page.form import CommandForm, Field
from page.reading import MOST_IMAGES
from page.run_reader import RunReader
from page.safety import is_loopback, new_token
from training.run_folder import RunFiles
from training.run_record import STAGES
from utils.errors import UserError, counted
from utils.pictures import png_texts

log = logging.getLogger(__name__)

NEEDED = ("starlette", "uvicorn")
LOCAL = "127.0.0.1"  # where the page listens if --page names only a port
MOST_TRIED = 8  # models that are opened to find the one of a picture
# One of them makes a folder a run.
RUN_FILES = ("config.json", *(RunFiles(Path()).metrics(stage).name for stage in STAGES))


@dataclass(frozen=True)
class PageJob:
    """A page to serve."""

    host: str
    port: int
    form: CommandForm
    catalog: Catalog
    runs: RunReader


def check(line: CommandLine) -> None:
    """Refuse a --page without the packages that serve it."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(
            f"--page needs {' and '.join(missing)}: pip install -r requirements-page.txt"
        )


def resolve(request: Request) -> PageJob:
    """Find the models and runs that the page offers.

    Raises:
        UserError: if the model of --checkpoint cannot be opened, or an option does not fit it.
    """
    line, output = request.line, Path(request.line.output_dir)
    if line.checkpoint:
        # Refuse a model, settings and classes that cannot be used. --settings has no effect here.
        usual = line.replace(settings=OPTIONS["settings"].default_value)
        resolve_generation(replace(request, line=usual))

    def models() -> list[Path]:
        return [Path(line.checkpoint)] if line.checkpoint else sorted(output.glob("*/MaskGIT_*.pt"))

    def runs() -> list[Path]:
        found = {file.parent for name in RUN_FILES for file in output.glob(f"*/{name}")}
        if line.checkpoint and is_in_run(Path(line.checkpoint)):
            found.add(Path(line.checkpoint).parent)
        return sorted(found)

    catalog = Catalog(models, partial(_load, request))
    reader = RunReader(runs, tuple(options_of(SamplingConfig).values()))
    host, _, port = line.page.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or LOCAL
    return PageJob(host, int(port), _form(line), catalog, reader)


def run(job: PageJob) -> None:
    """Serve the page until a signal ends it.

    Raises:
        UserError: if the port cannot be opened.
    """
    # Imported only now. If its packages are missing, `check` has already said what to install.
    server, connections = map(importlib.import_module, ("page.server", "page.connections"))
    page = server.Page(job.catalog, job.runs, job.form)
    listening = connections.listen(job.host, job.port)
    token = None if is_loopback(job.host) else new_token()
    port = listening.getsockname()[1]
    host = f"[{job.host}]" if ":" in job.host else job.host
    models, runs = len(job.catalog.files()), len(job.runs.described())
    log.info("%s, %s", counted(models, "model"), counted(runs, "run"))
    log.info("open http://%s:%d/%s", host, port, f"?token={token}" if token else "")
    log.info("Ctrl-C ends it; from elsewhere: ssh -L %d:localhost:%d <this machine>", port, port)
    server.serve(page, listening, job.host, frozenset({socket.gethostname()}), token)


def _load(request: Request, path: Path) -> OpenModel:
    """Open a model as it is on disk now."""
    of_path = replace(request, line=request.line.replace(checkpoint=str(path)), opened={})
    source = find_model(of_path)
    data = replace(data_of(of_path, source), may_download=False)  # a click must not begin one
    model = source.open()
    encoder, classes = model.tokenizer.encoder_fingerprint, model.class_names
    return OpenModel(
        path,
        model,
        validation_images=lambda: data.open("validation"),
        training_tokens=lambda: find_tokens(
            data.cache_folder, source.dataset, "train", encoder, classes
        ),
        shown=data.preparation,
    )


def _form(line: CommandLine) -> CommandForm:
    """Describe the command line to the page; the form starts with the options given here."""
    field = partial(_field, line)
    return CommandForm(
        sampling=[field(name) for name in options_of(SamplingConfig).values()],
        series=[field("num_samples", "count"), field("seed"), field("first_image")],
        editing=[field("mask_grow", "grow"), field("no_composite", "keep_decoded")],
        labels=line.labels,
        block_size=line.batch_size,
        read=partial(_read, line),
        values=option_values,
        begins_with=lambda settings: option_values(changed(settings, line.given_values)),
        ignored=lambda settings: [options_of(SamplingConfig)[field] for field in settings.ignored],
        write=partial(command_lines, more=[*same_again(line)], output_dir=Path(line.output_dir)),
        texts=partial(command_texts, more=[*same_again(line, to_share=True)]),
        refill=partial(_refill, line),
        with_flags=with_flags,
    )


def _field(line: CommandLine, name: str, own: str | None = None) -> Field:
    """Describe an option, under the page's own name if it has one."""
    option, default = OPTIONS[name], getattr(line, name)
    field = {"name": own or name, "title": option.flag, "help": option.help, "default": default}
    if option.choices is not None:
        return {**field, "kind": "choice", "choices": option.choices}
    if option.many is Many.LIST:
        return {**field, "kind": "numbers", "length": option.length}
    if isinstance(option.kind, Number):
        bounds = {bound: getattr(option.kind, bound) for bound in ("low", "high", "above")}
        return {**field, "kind": "number", **bounds, "is_whole": option.kind.convert is int}
    return {**field, "kind": "switch"}


def _read(line: CommandLine, values: Mapping[str, Any], usual: SamplingConfig) -> SamplingConfig:
    """Turn values by option into sampling settings; `usual` has those that are missing.

    Raises:
        UserError: naming what is not a sampling option, or a value that the option does not accept.
    """
    names = options_of(SamplingConfig).values()
    for name in values:
        if name not in names:
            raise UserError(f"{name[:40]!r} is not a sampling option")
    read = {name: OPTIONS[name].read_plain(value) for name, value in values.items()}
    return changed(usual, {**line.given_values, **read})


def _refill(line: CommandLine, data: bytes, chosen: str, catalog: Catalog) -> dict[str, Any] | None:
    """Read the command in a picture back into the form, as `CommandForm.refill`."""
    texts = png_texts(data)
    if COMMAND not in texts:
        return None
    made, other = read_command(line, texts[COMMAND])
    path = Path(made.checkpoint or "")
    model_id, model = _model_of(path, texts.get(MODEL, ""), chosen, catalog)
    count = min(made.num_samples, MOST_IMAGES, line.batch_size)
    has_null = model.transformer.config.null_class is not None
    everything = classes_in_turn(len(model.class_names), made.first_image)
    labels = labels_in_turn(made.labels, model.class_names, everything, count, has_null)
    notes = []
    if count < made.num_samples:
        notes.append(f"the first {count} of {made.num_samples} images, equal up to rounding")
    if other:
        notes.append(f"it was made with {other}")
    usual = option_values(model.usual)
    return {
        "model": model_id,
        "labels": in_turn(labels) if made.labels else [],
        "seed": str(made.seed),
        "first_image": str(made.first_image),
        "count": count,
        "sampling": {**usual, **{n: v for n, v in made.given_values.items() if n in usual}},
        "note": "; ".join(notes),
    }


def _model_of(path: Path, fingerprint: str, chosen: str, catalog: Catalog) -> tuple[str, Model]:
    """Find the model of a picture by its fingerprint.

    Args:
        path: the file of the model, perhaps without its folder.
        fingerprint: of the model.
        chosen: the id of the model that the tab shows.
        catalog: the models.

    Returns:
        Its id, and the model.

    Raises:
        UserError: if it is not here.
    """

    def likeness(other: Path) -> int:
        """Count the names at the end of another path that are those in this one."""
        pairs = zip(reversed(other.parts), reversed(path.parts), strict=False)
        return next((n for n, (one, other) in enumerate(pairs) if one != other), 99)

    ids = {file.id: likeness(file.path) for file in catalog.files()}
    likely = sorted(ids, key=lambda one: (one != chosen, -ids[one]))
    for model_id in [one for one in likely if one == chosen or ids[one]][:MOST_TRIED]:
        model = catalog.open(model_id).model
        if model.fingerprint == fingerprint:
            return model_id, model
    raise RequestError(
        f"the model of this picture, {path}, is not here, or it was trained again: none has the "
        f"fingerprint {fingerprint[:16]}",
        404,
    )
