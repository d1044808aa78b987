"""--export: write the model as a folder for the hub, or the transformer for another program."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.generation import changed_options, describe_model
from commands.model_source import ModelSource, find_model
from commands.parser import CommandLine
from commands.request import Request
from data.datasets import OWN_IMAGES
from metrics.report import report
from models.family import TokenizerNetwork, Transformer
from models.model import Model
from models.open import family_of
from models.sampling import SamplingConfig
from utils.checkpoint import save_folder, torch_save
from utils.errors import UserError, counted, failures_of
from utils.files import atomic_write, check_place, make_folder, temporary_folder, write_text_atomic
from utils.not_a_checkpoint import ENDINGS
from utils.progress import log_written
from utils.size import size_text
from utils.torch_file import read_json
from utils.version import VERSION
from utils.weights import count_parameters

log = logging.getLogger(__name__)

OTHER_FORMATS = {
    ".safetensors", ".onnx", ".h5", ".hdf5", ".keras", ".tflite", ".pb", ".gguf", ".pt2",
    ".mlmodel", ".mlpackage", ".msgpack", ".pkl", ".npz", ".npy", ".json", ".zip", ".tar", ".gz",
    ".tgz",
}  # fmt: skip
"""Endings of files that are not written; any other ending belongs to the name of a folder."""

# With the header that the Hugging Face Hub reads.
CARD = """---
license: unknown  # write the license under which you publish these weights
pipeline_tag: unconditional-image-generation
tags:
- maskgit
- image-generation
{datasets}---

# MaskGIT of {name}

{facts}

```bash
python MaskGIT.py --sample --checkpoint hf:OWNER/NAME --num_samples 16{settings}
```

`OWNER/NAME` is the repository with these files; `--checkpoint FOLDER` opens them from a folder.
{scores}{licenses}"""


@dataclass(frozen=True)
class ExportJob:
    """A model to write: all of it into a folder, or its transformer into a file.

    Attributes:
        layout: turns the transformer into the contents of the file; None for a folder.
    """

    model: ModelSource
    path: Path
    layout: Callable[[Transformer], dict[str, Any]] | None


def check(line: CommandLine) -> None:
    """Refuse what exists, and a file of a format that is not written."""
    path = Path(line.export)
    if path.suffix.lower() in OTHER_FORMATS:
        raise UserError(
            f"--export {path}: name a folder, which gets a model.safetensors, or a file that ends "
            "in .pt, .pth or .bin; no other format is written"
        )
    if path.exists():
        raise UserError(f"--export {path} exists already; nothing is overwritten")
    check_place(path)


def resolve(request: Request) -> ExportJob:
    """Find the model to export.

    Raises:
        UserError: if the model is missing, or no other program can read its family.
    """
    model, name = find_model(request), request.line.export
    is_folder = not name.lower().endswith(ENDINGS)
    layout = None if is_folder else family_of(model.shape).write
    if not is_folder and layout is None:
        raise UserError(
            f"--export: no other program reads the family of {model.path}: name a folder, which "
            "this program opens again"
        )
    return ExportJob(model, Path(name), layout)


def describe(job: ExportJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    return describe_model(job.model)


def run(job: ExportJob) -> None:
    """Write the folder, or the file in the layout of the other program."""
    model = job.model.open()
    if job.layout is None:
        _write_folder(job, model)
        log_written(job.path, "the model with its tokenizer; README.md has a line to fill in")
        return
    if model.made_for is not None:
        log.warning("this layout cannot store the settings that the student is made for")
    if job.model.shape.null_class is None:
        log.warning("this layout cannot say that the null class is untrained: use no guidance")
    with atomic_write(job.path) as file:
        torch_save(job.layout(model.transformer), file)
    log_written(job.path, "the transformer alone, without its tokenizer")


def _write_folder(job: ExportJob, model: Model) -> None:
    """Write the folder; it gets its name when it is complete."""
    parent, name = make_folder(job.path.absolute().parent), job.path.name
    with failures_of(f"--export {job.path}"), temporary_folder(parent, name) as around:
        folder = make_folder(around / name)
        save_folder(folder, "maskgit", model.contents())
        write_text_atomic(folder / "README.md", _model_card(model, _measured(job, model)))
        folder.rename(job.path)


def _measured(job: ExportJob, model: Model) -> str:
    """Return what --evaluate, or else the sweep, measured of this model; empty if nothing."""
    try:
        found = read_json(job.model.run.evaluation("samples"))
        if found["protocol"]["checkpoint"]["fingerprint"] == model.fingerprint:
            return report(found["scores"], found["protocol"])
    except (OSError, KeyError, TypeError, ValueError):  # not measured, or not written by --evaluate
        pass
    return report(model.best.scores, {"basis": "", **model.best.protocol}) if model.best else ""


def _model_card(model: Model, measured: str) -> str:
    """Write README.md; `measured` are scores of samples with their protocol, or empty."""
    is_own_set = model.dataset == OWN_IMAGES
    return CARD.format(
        datasets="" if is_own_set else f"datasets:\n- {model.dataset}\n",
        name="a folder of images" if is_own_set else model.dataset,
        facts="\n".join(_facts(model)),
        settings=" --settings best" if model.best else "",
        scores=f"\n## Scores\n\n```\n{measured}\n```\n" if measured else "",
        licenses=_licenses(model),
    )


def _facts(model: Model) -> Iterator[str]:
    """Yield the lines of a table about the networks and how they are sampled."""
    tokenizer, config = model.tokenizer, model.transformer.config
    size = f"{size_text(tokenizer.image_size)} pixels"
    yield "| | |\n| --- | --- |"
    of = counted(tokenizer.channels, "channel"), counted(config.num_classes, "class")
    yield f"| images | {size}, {', '.join(of)} |"
    yield f"| transformer | {_network(model.transformer)}, {config.seq_len} tokens |"
    yield f"| tokenizer | {_network(tokenizer.network)}, {tokenizer.codebook_size:,} codes |"
    yield f"| usual sampling | {changed_options(model.usual, SamplingConfig())} |"
    if model.best:
        yield f"| best sampling | {changed_options(model.best.sampling, model.usual)} |"
    yield f"| written by | MaskGIT {VERSION} |"


def _network(network: Transformer | TokenizerNetwork) -> str:
    """Name a network and its size."""
    return f"{network.config.family}, {count_parameters(network) / 1e6:.1f} M parameters"


def _licenses(model: Model) -> str:
    """Name the licenses of the weights that the authors of the families publish."""
    families = [
        family_of(network.config) for network in (model.transformer, model.tokenizer.network)
    ]
    lines = [f"- {family.name}: {family.license}" for family in families if family.license]
    if not lines:
        return ""
    said = "If these weights were made from those that others publish, their licenses hold too:"
    return "\n".join([f"\n## Licenses\n\n{said}\n", *lines, ""])
