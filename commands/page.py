"""--page: a page in the browser that generates, edits and shows what runs have written.

page/ does not know the options. This file describes the form for it, reads the form's values, and
writes the command line that makes an image again.
"""

import importlib
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from commands.flags import changed, option_values, options_of, with_flags
from commands.kept_options import read_value
from commands.kinds import Number
from commands.model_source import data_of, find_model, is_in_run
from commands.options import OPTIONS, Many
from commands.parser import CommandLine
from commands.recipe import command_lines, command_text, read_command, same_again
from commands.request import Request
from data.token_cache import find_tokens
from models.sampling import SamplingConfig
from page.catalog import Catalog, OpenModel
from page.form import CommandForm, Field
from page.runs import RunReader
from page.safety import is_loopback, new_token
from training.run_folder import RunFiles, RunFolder
from training.runs import STAGES, read_config
from utils.errors import UserError

log = logging.getLogger(__name__)

NEEDED = ("starlette", "uvicorn")
# One of them makes a folder a run.
RUN_FILES = ("config.json", *(RunFiles(Path()).metrics(stage).name for stage in STAGES))


@dataclass(frozen=True)
class PageJob:
    """A page to serve."""

    host: str
    port: int
    form: CommandForm
    models: Callable[[], list[Path]]
    load: Callable[[Path], OpenModel]
    runs: Callable[[], list[Path]]


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
        UserError: if the model of --checkpoint cannot be opened.
    """
    line, output = request.line, Path(request.line.output_dir)
    if line.checkpoint:
        find_model(request)  # refuses what cannot be opened

    def models() -> list[Path]:
        return [Path(line.checkpoint)] if line.checkpoint else sorted(output.glob("*/MaskGIT_*.pt"))

    def runs() -> list[Path]:
        found = {file.parent for name in RUN_FILES for file in output.glob(f"*/{name}")}
        if line.checkpoint and is_in_run(Path(line.checkpoint)):
            found.add(Path(line.checkpoint).parent)
        return sorted(found)

    return PageJob(
        host=line.host,
        port=int(line.page),
        form=_form(line),
        models=models,
        load=partial(_load, request),
        runs=runs,
    )


def run(job: PageJob) -> None:
    """Serve the page until a signal ends it.

    Raises:
        UserError: if the port cannot be opened.
    """
    # Imported only now. If its packages are missing, `check` has already said what to install.
    server, connections = map(importlib.import_module, ("page.server", "page.connections"))
    names = tuple(options_of(SamplingConfig).values())
    page = server.Page(Catalog(job.models, job.load), RunReader(job.runs, names), job.form)
    listening = connections.listen(job.host, job.port)
    token = None if is_loopback(job.host) else new_token()
    port = listening.getsockname()[1]
    host = f"[{job.host}]" if ":" in job.host else job.host
    log.info("%d models, %d runs", len(job.models()), len(job.runs()))
    log.info("open http://%s:%d/%s", host, port, f"?token={token}" if token else "")
    log.info("Ctrl-C ends it; from elsewhere: ssh -L %d:localhost:%d <this machine>", port, port)
    server.serve(page, listening, job.host, frozenset({socket.gethostname()}), token)


def _load(request: Request, path: Path) -> OpenModel:
    """Open a model as it is on disk now."""
    line = request.line.replace(checkpoint=str(path))
    if "data_dir" not in line.given:
        line = line.replace(data_dir=_data_folder(RunFolder(path.parent, "")) or line.data_dir)
    of_path = replace(request, line=line, opened={})
    source = find_model(of_path)
    data = data_of(of_path, source)
    # A click must not begin a download.
    data = replace(data, may_download=False)
    model = source.open()
    tokenizer, classes = (model.tokenizer.codes, model.tokenizer.fingerprint), model.class_names
    return OpenModel(
        path,
        model,
        validation=lambda: data.open("validation"),
        training=lambda: find_tokens(
            data.cache_folder, source.dataset, "train", tokenizer, classes
        ),
    )


def _data_folder(run: RunFolder) -> str | None:
    """Return where a run found its images; None if it does not say so."""
    try:
        stored = read_config(run)
    except UserError:
        return None
    folders = [stage["data_dir"] for stage in stored.values() if "data_dir" in stage]
    return read_value(OPTIONS["data_dir"], folders[-1]) if folders else None


def _form(line: CommandLine) -> CommandForm:
    """Describe the command line to the page; the form starts with the options given here."""
    field = partial(_field, line)
    return CommandForm(
        sampling=tuple(map(field, options_of(SamplingConfig).values())),
        series={
            "seed": field("seed"),
            "first_image": field("first_image"),
            "count": field("num_samples"),
        },
        editing={"grow": field("mask_grow"), "keep_decoded": field("no_composite")},
        labels=line.labels,
        block_size=line.batch_size,
        read=partial(_read, line),
        values=option_values,
        begins_with=lambda settings: option_values(changed(settings, line.given_values)),
        write=lambda recipe: command_lines(recipe, [*same_again(line)], Path(line.output_dir)),
        text=lambda recipe: command_text(recipe, [*same_again(line, to_share=True)]),
        read_command=partial(read_command, line),
        with_flags=with_flags,
    )


def _field(line: CommandLine, name: str) -> Field:
    """Describe an option."""
    option = OPTIONS[name]
    field = partial(Field, name, option.flag, option.help, getattr(line, name))
    if option.choices is not None:
        return field("choice", choices=option.choices)
    if option.many is Many.LIST:
        return field("numbers", length=option.length)
    if isinstance(option.kind, Number):
        low, high, above = option.kind.low, option.kind.high, option.kind.above
        return field("number", low=low, high=high, above=above, is_whole=option.kind.convert is int)
    return field("switch")


def _read(line: CommandLine, values: Mapping[str, Any], usual: SamplingConfig) -> SamplingConfig:
    """Turn values by option into sampling settings; `usual` has those that are missing.

    Raises:
        UserError: naming what is not a sampling option, or a value that the option does not accept.
    """
    names = options_of(SamplingConfig).values()
    for name in values:
        if name not in names:
            raise UserError(f"{name[:40]!r} is not a sampling option")
    read = {name: read_value(OPTIONS[name], value) for name, value in values.items()}
    return changed(usual, {**line.given_values, **read})
