"""Where a mode gets its model from: a file, or an earlier mode of the same command.

A source has the config of a network from the start. Its `open` returns the network itself, which
an earlier mode of the command may have to train first.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from commands.flags import given_fields
from commands.options import OPTIONS
from commands.request import Data, Request
from commands.tokenizer_source import (
    TokenizerSource,
    find_tokenizer,
    read_tokenizer,
    tokenizer_file,
)
from data.datasets import DATASETS
from data.open_dataset import known_classes
from data.spec import LOOK
from models.foreign_file import ForeignFile
from models.model import BestSettings, Model
from models.open import family_of_file, foreign_model, load_tokenizer, own_model
from models.registry import FAMILIES
from models.sampling import SamplingConfig
from models.shapes import TokenizerShape, TransformerShape
from training.run_folder import RunFiles, RunFolder
from training.run_record import read_config
from utils.checkpoint import is_own_format, read_checkpoint
from utils.errors import UserError
from utils.hub import hub_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """A trained model that exists, or that --train or --distill will make.

    Attributes:
        class_names: names of the classes, in the order of the labels.
        open: returns it, on the device.
        best: the settings that a sweep found best for it; None without a sweep.
        usual: the settings for sampling that it brings; None for the defaults of the program.
        look: as that of a `Model`.
        keeps_settings: whether its file may be rewritten with the best settings of a sweep.
    """

    path: Path
    run: RunFolder
    dataset: str
    class_names: Sequence[str]
    shape: TransformerShape
    tokenizer: TokenizerShape
    open: Callable[[], Model]
    best: BestSettings | None = None
    usual: SamplingConfig | None = None
    keeps_settings: bool = True
    look: Mapping[str, str] = field(default_factory=dict)


def data_of(request: Request, model: ModelSource) -> Data:
    """Return the dataset of a model, found and shown as in the training unless options differ.

    Raises:
        UserError: if the file of the model has a value that an option does not accept, or --size
            differs from the size of its images.
    """
    line = request.line
    kept = {name: model.look[name] for name in LOOK if name in model.look}
    if "data_dir" not in line.given:
        kept |= _data_folder(RunFiles(model.path.parent))
    values = {n: OPTIONS[n].read_plain(value) for n, value in kept.items() if n not in line.given}
    as_trained = replace(request, line=line.replace(**values))
    return as_trained.data(model.dataset, model.tokenizer.image_size)


def _data_folder(run: RunFiles) -> dict[str, str]:
    """Return where the training of a model found its images, if that folder is here."""
    try:
        stored = read_config(run)
    except UserError:
        return {}
    settings = stored.get("maskgit") or stored.get("student") or {}
    folder = Path(str(settings.get("data_dir", "")))
    is_here = folder.is_absolute() and os.path.isdir(folder)  # noqa: PTH112 (Path's may raise)
    return {"data_dir": str(folder)} if is_here else {}


def find_tokenizer_to_measure(request: Request) -> tuple[TokenizerSource, Data, RunFolder]:
    """Find the tokenizer in --checkpoint, else that of `find_tokenizer`.

    Returns:
        The tokenizer, its dataset, and the run folder for results.
    """
    if request.line.checkpoint:
        source = find_model(request)
        tokenizer = TokenizerSource(source.tokenizer, lambda: source.open().tokenizer)
        return tokenizer, data_of(request, source), source.run
    tokenizer = find_tokenizer(request)
    return tokenizer, request.data(size=tokenizer.shape.image_size), request.run()


def find_model(request: Request) -> ModelSource:
    """Find the model: from an earlier mode, from --checkpoint, or from the run folder.

    All modes of a command get the same one; only --distill turns its model into another.

    Raises:
        UserError: if there is none, or an option contradicts it.
    """
    line = request.line
    path = Path(line.checkpoint or request.run().model)
    if "distill" in request.jobs:
        path = request.jobs["distill"].run.model
        find = _coming_student
    elif "train" in request.jobs:
        path = request.jobs["train"].run.model
        find = _coming_model
    elif line.checkpoint or path.is_file():
        find = _model_of_file
    else:
        raise UserError(f"no trained model at {path}: {_model_hint(request.run())}")
    if path not in request.opened:
        request.opened[path] = find(request, path)
    source: ModelSource = request.opened[path]
    return source


def _coming_model(request: Request, path: Path) -> ModelSource:
    """Describe the model that --train will make, by its Job."""
    job = request.jobs["train"]
    return ModelSource(
        path=path,
        run=job.run,
        dataset=request.line.dataset,
        class_names=job.splits.train.class_names,
        shape=job.config,
        tokenizer=job.tokenizer.shape,
        open=cache(lambda: _load_model(request, path)[0]),
    )


def _coming_student(request: Request, path: Path) -> ModelSource:
    """Describe the student that --distill will make, by its Job."""
    job = request.jobs["distill"]

    return replace(
        job.teacher,
        path=path,
        run=job.run,
        open=cache(lambda: _load_model(request, path)[0]),
        best=None,
        usual=job.sampling,
        keeps_settings=True,
    )


def _model_of_file(request: Request, path: Path) -> ModelSource:
    """Load a model that exists; errors as in `find_model`."""
    model, is_own = _load_model(request, path)
    # Its results go to its own folder, unless the options name another.
    is_elsewhere = request.line.given & {"run_name", "output_dir"} or not is_in_run(path)
    return ModelSource(
        path=path,
        run=request.run(model.dataset) if is_elsewhere else RunFolder(path.parent, model.dataset),
        dataset=model.dataset,
        class_names=model.class_names,
        shape=model.transformer.config,
        tokenizer=model.tokenizer.config,
        open=lambda: model,
        best=model.best,
        usual=None if model.usual == SamplingConfig() else model.usual,
        keeps_settings=is_own and not _is_published(path),
        look=model.look,
    )


def _load_model(request: Request, path: Path) -> tuple[Model, bool]:
    """Load a model and check it against the options; errors as in `find_model`.

    Returns:
        The model on the device, and whether this program wrote its file.
    """
    stored, machine = read_checkpoint(path), request.machine
    is_own = is_own_format(stored)
    load = _load_own if is_own else _load_foreign
    model = load(request, stored, path).to(machine.device, machine.precision)
    model.cuda_graphs.is_on &= machine.cuda_graphs
    if machine.compiled:
        model.compile()
    return model, is_own


def _load_own(request: Request, stored: object, path: Path) -> Model:
    """Load a model of this program on the CPU; errors as in `find_model`."""
    line = request.line
    given = {kind: given_fields(kind, line) for kind in FAMILIES}
    model = own_model(stored, path, given)
    # The options must agree with the checkpoint.
    if model.dataset not in DATASETS:
        raise UserError(f"{path} was trained on {model.dataset!r}, an unknown dataset")
    if "dataset" in line.given and line.dataset != model.dataset:
        raise UserError(f"{path} was trained on {model.dataset}, not {line.dataset}")
    request.data(model.dataset, model.tokenizer.image_size)  # refuses another --size
    request.check_n_classes(model.transformer.config.num_classes, path)
    return _with_named_tokenizer(request, model, path) if line.checkpoint_vae else model


def _with_named_tokenizer(request: Request, model: Model, path: Path) -> Model:
    """Let a model use the tokenizer of --checkpoint_vae, whose decoder may be another one.

    Raises:
        UserError: if it has other tokens than the tokenizer in the model's checkpoint.
    """
    line = request.line
    data = request.data(model.dataset, model.tokenizer.image_size)
    named = load_tokenizer(
        line.checkpoint_vae, data.size, data.spec.channels, given_fields("tokenizer", line)
    )
    own = model.tokenizer
    if (named.encoder_fingerprint, named.grid) != (own.encoder_fingerprint, own.grid):
        raise UserError(
            f"{line.checkpoint_vae} is not the tokenizer that {path} was trained with; the "
            "checkpoint holds its own, so leave --checkpoint_vae out"
        )
    if named.fingerprint != own.fingerprint:
        log.info("%s: the decoder of %s, with the same tokens", path, line.checkpoint_vae)
    return replace(model, tokenizer=named)


def _load_foreign(request: Request, stored: object, path: Path) -> Model:
    """Load the transformer of another program; its dataset and tokenizer come from the options.

    Raises:
        UserError: if they are missing, or do not fit the transformer.
    """
    line = request.line
    family_of_file("transformer", ForeignFile(stored, path))
    if "dataset" not in line.given:
        raise UserError(
            f"{path} does not name its dataset and tokenizer: give them as --dataset and "
            "--checkpoint_vae"
        )
    spec = request.data().spec
    tokenizer = read_tokenizer(request, tokenizer_file(request))
    # The other program may have used a different number of classes than the dataset has.
    num_classes = line.n_classes if "n_classes" in line.given else spec.num_classes
    model = foreign_model(
        stored, path, tokenizer, spec.name, known_classes(spec), num_classes,
        given_fields("transformer", line),
    )  # fmt: skip
    names, trained = model.class_names, spec.num_classes
    if trained is not None and trained < len(names):
        log.warning(
            "%s has %d classes and %s %d: the others were not trained; choose with --labels 0-%d",
            path, len(names), spec.name, trained, trained - 1,
        )  # fmt: skip
    return model


def is_in_run(path: Path) -> bool:
    """Whether a checkpoint is in the folder of a run, and not published."""
    return RunFiles(path.parent).config.is_file() and not _is_published(path)


def _is_published(path: Path) -> bool:
    """Whether a checkpoint is in the cache of the hub, or in a folder of --export."""
    return path.suffix == ".safetensors" or hub_name(path) is not None


def _model_hint(run: RunFolder) -> str:
    """Return what the user can do if the run folder has no model of the dataset."""
    others = sorted(path for path in run.path.glob("MaskGIT_*.pt") if path.is_file())
    if others:
        dataset = re.sub("_(best|step_[0-9]+)$", "", others[0].stem.removeprefix("MaskGIT_"))
        option = f"--dataset {dataset}" if dataset != run.dataset else f"--checkpoint {others[0]}"
        return f"the folder has {others[0].name}, so give {option}"
    if run.resume_state("maskgit").is_file():
        return "its training has not written a checkpoint yet; --train --resume continues it"
    if run.resume_state("student").is_file():
        return "its distillation has not written a checkpoint yet; --distill --resume continues it"
    return "train one with --train, or name --checkpoint"
