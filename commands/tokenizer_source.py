"""Where a mode gets its tokenizer from: a file, or --train_vae of the same command."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from commands.flags import given_fields
from commands.options import OPTIONS
from commands.request import Request
from models.open import BUNDLED, BUNDLED_FOR_COLOR, load_tokenizer
from models.shapes import TokenizerShape
from models.tokenizer import Tokenizer
from training.run_record import MADE_FROM, read_config
from training.stage import load_position
from utils.checkpoint import is_own_format, load_checkpoint, read_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import read_with_digest
from utils.size import size_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizerSource:
    """A tokenizer that exists, or that --train_vae will make.

    Attributes:
        open: returns it, on the device.
        encoder_fingerprint: that of the `Tokenizer`; None if it is unknown until it is trained.
        fingerprint: that of the `Tokenizer`; None until it is trained.
    """

    shape: TokenizerShape
    open: Callable[[], Tokenizer]
    encoder_fingerprint: str | None = None
    fingerprint: str | None = None


def find_tokenizer(request: Request) -> TokenizerSource:
    """Find the tokenizer.

    It is the one that --train_vae will make, else that of --checkpoint_vae, else the run's own,
    else the one in the model of --init, else the one bundled for the dataset, else for a color
    dataset the one for color images.

    Raises:
        UserError: if there is none, or it does not fit the options or the dataset.
    """
    job = request.jobs.get("train_vae")
    if job is not None and job.writes_tokenizer():
        load = cache(lambda: _on_device(request, job.run.tokenizer))
        return TokenizerSource(job.config, load, job.encoder_fingerprint)
    path, line = tokenizer_file(request), request.line
    tokenizer = _on_device(request, path)

    def opened() -> Tokenizer:
        if line.init and path == Path(line.init) and not line.checkpoint_vae:
            _keep_tokenizer(request, tokenizer)  # to continue the run without this file
        return tokenizer

    return TokenizerSource(
        tokenizer.config, opened, tokenizer.encoder_fingerprint, tokenizer.fingerprint
    )


def _on_device(request: Request, path: Path) -> Tokenizer:
    """Load a tokenizer, put it on the device, and compile it if --compile says so."""
    tokenizer = read_tokenizer(request, path)
    tokenizer.to(request.machine.device)
    if request.machine.compiled:
        tokenizer.compile()
    return tokenizer


def _file_to_start_from(request: Request) -> Path | None:
    """Return the file of --init if this program wrote it, and --train starts from it."""
    line = request.line
    if not line.asks_for("train") or not line.init:
        return None
    path, stored, _ = read_origin(request, line.init)
    return path if is_own_format(stored) else None


def _keep_tokenizer(request: Request, tokenizer: Tokenizer) -> None:
    """Write the run's own copy of a tokenizer, unless it has one."""
    run = request.run()
    if request.machine.processes.is_main and not run.tokenizer.exists():
        contents = {"dataset": run.dataset, "step": 0, "tokenizer": tokenizer.entry()}
        save_checkpoint(run.tokenizer, "vqgan", contents)


def tokenizer_file(request: Request) -> Path:
    """Find the file of a tokenizer that exists; errors as in `find_tokenizer`."""
    if request.line.checkpoint_vae:
        return Path(request.line.checkpoint_vae)
    run, dataset = request.run(), request.line.dataset
    own = run.tokenizer
    if own.is_file() or "vqgan" in read_config(run):  # no other one takes its place
        return own
    path = _file_to_start_from(request) or BUNDLED / own.name
    if path.is_file():
        return path
    if request.data().spec.channels == 3 and BUNDLED_FOR_COLOR.is_file():
        log.info("no tokenizer was trained for %s: the bundled one for color images", dataset)
        return BUNDLED_FOR_COLOR
    raise UserError(
        f"no tokenizer for {dataset}: train one with --train_vae (the same command with "
        "--train_vae --train does both), or name a trained VQ-GAN with --checkpoint_vae"
    )


def read_tokenizer(request: Request, path: Path) -> Tokenizer:
    """Load a tokenizer on the CPU, and check it against the options and the dataset."""
    line, data = request.line, request.data()
    given = given_fields("tokenizer", line)
    if path.parent == BUNDLED:  # it has no size of its own that the dataset should follow
        given = {**given, "image_size": size_text(data.size)}
    family = line.tokenizer if "tokenizer" in line.given else None
    try:
        tokenizer = load_tokenizer(path, data.size, data.spec.channels, given, family)
    except UserError as error:
        raise UserError(f"{error}{_other_copies(request, path)}") from error
    grid = " x ".join(map(str, tokenizer.grid))
    log.info("tokenizer %s: %d codes, %s tokens", path, tokenizer.codebook_size, grid)
    return tokenizer


def _other_copies(request: Request, path: Path) -> str:
    """Say where else there is the tokenizer of a run whose own file is missing or damaged."""
    line, run = request.line, request.run()
    is_named = "checkpoint_vae" in line.given or "maskgit" not in request.continued
    if path != run.tokenizer and is_named:
        return ""
    with suppress(UserError):
        load_checkpoint(path, "vqgan")
        return ""  # it is intact, and an option contradicts it
    places = []
    has_state = run.resume_state("vqgan").is_file() or "maskgit" not in request.continued
    if path == run.tokenizer and has_state:
        places.append("--train_vae --resume writes it")
    if run.model.is_file():
        places.append(f"--checkpoint_vae {run.model} takes the copy in there")
    return f"; {', or '.join(places)}" if places else ""


def warn_if_unfinished(request: Request, num_images: int) -> None:
    """Warn if a new transformer gets a tokenizer of its run whose training was stopped early.

    Args:
        num_images: number of training images.
    """
    run, line = request.run(), request.line
    is_new = "maskgit" not in request.continued and "train_vae" not in request.jobs
    if not is_new or line.checkpoint_vae or not run.resume_state("vqgan").is_file():
        return
    with suppress(UserError):  # damage there does not concern the tokenizer
        stored, position = read_config(run).get("vqgan", {}), load_position("vqgan", run)
        epochs, batch = (
            OPTIONS[name].read_plain(stored.get(name, getattr(line, name)))
            for name in ("n_epochs_vae", "batch_size_vae")
        )
        images = stored.get(MADE_FROM, {}).get("images", num_images)  # a folder may have more now
        length = position.length or epochs * (images // min(batch, images))
        if position.step < length:
            text = (
                "the training of this tokenizer was stopped after step %d of %d: give --train_vae "
                "--train --resume to finish it first"
            )
            log.warning(text, position.step, length)


def read_origin(request: Request, file: str) -> tuple[Path, Any, str]:
    """Read the file of --init once: its path, what `read_checkpoint` returned, and its digest.

    Raises:
        UserError: if it is missing or damaged.
    """
    path = Path(file)
    if (path, "init") not in request.opened:
        request.opened[path, "init"] = read_with_digest(path, read_checkpoint)
    stored, digest = request.opened[path, "init"]
    return path, stored, digest[:16]
