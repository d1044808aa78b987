"""MaskGIT: train and sample a masked generative image transformer.

    python MaskGIT.py --train --sample --dataset fashionmnist

Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer". A frozen VQ-GAN turns images into
tokens, once; a bidirectional transformer learns to fill in hidden tokens; images are decoded in a
few parallel steps with classifier-free guidance.

One short function per mode, in pipeline order; what they share follows, by subject. The parsed
options end here: models, data and sampler get config dataclasses and plain values. Imports that
load torch stand inside the functions, so that --help and mistakes answer at once.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data.datasets import DATASETS, DatasetSpec
from data.spec import RESIZE, Split
from models.maskgit.config import SamplingConfig, TrainingConfig, TransformerConfig
from models.vqgan.config import VQGANConfig, VQGANTrainingConfig
from utils.distributed import Processes, launched_processes
from utils.errors import UserError, is_out_of_memory, told_in_one_line
from utils.files import (
    exclusive_lock,
    file_digest,
    make_folder,
    write_json_atomic,
)
from utils.labels import labels_in_turn, parse_labels
from utils.options import MODES, Options, option_value, parse_options
from utils.refusals import (
    check_edit,
    check_evaluate,
    check_n_classes,
    check_processes,
    check_start_token,
    check_training,
    idle_options,
    memory_hint,
    reject_contradictions,
)
from utils.run_folder import RunFolder
from utils.run_options import STAGE_MODES
from utils.settings import checked, configure, given_fields, option_values, options_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from data.images import ImageDataset
    from models.maskgit.loading import Trained
    from models.maskgit.sampling import KnownTokens
    from models.maskgit.transformer import MaskedTransformer
    from models.vqgan.tokenizer import Tokenizer
    from utils.evaluation import Judge
    from utils.extractor import Extractor
    from utils.token_set import TokenSet

log = logging.getLogger(__name__)
Frozen = TypeVar("Frozen", "MaskedTransformer", "Tokenizer")

BUNDLED = Path(__file__).parent / "models" / "pretrained"
SPLITS: tuple[Split, ...] = ("train", "validation")
PREVIEW_IMAGES = 64
GRID_COLUMNS = 10
STEPS_IMAGES = 8  # shown by --save_steps
EDITED_SHOWN = 100  # in the grid of --edit
EVALUATED_IMAGES = 50_000  # as in published figures
SWEPT_IMAGES = 1000  # of each setting


def main(argv: Sequence[str] | None = None) -> None:
    """Run the modes that the command line asks for, in pipeline order.

    Raises:
        SystemExit: with code 2 and one line on stderr for a user's mistake, 143, 130 or 129 after a
            signal.
    """
    with told_in_one_line("MaskGIT.py"):
        processes = launched_processes()
    with processes.main_speaks_first(), told_in_one_line("MaskGIT.py"):
        run_modes(parse_options(sys.argv[1:] if argv is None else argv, DATASETS))


def run_modes(options: Options) -> None:
    """As `main`, with parsed options."""
    from utils.progress import set_up_logging

    set_up_logging(verbose=launched_processes().is_main)
    functions = (
        download_only,
        train_vae,
        reconstruct,
        train,
        show_plan,
        sample,
        edit,
        evaluate,
        sweep,
        export,
    )
    assert [function.__name__ for function in functions] == list(MODES)
    modes = [function for function in functions if getattr(options, function.__name__)]
    if options.dry_run:
        modes = [dry_run]
    try:
        idle = idle_options(options)
        if idle:
            log.warning("no effect here: %s", ", ".join(f"--{name}" for name in idle))
        session = continued(open_session(options))
        for mode in modes:
            check_processes(session.processes, mode.__name__)
        with session.processes.connected(session.device):
            check_command(session)
            for mode in modes:
                mode(session)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(memory_hint(options)) from error


@dataclass(frozen=True)
class Session:
    """What every mode needs, resolved from the options.

    Attributes:
        options: the command line.
        spec: row of the dataset table.
        size: image side.
        run: folder of the run.
        device: where to compute.
        precision: of matrix products.
        processes: those that work together.
    """

    options: Options
    spec: DatasetSpec
    size: int
    run: RunFolder
    device: torch.device
    precision: torch.dtype
    processes: Processes


def continued(session: Session) -> Session:
    """The session with the options of the runs that --resume continues, for all modes.

    Raises:
        UserError: if a training would meet a run that it does not continue.
    """
    from utils.runs import continued_options

    options = session.options
    for stage, mode in STAGE_MODES.items():
        if getattr(options, mode):
            options = continued_options(options, stage, session.run)
    return session if options is session.options else open_session(options)


def open_session(options: Options) -> Session:
    """Resolve what every mode needs; nothing is written yet."""
    from utils.device import choose_device, choose_precision, set_up_device

    processes = launched_processes()
    spec = DATASETS[options.dataset]
    is_dataset_known = "dataset" in options.given or not options.checkpoint
    if spec.num_classes is not None and is_dataset_known:
        check_n_classes(options, spec.num_classes, spec.name)
    device = processes.own_device(choose_device(options.device))
    precision = choose_precision(options.precision, device)
    set_up_device(device, precision, options.deterministic)
    return Session(
        options=options,
        spec=spec,
        size=options.size or spec.size,
        run=RunFolder(Path(options.output_dir) / (options.run_name or spec.name), spec.name),
        device=device,
        precision=precision,
        processes=processes,
    )


# --- Modes ---


def download_only(session: Session) -> None:
    """Fetch the files of a dataset, for machines whose later jobs have no network."""
    from data.datasets import fetch_dataset

    fetch_dataset(session.spec.name, Path(session.options.data_dir), session.size)
    log.info("%s is complete in %s", session.spec.name, session.options.data_dir)


def train_vae(session: Session) -> None:
    """Teach a VQ-GAN to turn images into tokens and back."""
    from data.batches import training_batches, validation_batches
    from models.vqgan.training import VQGANStage
    from utils.runs import run_stage

    options = session.options
    architecture = new_vqgan_config(session)
    training = configure(VQGANTrainingConfig, options)
    checked(training.validate, architecture)
    train_images, validation_images = (open_images(session, split) for split in SPLITS)
    batch_size = step_images(train_images, training.batch_size, "--batch_size_vae")
    steps = len(train_images) // batch_size * training.epochs
    if training.disc_weight and training.disc_start >= steps:
        log.info("--disc_start %d: after the last of %d steps", training.disc_start, steps)
    stage = VQGANStage(
        architecture,
        training,
        training_batches(
            train_images, batch_size, training.seed, options.num_workers, session.device
        ),
        lambda: validation_batches(
            validation_images, batch_size, options.num_workers, session.device
        ),
        len(train_images) // batch_size,
        device=session.device,
        precision=session.precision,
        describe={
            "dataset": session.spec.name,
            "class_names": list(train_images.class_names),
        },
        compile_model=options.compile,
    )
    run_stage(
        stage,
        options.replace(size=session.size),
        session.run,
        {"images": len(train_images)},
        training.epochs,
        batch_size,
        session.processes,
    )


def reconstruct(session: Session) -> None:
    """Measure what the tokenizer keeps of the validation images, and show it."""
    from data.batches import labelled_batches
    from models.vqgan.reconstruction import ReconstructionMeter
    from utils.images import save_grid, to_uint8
    from utils.samples import write_npz

    session, tokenizer = tokenizer_to_measure(session)
    options, folder = session.options, session.run.path
    images = open_images(session, "validation")
    meter = ReconstructionMeter(tokenizer)
    shown: list[np.ndarray] = []  # the first originals

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        workers = options.num_workers
        batches = labelled_batches(images, options.batch_size_vae, workers, session.device)
        for original, reconstruction, labels in meter.reconstruct(batches):
            if not shown:
                shown.extend(to_uint8(tokenizer.to_rgb(original[:GRID_COLUMNS])))
            yield to_uint8(tokenizer.to_rgb(reconstruction)), labels.numpy()

    make_folder(folder)
    first = write_npz(folder / "reconstructions.npz", blocks(), len(images), "reconstructing")
    save_grid(folder / "reconstructions.png", [*shown, *first[: len(shown)]], columns=len(shown))
    result = {"images": len(images), "split": "validation", **meter.result()}
    write_json_atomic(folder / "reconstruction.json", result)
    for name, value in result.items():
        log.info("%-20s %s", name, f"{value:.4f}" if isinstance(value, float) else value)
    log.info("originals above reconstructions in %s", folder / "reconstructions.png")


def train(session: Session) -> None:
    """Tokenise the dataset once, then teach the transformer to fill in hidden tokens."""
    from models.maskgit.training import MaskGITStage
    from utils.runs import run_stage

    tokenizer = find_tokenizer(session)
    session = of_tokenizer(session, tokenizer)
    options = session.options
    train_images, validation_images = (open_images(session, split) for split in SPLITS)
    image_counts = len(train_images), len(validation_images)
    batch_size = step_images(train_images, options.batch_size, "--batch_size")
    config = transformer_config(options, tokenizer, train_images)
    log.info("%d classes, %d images, %d to validate on", config.num_classes, *image_counts)
    session.processes.check_share(batch_size)
    stage = MaskGITStage(
        config,
        configure(TrainingConfig, options),
        tokens_of(session, tokenizer, train_images, "train"),
        tokens_of(session, tokenizer, validation_images, "validation"),
        device=session.device,
        precision=session.precision,
        describe={
            "dataset": session.spec.name,
            "class_names": list(train_images.class_names),
            "tokenizer": tokenizer.entry(),
        },
        preview=preview_writer(session, tokenizer, train_images.class_names),
        compile_model=options.compile,
        processes=session.processes,
    )
    del train_images, validation_images  # the paths of millions of files
    run_stage(
        stage,
        options.replace(size=session.size),
        session.run,
        {"images": image_counts[0], "tokenizer": tokenizer.fingerprint},
        options.n_epochs,
        batch_size,
        session.processes,
    )


def show_plan(session: Session) -> None:
    """Print what sampling would do at each step; a model that is not there yet is not needed."""
    options = session.options
    if options.checkpoint or session.run.model.is_file():
        seq_len = load_model(session).model.config.seq_len
    else:
        seq_len = find_tokenizer(session).grid_size ** 2
    print_plan(configure(SamplingConfig, options), seq_len)


def sample(session: Session) -> None:
    """Decode images from a trained model and write them; goes on where it stopped."""
    from utils.sample_blocks import missing_blocks, open_blocks, publish_blocks, write_blocks

    options, processes = session.options, session.processes
    trained = load_model(session)
    session = of_model(session, trained)
    check_start_token(options, trained.model.config)
    labels = sample_labels(options, trained)
    config = configure(SamplingConfig, options)
    print_plan(config, trained.model.config.seq_len)
    folder = make_folder(session.run.samples)
    partial = folder / "partial"
    block_size = min(options.batch_size, len(labels))
    num_blocks = math.ceil(len(labels) / block_size)
    identity = sampling_identity(session, trained, labels, config)
    if identity != processes.from_main(lambda: identity):
        raise UserError(f"{model_file(session)} is not the same file for all processes")
    lock = exclusive_lock(folder / ".lock", f"another job is sampling into {folder}")
    with lock if processes.is_main else nullcontext():
        if processes.is_main:
            open_blocks(partial, identity)
        missing = processes.from_main(lambda: missing_blocks(partial, num_blocks))
        if len(missing) < num_blocks:
            log.info("sampling continues: %d of %d blocks to make", len(missing), num_blocks)
        own = missing[processes.rank :: processes.size]
        made = generate(session, trained, labels, config, blocks=own)
        write_blocks(partial, own, (images for images, _ in made))
        processes.wait()
        if processes.is_main:
            for earlier in ("steps.png", "steps.gif"):
                (folder / earlier).unlink(missing_ok=True)
            columns = grid_columns(trained.model.config.num_classes)
            publish_blocks(partial, folder, labels, block_size, columns, options.first_image)
    if options.save_steps and processes.is_main:
        save_steps(session, trained, labels[:STEPS_IMAGES], config, folder)
    for name in ("images", "samples.npz", "grid.png"):
        log.info("written: %s", folder / name)


def export(session: Session) -> None:
    """Write the trained transformer in the layout of caetas/GenerativeZoo."""
    from models.maskgit.loading import to_foreign
    from utils.checkpoint import torch_save
    from utils.files import atomic_write

    path = Path(session.options.export)
    trained = load_model(session)
    with atomic_write(path) as file:
        torch_save(to_foreign(trained.model), file)
    log.info("written: %s; its tokenizer is the one in the checkpoint", path)


def edit(session: Session) -> None:
    """Make part of an image anew, in --num_samples variants."""
    import torch

    from data.editing import image_to_edit, region_to_make
    from models.maskgit.editing import composite, hidden_cells, pixels_of
    from models.maskgit.sampling import KnownTokens
    from utils.images import hatch_hidden, save_grid
    from utils.samples import write_pngs

    options = session.options
    trained = load_model(session)
    session = of_model(session, trained)
    check_start_token(options, trained.model.config)
    original, label = image_to_edit(
        options.init_image,
        trained.dataset,
        lambda: open_images(session, "validation"),
        session.size,
        trained.tokenizer.channels,
    )
    margins = dict(options.outpaint or [])
    original, mask = region_to_make(original, options.mask_box, options.mask_image, margins)
    grid_size = trained.tokenizer.grid_size
    hidden = hidden_cells(mask, grid_size, options.mask_grow)
    pixels = torch.from_numpy(original).permute(2, 0, 1)[None]  # (1, C, H, W)
    if options.mask_grow:
        mask = pixels_of(hidden, len(mask))
    tokens = trained.tokenizer.encode_bytes(pixels)[0]
    known = KnownTokens(tokens, torch.from_numpy(hidden.flatten()))
    config = configure(SamplingConfig, options)
    no_class = trained.model.config.null_class
    labels = sample_labels(options, trained, [no_class if label is None else label])
    log.info("%d of %d tokens are made anew", hidden.sum(), hidden.size)

    def variants() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for images, used in generate(session, trained, labels, config, known):
            yield (images if options.no_composite else composite(original, images, mask)), used

    folder = make_folder(session.run.path / "edits")
    shown = [original, hatch_hidden(original[None], hidden[None])[0]]
    for images, _ in write_pngs(folder / "images", variants()):
        shown.extend(images[: max(0, EDITED_SHOWN - len(shown))])
    save_grid(folder / "grid.png", shown, columns=GRID_COLUMNS)
    log.info("original, what is made anew and variants in %s", folder / "grid.png")


def evaluate(session: Session) -> None:
    """Measure samples, given images or a tokenizer against the dataset's images."""
    if session.options.evaluate == "tokenizer":
        evaluate_tokenizer(session)
    elif session.options.images:
        evaluate_images(session)
    else:
        evaluate_samples(session)


def evaluate_samples(session: Session) -> None:
    """Sample from the trained model, and measure."""
    from utils.evaluation import write_scores

    trained = load_model(session)
    session = of_model(session, trained)
    options = session.options
    check_start_token(options, trained.model.config)
    labels = sample_labels(options, trained, usual_count=EVALUATED_IMAGES)
    config = configure(SamplingConfig, options)
    measured = sampling_protocol(session)  # before a training can publish another checkpoint
    judge = open_judge(session, "train")
    blocks = generate(session, trained, labels, config)
    scores = judge.score(blocks, len(labels), "sampling")
    protocol = {**judge.protocol(len(labels)), **measured, "sampling": option_values(config)}
    write_scores(session.run.evaluation("samples"), scores, protocol)


def evaluate_images(session: Session) -> None:
    """Measure the images of --images, whatever made them."""
    from data.generated import open_generated
    from utils.evaluation import write_scores

    if session.options.checkpoint:  # it tells the dataset and the size
        session = of_model(session, load_model(session))
    path = Path(session.options.images)
    images = open_generated(path, session.size, session.spec.channels)
    judge = open_judge(session, "train")
    scores = judge.score(images.blocks(session.options.batch_size), len(images), "measuring")
    protocol = {**judge.protocol(len(images)), "measured": path.name}
    write_scores(session.run.evaluation("images"), scores, protocol)


def evaluate_tokenizer(session: Session) -> None:
    """Measure what the tokenizer makes of real images against these images."""
    from data.batches import labelled_batches
    from models.vqgan.reconstruction import ReconstructionMeter, perceptual_if_there
    from utils.evaluation import write_scores
    from utils.images import to_uint8

    session, tokenizer = tokenizer_to_measure(session)
    options = session.options
    judge = open_judge(session, "validation")
    images = open_images(session, options.reference or "validation")
    perceptual = perceptual_if_there(options.perceptual_vgg and Path(options.perceptual_vgg))
    meter = ReconstructionMeter(tokenizer, perceptual)
    workers = options.num_workers
    batches = labelled_batches(images, options.batch_size, workers, session.device)
    passed = ((to_uint8(r.reconstructions), r.labels.numpy()) for r in meter.reconstruct(batches))
    scores = judge.score(passed, len(images), "reconstructing")
    everything = {"rfid": scores.pop("fid"), **scores, "lpips": None, **meter.result()}
    protocol = {**judge.protocol(len(images)), "tokenizer": tokenizer.fingerprint}
    write_scores(session.run.evaluation("tokenizer"), everything, protocol)


def sweep(session: Session) -> None:
    """Measure a grid of sampling options; goes on where it stopped."""
    from utils.sweep import SweepTable

    trained = load_model(session)
    session = of_model(session, trained)
    options = session.options
    labels = sample_labels(options, trained, usual_count=SWEPT_IMAGES)
    settings = [options.replace(**values) for values in sweep_grid(options)]
    for setting in settings:
        check_start_token(setting, trained.model.config)
    judge = open_judge(session, "train")
    protocol = {**judge.protocol(len(labels)), **sampling_protocol(session)}
    folder = make_folder(session.run.path / "sweep")
    busy = f"another job is measuring a grid in {folder}; choose another --run_name"
    with exclusive_lock(folder / ".lock", busy):
        table = SweepTable(folder, protocol)
        log.info("%d settings of %d images each", len(settings), len(labels))
        for number, setting in enumerate(settings, start=1):
            config = configure(SamplingConfig, setting)
            values, title = option_values(config), f"setting {number} of {len(settings)}"
            if table.find(values) is None:
                start = time.monotonic()
                blocks = generate(session, trained, labels, config)
                scores = judge.score(table.keep_strip(values, blocks), len(labels), title)
                table.add(values, {**scores, "seconds": time.monotonic() - start})
            log.info("%s: %s", title, table.show(values))
        log.info("lowest FID: %s", table.best())
        log.info("written: %s, %s", table.csv, table.sheet)


def dry_run(session: Session) -> None:
    """Print what the modes would do: options, sizes, steps, memory and disk; write nothing."""
    options = session.options
    for name, value in sorted(vars(options.values).items()):
        if name != "n_classes" or name in options.given:  # every dataset knows its own
            log.info("%-22s %s%s", name, value, "  (given)" if name in options.given else "")
    log.info("%-22s %s", "run folder", session.run.path)
    log.info("%-22s %s, %s", "device, precision", session.device, session.precision)
    if options.train_vae:
        describe_vqgan(session)
    if options.train:
        describe_transformer(session)
    elif options.sample or options.edit or options.export or options.sweep or options.evaluate:
        describe_sampling(session)


def describe_vqgan(session: Session) -> None:
    """Print the size of stage 1."""
    from models.vqgan.network import VQModel

    config = new_vqgan_config(session)
    training = configure(VQGANTrainingConfig, session.options)
    checked(training.validate, config)
    images = open_images(session, "train", download=False)
    steps = max(1, len(images) // training.batch_size) * training.epochs
    log.info("%-22s %.2f M parameters", "VQ-GAN", count_parameters(VQModel(config)) / 1e6)
    log.info("%-22s %d of %d images, %d in all", "steps", steps, training.batch_size, len(images))


def describe_transformer(session: Session) -> None:
    """Print the size of stage 2."""
    from data.tokens import cache_bytes
    from models.maskgit.training import num_parts
    from models.maskgit.transformer import MaskedTransformer, training_bytes

    options = session.options
    # --train_vae would make the tokenizer, so there may be none yet.
    tokenizer = new_vqgan_config(session) if options.train_vae else find_tokenizer(session)
    images = [open_images(session, split, download=False) for split in SPLITS]
    config = transformer_config(options, tokenizer, images[0])
    parameters = count_parameters(MaskedTransformer(config))
    batch = min(options.batch_size, len(images[0]))
    own_batch = math.ceil(batch / session.processes.size)
    parts = num_parts(own_batch, config.seq_len, options.grad_accum, session.device.type)
    part = math.ceil(own_batch / parts)
    memory = training_bytes(config, parameters, part, session.device.type)
    cache = sum(cache_bytes(len(i), i.num_views, config.seq_len) for i in images)
    for name, value in {
        "images": f"{len(images[0])} train, {len(images[1])} validation",
        "tokens per image": f"{config.seq_len}, codebook of {tokenizer.codebook_size}",
        "transformer": f"{parameters / 1e6:.2f} M parameters",
        "optimiser steps": len(images[0]) // batch * options.n_epochs,
        "memory, roughly": f"{memory / 1e9:.1f} GB for each process",
        # Raw and averaged weights in the checkpoint; in the state also two moments.
        "disk": f"{cache / 1e6:.0f} MB of tokens, {24 * parameters / 1e6:.0f} MB of checkpoints",
    }.items():
        log.info("%-22s %s", name, value)
    print_plan(configure(SamplingConfig, options), config.seq_len)


def describe_sampling(session: Session) -> None:
    """Print what would be sampled from which model, if that takes one."""
    options = session.options
    if options.evaluate == "tokenizer" or (options.evaluate and options.images):
        return
    trained = load_model(session)
    session = of_model(session, trained)
    config = trained.model.config
    check_start_token(options, config)
    log.info("%-22s %s", "model", model_file(session))
    log.info("%-22s %s, %d classes", "trained on", trained.dataset, config.num_classes)
    if options.sample or options.edit:
        log.info("%-22s %d", "images", len(sample_labels(options, trained)))
    print_plan(configure(SamplingConfig, options), config.seq_len)


def count_parameters(module: nn.Module) -> int:
    """Numbers that a network learns."""
    return sum(parameter.numel() for parameter in module.parameters())


# --- Models ---


def find_tokenizer(session: Session) -> Tokenizer:
    """Load the tokenizer: --checkpoint_vae, else the run's own, else the bundled one.

    Raises:
        UserError: if there is none, or it does not fit the options or the dataset.
    """
    from models.vqgan.loading import load_tokenizer

    options, spec, own = session.options, session.spec, session.run.tokenizer
    if options.checkpoint_vae:
        path = Path(options.checkpoint_vae)
    else:
        path = own if own.is_file() else BUNDLED / own.name
        if not path.is_file():
            raise UserError(
                f"no tokenizer for {spec.name}: train one with --train_vae (the same command with "
                "--train_vae --train does both), or name a trained VQ-GAN with --checkpoint_vae"
            )
    given = given_fields(VQGANConfig, options)
    tokenizer = placed(load_tokenizer(path, session.size, spec.channels, given), session)
    grid = tokenizer.grid_size
    log.info("tokenizer %s: %d codes, %d x %d tokens", path, tokenizer.codebook_size, grid, grid)
    return tokenizer


def tokenizer_to_measure(session: Session) -> tuple[Session, Tokenizer]:
    """The tokenizer in --checkpoint, or else as `find_tokenizer`, and the session of its images."""
    if session.options.checkpoint:
        trained = load_model(session)
        return of_model(session, trained), trained.tokenizer
    tokenizer = find_tokenizer(session)
    return of_tokenizer(session, tokenizer), tokenizer


def new_vqgan_config(session: Session) -> VQGANConfig:
    """The architecture of a VQ-GAN that is to be trained.

    Raises:
        UserError: if the options do not fit together or to the dataset.
    """
    from models.vqgan.loading import read_remap

    options = session.options
    config = configure(
        VQGANConfig,
        options,
        image_size=session.size,
        image_channels=session.spec.channels,
        remap=read_remap(Path(options.remap), options.n_embed) if options.remap else None,
    )
    unused = config.unused_attn_resolutions()
    if unused:
        text = f"--attn_resolutions {unused[0]} never occurs: the maps are {config.resolutions}"
        if "attn_resolutions" in options.given:
            raise UserError(text)
        log.info("%s pixels wide, so only the middle has attention", text)
    return config


def transformer_config(
    options: Options, tokenizer: Tokenizer | VQGANConfig, images: ImageDataset
) -> TransformerConfig:
    """The shape of a transformer for the tokens and classes of a dataset.

    Raises:
        UserError: if an option does not fit it, those that come into play in sampling too.
    """
    config = configure(
        TransformerConfig,
        options,
        codebook_size=tokenizer.codebook_size,
        num_classes=len(images.class_names),
        seq_len=tokenizer.grid_size**2,
    )
    check_n_classes(options, config.num_classes, options.data_dir)
    check_start_token(options, config)
    if options.labels:
        parse_labels(options.labels, images.class_names)
    return config


def model_file(session: Session) -> Path:
    """The checkpoint to sample from."""
    return Path(session.options.checkpoint or session.run.model)


def load_model(session: Session) -> Trained:
    """Load a trained transformer (its averaged weights) and its tokenizer.

    Raises:
        UserError: if there is none, or an option contradicts it.
    """
    from models.maskgit.loading import from_contents
    from utils.checkpoint import contents_of, is_own_format, read_torch_file

    options = session.options
    path = model_file(session)
    if not options.checkpoint and not path.is_file():
        raise UserError(f"no trained model at {path}: {way_to_model(session.run)}")
    stored = read_torch_file(path)
    if not is_own_format(stored):
        return foreign_model(session, stored, path)
    trained = from_contents(contents_of(stored, path, "maskgit"), path)
    config, tokenizer = trained.model.config, trained.tokenizer
    if trained.dataset not in DATASETS:
        raise UserError(f"{path} was trained on {trained.dataset!r}, which is no known dataset")
    if "dataset" in options.given and options.dataset != trained.dataset:
        raise UserError(f"{path} was trained on {trained.dataset}, not {options.dataset}")
    for kind, known in ((TransformerConfig, config), (VQGANConfig, tokenizer.config)):
        reject_contradictions(kind, given_fields(kind, options), vars(known), path)
    check_n_classes(options, config.num_classes, path)
    if options.checkpoint_vae:
        check_own_tokenizer(of_model(session, trained), tokenizer, path)
    placed(tokenizer, session)
    placed(trained.model, session)
    return trained


def check_own_tokenizer(session: Session, own: Tokenizer, path: Path) -> None:
    """Refuse a --checkpoint_vae that is not the tokenizer in the model's checkpoint."""
    if find_tokenizer(session).fingerprint != own.fingerprint:
        raise UserError(
            f"{session.options.checkpoint_vae} is not the tokenizer that {path} was trained with; "
            "the checkpoint holds its own, so leave --checkpoint_vae out"
        )


def way_to_model(run: RunFolder) -> str:
    """What to do in a run folder that lacks the model that is wanted."""
    others = sorted(run.path.glob("MaskGIT_*.pt"))
    if others:
        dataset = others[0].stem.removeprefix("MaskGIT_").partition("_step_")[0]
        return f"the folder has {others[0].name}, so give --dataset {dataset}"
    if run.resume_state("maskgit").is_file():
        return "its training has not come to a checkpoint yet, --train --resume goes on with it"
    return "train one with --train, or name --checkpoint"


def foreign_model(session: Session, stored: Any, path: Path) -> Trained:
    """A transformer of another program, whose file does not tell its dataset and tokenizer.

    Raises:
        UserError: if they are not given, or do not fit the transformer.
    """
    from models.maskgit.loading import Trained, build_model, find_weights

    options, spec = session.options, session.spec
    foreign = find_weights(stored, path)
    if "dataset" not in options.given:
        raise UserError(
            f"{path} does not tell what it was trained on: give its --dataset, and its tokenizer "
            "as --checkpoint_vae"
        )
    tokenizer = find_tokenizer(session)
    heads = options.heads if "heads" in options.given else None
    model = build_model(foreign, path, tokenizer.codebook_size, heads)
    config = model.config
    given = given_fields(TransformerConfig, options)
    reject_contradictions(TransformerConfig, given, vars(config), path)
    check_n_classes(options, config.num_classes, path)
    expected = (tokenizer.grid_size**2, spec.num_classes or config.num_classes)
    if (config.seq_len, config.num_classes) != expected:
        raise UserError(
            f"{path} is for images of {config.seq_len} tokens and {config.num_classes} classes; "
            f"the tokenizer makes {expected[0]}, and {spec.name} has {expected[1]} classes (with "
            f"{tokenizer.codebook_size} codes); are --checkpoint_vae, --size and --dataset its own?"
        )
    return Trained(placed(model, session), tokenizer, spec.name, spec.classes)


def placed(model: Frozen, session: Session) -> Frozen:
    """The model, on the session's device and compiled if that is wanted."""
    model.to(session.device)
    if session.options.compile:
        model.compile(dynamic=False)  # every block has the same size
    return model


def of_model(session: Session, trained: Trained) -> Session:
    """The session of the dataset and image size that a model was trained for.

    What is made of a checkpoint goes to the run that it is of, unless another one is named.
    """
    session = with_dataset(session, trained.dataset, trained.tokenizer.image_size)
    own = RunFolder(model_file(session).parent, trained.dataset)
    if own.config.is_file() and not session.options.given & {"run_name", "output_dir"}:
        return replace(session, run=own)
    return session


def of_tokenizer(session: Session, tokenizer: Tokenizer) -> Session:
    """The session of the image size that a tokenizer was trained for."""
    return with_dataset(session, session.spec.name, tokenizer.image_size)


def with_dataset(session: Session, dataset: str, size: int) -> Session:
    """The session of the dataset and image size that a checkpoint was made for.

    Raises:
        UserError: if --size says something else.
    """
    options = session.options
    if options.size not in (None, size):
        raise UserError(f"--size {options.size}: the model's images are {size} pixels wide")
    run = RunFolder(Path(options.output_dir) / (options.run_name or dataset), dataset)
    return replace(session, spec=DATASETS[dataset], size=size, run=run)


# --- Images and tokens ---


def open_images(session: Session, split: Split, download: bool = True) -> ImageDataset:
    """Open one split of the dataset at the session's size."""
    from data.datasets import open_dataset

    data_dir, processes = Path(session.options.data_dir), session.processes
    # The other processes would take a long download for the end of the main one.
    download = download and processes.size == 1
    with processes.main_first():
        return open_dataset(session.spec.name, split, data_dir, session.size, download=download)


def step_images(images: ImageDataset, batch_size: int, option: str) -> int:
    """Images of one step: the batch size, or all images where there are fewer."""
    if len(images) < batch_size:
        log.info("%s %d: only %d images, one batch an epoch", option, batch_size, len(images))
    return min(batch_size, len(images))


def cache_folder(options: Options) -> Path:
    """Where the caches of all runs are."""
    return Path(options.cache_dir or Path(options.output_dir) / "tokens")


def tokens_of(session: Session, tokenizer: Tokenizer, images: ImageDataset, split: str) -> TokenSet:
    """The tokens of a split, from the cache or encoded now."""
    from data.tokens import cached_tokens
    from utils.device import float32_name

    options = session.options
    identity = {
        "dataset": session.spec.name,
        "split": split,
        "size": session.size,
        "resize": RESIZE,
        "precision": float32_name(session.device),
        "tokenizer": tokenizer.fingerprint,
    }
    return cached_tokens(
        images,
        tokenizer.encode_bytes,
        tokenizer.grid_size**2,
        identity,
        cache_folder(options),
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        processes=session.processes,
    )


# --- Samples ---


def sample_labels(
    options: Options,
    trained: Trained,
    default: Sequence[int] | None = None,
    usual_count: int | None = None,
) -> list[int]:
    """One label per image, in turn: those of --labels, or the default, or all classes.

    Args:
        options: have the number of images, if it was given.
        trained: the model.
        default: labels where none were given.
        usual_count: images where no number was given; if None, as many as labels were given.

    Raises:
        UserError: if --labels names what is no class of the model.
    """
    num_classes = trained.model.config.num_classes
    names = trained.class_names or [str(label) for label in range(num_classes)]
    # Image i has class i whatever the first one is.
    in_turn = [(options.first_image + i) % num_classes for i in range(num_classes)]
    count = options.num_samples
    if "num_samples" not in options.given:
        count = usual_count or (None if options.labels else count)
    return labels_in_turn(options.labels, names, default or in_turn, count)


def generate(
    session: Session,
    trained: Trained,
    labels: Sequence[int],
    config: SamplingConfig,
    known: KnownTokens | None = None,
    blocks: Iterable[int] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Generate one image per label: blocks of images uint8 (B, H, W, C) and their labels."""
    from models.maskgit.sampling import sample_images

    return sample_images(
        trained.model,
        trained.tokenizer,
        labels,
        config,
        seed=session.options.seed,
        block_size=session.options.batch_size,
        precision=session.precision,
        first_image=session.options.first_image,
        known=known,
        blocks=blocks,
    )


def preview_writer(
    session: Session, tokenizer: Tokenizer, class_names: Sequence[str]
) -> Callable[[MaskedTransformer, Path], None]:
    """A function that writes a grid of samples of the model as it is."""
    from models.maskgit.loading import Trained
    from utils.images import save_grid

    options = session.options
    config = configure(SamplingConfig, options)
    count = min(options.num_samples, PREVIEW_IMAGES)
    labels = labels_in_turn(options.labels, class_names, range(len(class_names)), count)

    def write(model: MaskedTransformer, path: Path) -> None:
        trained = Trained(model, tokenizer, session.spec.name, class_names)
        blocks = generate(session, trained, labels, config)
        shown = [image for images, _ in blocks for image in images]
        save_grid(path, shown, columns=grid_columns(len(class_names)))

    return write


def save_steps(
    session: Session, trained: Trained, labels: Sequence[int], config: SamplingConfig, folder: Path
) -> None:
    """Write how images are decoded, step by step."""
    from models.maskgit.sampling import film
    from utils.images import save_film

    options = session.options
    images, hidden = film(
        trained.model,
        trained.tokenizer,
        labels,
        config,
        seed=options.seed,
        precision=session.precision,
        first_image=options.first_image,
    )
    save_film(folder, images, hidden)
    log.info("written: %s and .gif", folder / "steps.png")


def grid_columns(num_classes: int) -> int:
    """Images in a row, such that classes in turn stand below each other where they are few."""
    return GRID_COLUMNS // num_classes * num_classes or GRID_COLUMNS


def print_plan(config: SamplingConfig, seq_len: int) -> None:
    """Print what decoding will do at each step."""
    from models.maskgit.decoding import make_plan

    if config.num_steps > seq_len:
        log.info("--step %d: an image has only %d tokens", config.num_steps, seq_len)
    log.info("%s", make_plan([seq_len], config).table())


def sampling_protocol(session: Session) -> dict[str, Any]:
    """Beside the sampling options, what samples of a model depend on."""
    options, path = session.options, model_file(session)
    return {
        "checkpoint": {"file": path.name, "sha256": file_digest(path)[:16]},
        "labels": options.labels or "all in turn",
        "seed": options.seed,
        "first_image": options.first_image,
        "batch_size": options.batch_size,
        "precision": str(session.precision),
    }


def sampling_identity(
    session: Session, trained: Trained, labels: Sequence[int], config: SamplingConfig
) -> dict[str, Any]:
    """Everything that the images of --sample depend on, to the bit."""
    return {
        **sampling_protocol(session),
        # The file of another program tells neither its tokenizer nor its heads.
        "tokenizer": trained.tokenizer.fingerprint,
        "model": vars(trained.model.config),
        "labels": list(labels),
        "device": session.device.type,
        "compiled": session.options.compile,
        "sampling": vars(config),
    }


# --- Measuring ---


def open_judge(session: Session, split: Split) -> Judge:
    """What measures images against those of --reference, by default those of `split`."""
    from data.batches import uint8_blocks
    from utils.evaluation import Judge, Reference

    options = session.options
    extractor = open_own_extractor(session)
    split = options.reference or split
    images = open_images(session, split)
    reference = Reference(
        dataset=session.spec.name,
        split=split,
        source=images.fingerprint[:16],
        images=len(images),
        classes=len(images.class_names),
        size=images.size,
        channels=images.channels,
        resize=RESIZE,
    )
    blocks = uint8_blocks(images, options.batch_size, options.num_workers)
    return Judge(extractor, reference, blocks, cache_folder(options))


def open_own_extractor(session: Session) -> Extractor:
    """The network whose features are compared."""
    from utils.extractor import open_extractor

    files = (session.options.feature_net, session.options.inception_weights)
    net, inception = (Path(file) if file else None for file in files)
    return open_extractor(net, inception, session.device)


def sweep_grid(options: Options) -> list[dict[str, Any]]:
    """The settings of --sweep, as values of options; a mistake ends the process in one line."""
    from utils.sweep import parse_grid

    names = options_of(SamplingConfig).values()
    twice = options.given.intersection(names)
    grid = parse_grid(options.sweep, names, lambda name, text: option_value(name, text, DATASETS))
    for name in twice.intersection(grid[0]):
        raise UserError(f"--{name} is given and swept over: leave one of them out")
    return grid


# --- Refusals ---


def check_command(session: Session) -> None:
    """Find the mistakes of later modes before hours of training.

    Raises:
        UserError: naming the first.
    """
    options = session.options
    check_training(options)
    if options.sweep:
        sweep_grid(options)
    if options.export and Path(options.export).exists():
        raise UserError(f"--export {options.export} exists already; nothing is overwritten")
    if options.edit:
        check_edit(options)
    if options.evaluate:
        check_evaluate(options)
    is_trained = (options.train or options.train_vae) and not options.dry_run
    if is_trained and (options.sweep or options.evaluate):
        open_own_extractor(session)
    if options.train_vae and options.train:
        images = open_images(session, "train", download=not options.dry_run)
        transformer_config(options, new_vqgan_config(session), images)


if __name__ == "__main__":
    main()
