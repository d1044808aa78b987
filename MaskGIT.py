"""MaskGIT: train and sample a masked generative image transformer.

    python MaskGIT.py --train --sample --dataset fashionmnist

Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer". A frozen VQ-GAN turns images into
tokens, once; a bidirectional transformer learns to fill in hidden tokens; images are decoded in a
few parallel steps with classifier-free guidance.

The modes run in the order of commands/modes.py. The three main ones, train_vae, train and sample,
are written out in this file; every other mode has a file in commands/. Before the first mode runs,
commands/resolve.py turns the command line into one Job per mode: everything that the mode needs.
Imports that load torch are inside the functions, so that --help and error messages appear at once.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import logging
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # with -I, -P or PYTHONSAFEPATH Python does not look in this folder
    sys.path.insert(0, str(Path(__file__).resolve().parent))

from utils.errors import UserError, counted, errors_on_one_line
from utils.launch import read_launch
from utils.signals import end_on_signals
from utils.streams import draw_into_files, open_standard_streams

with errors_on_one_line("MaskGIT.py"):  # these need packages
    from commands.flags import with_flags
    from commands.modes import Mode
    from commands.parser import parse

if TYPE_CHECKING:
    from commands.sample import SampleJob
    from commands.train import TrainJob
    from commands.train_vae import TrainVaeJob

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the modes that the command line asks for, in pipeline order.

    Raises:
        SystemExit: with code 2 and one line on stderr after a mistake of the user; with 128 and the
            number of the signal after a signal.
    """
    # Messages name settings; `with_flags` shows the options instead.
    on_one_line = partial(errors_on_one_line, "MaskGIT.py", with_flags)
    open_standard_streams("MaskGIT.py")
    draw_into_files()
    with on_one_line():
        launch = read_launch()
    with launch.main_speaks_first(), on_one_line(), end_on_signals(launch.size == 1):
        line = parse(sys.argv[1:] if argv is None else argv)
        # Imported only now, because it loads torch.
        resolve = importlib.import_module("commands.resolve")
        with resolve.resolved(line) as jobs:
            resolve.keep_options(jobs)
            for mode in list(jobs):
                function_of(mode)(jobs.pop(mode))  # popped: its memory is freed when the mode ends


def function_of(mode: Mode) -> Callable[[Any], None]:
    """Return the function that runs a mode: one of those below, or `run` in the mode's file."""
    in_this_file: dict[str, Callable[[Any], None]] = {
        "train_vae": train_vae,
        "train": train,
        "sample": sample,
    }
    return in_this_file.get(mode.name) or mode.module().run


def train_vae(job: TrainVaeJob) -> None:
    """Stage 1: train a VQ-GAN that turns images into tokens and back."""
    from data.batches import training_batches, validation_batches
    from training import runs, vqgan_stage

    machine, workers, splits = job.machine, job.data.num_workers, job.splits
    batch_size = job.loop.images_per_step

    # The images: in random order with random flips for training, unchanged for validation.
    batches = training_batches(splits.train, batch_size, job.training.seed, workers, machine.device)

    # The stage: encoder, codebook and decoder, with their losses and optimizers.
    stage = vqgan_stage.VQGANStage(
        job.config,
        job.training,
        batches,
        lambda: validation_batches(splits.validation, batch_size, workers, machine.device),
        job.steps_per_epoch,
        device=machine.device,
        precision=machine.precision,
        checkpoint_entries=job.entries,
        start=job.start,
        compile_model=machine.compiled,
    )

    # Train it, from its last saved state if there is one; the result is VQGAN_<dataset>.pt.
    with runs.opened(stage, job.run, job.loop, job.record) as loop:
        loop.train()


def train(job: TrainJob) -> None:
    """Stage 2: train the transformer to fill in hidden tokens."""
    from commands.train import completed_record, encoder_of, evaluation_in, previews_of
    from training import runs, transformer_stage

    machine, splits = job.machine, job.splits
    classes, images = counted(job.config.num_classes, "class"), len(splits.train)
    validation = counted(len(splits.validation), "validation image")
    log.info("%s, %s, %s", classes, counted(images, "training image"), validation)

    # The frozen tokenizer encodes every image once. A cache on disk keeps the tokens.
    tokenizer = job.tokenizer.open()
    encode = encoder_of(tokenizer, job.data, machine, job.training.batch_size)
    train_tokens = encode(splits.train, "train")
    validation_tokens = encode(splits.validation, "validation")

    # The stage: a transformer that learns from images with some tokens hidden.
    stage = transformer_stage.MaskGITStage(
        job.config,
        job.training,
        train_tokens,
        validation_tokens,
        device=machine.device,
        precision=machine.precision,
        checkpoint_entries={**job.entries, "tokenizer": tokenizer.entry()},
        preview=previews_of(job, tokenizer),
        start=job.start,
        former_classes=job.former_classes,
        compile_model=machine.compiled,
        cuda_graphs=machine.cuda_graphs,
        processes=machine.processes,
    )

    # With --evaluate_every, samples of the averaged weights are scored as the run goes.
    evaluation = evaluation_in(job, tokenizer, stage.ema.module)

    # Train it, from its last saved state if there is one; the result is MaskGIT_<dataset>.pt.
    record = completed_record(job, tokenizer, train_tokens)
    with runs.opened(
        stage,
        job.run,
        job.loop,
        record,
        processes=machine.processes,
        evaluation=evaluation,
    ) as loop:
        loop.train()


def sample(job: SampleJob) -> None:
    """Sample images from a trained model and write them; continue an interrupted sampling."""
    from commands.sample import blocks_of, log_results, save_steps
    from data.publish import bar_of_blocks, claim, publish_blocks, write_blocks

    generation, processes = job.generation, job.generation.machine.processes
    series, labels = generation.series, generation.series.labels

    # All processes must use the same model, because their images form one set.
    identity = job.identity()
    if identity != processes.from_main(lambda: identity):
        raise UserError(f"{generation.model.path} is not the same file for all processes")

    blocks = blocks_of(job, identity)
    with claim(job.folder, "sampling") if processes.is_main else nullcontext():
        # Find the missing blocks. Blocks of other settings or of another model are deleted.
        block_size = min(series.block_size, len(labels))
        num_blocks = math.ceil(len(labels) / block_size)
        missing = processes.from_main(lambda: blocks.missing(num_blocks, "sampling"))

        # Each process decodes its share of them: labels -> tokens, step by step -> images.
        own = missing[processes.rank :: processes.size]
        with processes.together() as while_all_run:  # the fastest waits for the slowest
            bar = bar_of_blocks(own, block_size, len(labels))
            decoded = while_all_run(generation.blocks(own, advance=bar.update))
            write_blocks(blocks, own, (images for images, _ in decoded), bar)

        # When all blocks are complete, the images are written; those of an earlier sampling go.
        if processes.is_main:
            if job.film:
                save_steps(job, blocks.path)
            first, texts = series.first_image, job.texts()
            publish_blocks(blocks, labels, block_size, job.columns, first, texts)
    log_results(job)


if __name__ == "__main__":
    atexit.register(gc.freeze)  # Python's last collection would visit all objects of torch: 0.45 s
    main()
