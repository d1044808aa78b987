"""--evaluate: compare samples, images in files or reconstructions with the dataset's images.

The fourth thing to measure, a model's likelihood, is in commands/likelihood.py.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from commands import likelihood
from commands.flags import option_values, options_of
from commands.generation import Generation, resolve_generation
from commands.judging import SPLITS, JudgeSource, SplitImages, check_judge, resolve_judge
from commands.model_source import data_of, find_model, find_tokenizer_to_measure
from commands.nearest import NearestSource, resolve_nearest
from commands.options import MEASURING, SAMPLING
from commands.parser import CommandLine
from commands.request import Machine, Request
from commands.tokenizer_source import TokenizerSource
from data.batches import labeled_batches
from data.content import labels_of
from data.generated import Block, GeneratedImages, images_from, open_generated
from metrics.class_table import class_rows, draw_rows, write_rows
from metrics.features import FeatureSet, check_count
from metrics.judge import Judge
from metrics.reconstruction import ReconstructionMeter, perceptual_if_there
from metrics.report import SPREAD, write_scores
from metrics.unfinished import Unfinished, unfinished_file
from models.sampling import SamplingConfig
from utils.errors import FieldError, UserError
from utils.files import make_folder
from utils.pictures import to_uint8
from utils.plots import draw_or_warn
from utils.progress import log_written, progress_bar

EVALUATED_IMAGES = 50_000  # the number behind published FIDs


@dataclass(frozen=True)
class SamplesJob:
    """Samples to measure.

    Attributes:
        nearest: finds the training images nearest to the samples; None does not.
        repeats: how many seeds are measured, from that of `generation` on.
        per_class: whether each class of the first seed is scored alone.
        result: file for the scores.
    """

    generation: Generation
    judge: JudgeSource
    nearest: NearestSource | None
    repeats: int
    per_class: bool
    result: Path


@dataclass(frozen=True)
class ImagesJob:
    """Images in files to measure, made by any program.

    Attributes:
        path: a folder of images, or an .npz or .npy file.
        nearest: finds the training images nearest to the images; None does not.
        result: file for the scores.
    """

    path: Path
    judge: JudgeSource
    nearest: NearestSource | None
    result: Path


@dataclass(frozen=True)
class TokenizerJob:
    """A tokenizer to measure.

    Attributes:
        judge: the images that it reconstructs, and how the result is compared with them.
        reference: the file that the reconstructions are compared with too; None for no file.
        perceptual_vgg: file with the VGG16 weights for LPIPS; None downloads them.
        result: file for the scores.
    """

    tokenizer: TokenizerSource
    judge: JudgeSource
    reference: JudgeSource | None
    perceptual_vgg: Path | None
    machine: Machine
    result: Path


EvaluateJob = SamplesJob | ImagesJob | TokenizerJob | likelihood.LikelihoodJob


def check(line: CommandLine) -> None:
    """Refuse files that are missing, and --images together with a tokenizer."""
    if (line.repeats > 1 or line.per_class) and (line.evaluate != "samples" or line.images):
        raise UserError("--repeats and --per_class measure samples of a model")
    if line.per_class and line.reference not in (None, *SPLITS):
        raise UserError("--per_class needs the classes of real images: leave --reference out")
    if line.nearest and line.evaluate != "samples":
        raise UserError("--nearest compares samples, or --images, with the training images")
    if line.evaluate == "likelihood":
        return likelihood.check(line)
    check_judge(line)
    if not line.images:
        return
    if line.evaluate == "tokenizer":
        raise UserError("--evaluate tokenizer reconstructs real images; leave --images out")
    are_made_first = any(line.asks_for(mode) for mode in ("sample", "edit", "reconstruct"))
    if not are_made_first and not Path(line.images).exists():
        raise FieldError("images", line.images, "there is no such folder or file")


def ignores(line: CommandLine) -> set[str]:
    """Name the options of --evaluate that what it measures does not depend on."""
    of_samples = {option.name for option in SAMPLING.options} - {"checkpoint"}
    of_samples |= {*options_of(SamplingConfig).values()}
    if line.evaluate == "likelihood":
        measuring = {option.name for option in MEASURING.options} - {"reference", "classify"}
        return (of_samples - {"num_samples"}) | measuring | {"perceptual_vgg"}
    if line.evaluate == "tokenizer":
        return of_samples | {"classify"}
    return (of_samples if line.images else set()) | {"classify", "perceptual_vgg"}


def resolve(request: Request) -> EvaluateJob:
    """Return the Job for samples, images in files, a tokenizer, or a likelihood.

    Raises:
        UserError: if the model or the tokenizer is missing, or an option does not fit it.
    """
    if request.line.evaluate == "likelihood":
        return likelihood.resolve_likelihood(request)
    if request.line.evaluate == "tokenizer":
        return _resolve_tokenizer(request)
    if request.line.images:
        return _resolve_images(request)
    generation = resolve_generation(request, default_count=EVALUATED_IMAGES)
    model, labels = generation.model, generation.series.labels
    data = data_of(request, model)
    judge = resolve_judge(request, data, count=len(labels))
    result = model.run.evaluation("samples")
    nearest = resolve_nearest(request, data, result)
    if request.line.per_class:
        if labels_of(data.open("train")).ndim > 1:
            raise UserError(
                f"--per_class: an image of {model.dataset} has several classes, or none"
            )
        if min(labels) >= model.shape.num_classes:
            raise UserError("--per_class: no sample has a class; name some with --labels")
    return SamplesJob(
        generation,
        judge,
        nearest,
        repeats=request.line.repeats,
        per_class=request.line.per_class,
        result=result,
    )


def _resolve_images(request: Request) -> ImagesJob:
    """Return the Job for --images; errors as in `resolve`."""
    data, run = request.data(), request.run()
    if request.line.checkpoint:  # the checkpoint has its dataset and image size
        model = find_model(request)
        data, run = data_of(request, model), model.run
    judge = resolve_judge(request, data)
    result = run.evaluation("images")
    nearest = resolve_nearest(request, data, result)
    return ImagesJob(Path(request.line.images), judge, nearest, result)


def _resolve_tokenizer(request: Request) -> TokenizerJob:
    """Return the Job for --evaluate tokenizer; errors as in `resolve`."""
    tokenizer, data, run = find_tokenizer_to_measure(request)
    vgg, reference = request.line.perceptual_vgg, request.line.reference or "validation"
    is_split = reference in SPLITS
    return TokenizerJob(
        tokenizer=tokenizer,
        judge=resolve_judge(request, data, reference if is_split else "validation"),
        reference=None if is_split else resolve_judge(request, data, reference),
        perceptual_vgg=Path(vgg) if vgg else None,
        machine=request.machine,
        result=run.evaluation("tokenizer"),
    )


def describe(job: EvaluateJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    return job.generation.describe() if isinstance(job, SamplesJob) else {}


def run(job: EvaluateJob) -> None:
    """Compute the scores, print them, and write them with their protocol."""
    if isinstance(job, SamplesJob):
        _measure_samples(job)
    elif isinstance(job, ImagesJob):
        _measure_images(job)
    elif isinstance(job, likelihood.LikelihoodJob):
        likelihood.run(job)
    else:
        _measure_tokenizer(job)


def _measure_samples(job: SamplesJob) -> None:
    """Sample the images, once for each seed, and score them block by block."""
    judge, first = job.judge.open(), job.generation.series.seed
    seeds = range(first, first + job.repeats)
    runs = [_scores_of_seed(job, judge, seed) for seed in seeds]
    repeats = {"repeats": job.repeats} if job.repeats > 1 else {}
    protocol = {**_protocol(judge, job.generation), **repeats}
    write_scores(job.result, mean_and_spread(runs), protocol)
    for seed in seeds:
        unfinished_file(_result_of_seed(job, seed)).unlink(missing_ok=True)


def _scores_of_seed(job: SamplesJob, judge: Judge, seed: int) -> dict[str, float]:
    """Sample the images of one seed and score them; write the scores of classes, if asked to."""
    series = replace(job.generation.series, seed=seed)
    generation = replace(job.generation, series=series)
    count, machine = len(series.labels), generation.machine
    made = partial(generation.blocks, rounding=job.judge.how.rounding)
    identity = {
        **_protocol(judge, generation),
        "device": str(machine.device),
        "compiled": machine.compiled,
    }
    unfinished = Unfinished(_result_of_seed(job, seed), identity)
    block_size = min(series.block_size, count)
    rest = range(math.ceil(unfinished.done / block_size), math.ceil(count / block_size))
    bar = progress_bar("sampling", count, unfinished.done, unit="image")
    features = judge.measure(made(rest, advance=bar.update), count, bar, unfinished)
    scores = judge.compare(features)
    if job.nearest is not None:
        scores |= job.nearest.measure(features, made, block_size)
    if job.per_class and seed == job.generation.series.seed:
        _write_classes(job, features, judge.real)
    return scores


def _result_of_seed(job: SamplesJob, seed: int) -> Path:
    """Name the result that each seed would have alone; only what is unfinished is kept there."""
    nth = seed - job.generation.series.seed
    return job.result.with_stem(f"{job.result.stem}_{nth}") if nth else job.result


def _protocol(judge: Judge, generation: Generation) -> dict[str, Any]:
    """Describe what the scores of samples depend on."""
    return {
        **judge.protocol(len(generation.series.labels)),
        **generation.protocol(),
        "sampling": option_values(generation.series.sampling),
    }


def mean_and_spread(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each score over several runs, and its standard deviation.

    The latter is "<score>_spread", with one less than the number of runs in the denominator; a
    single run has none.
    """
    scores = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        scores[name] = statistics.fmean(values)
        if len(runs) > 1:
            scores[name + SPREAD] = (
                statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
            )
    return scores


def _write_classes(job: SamplesJob, generated: FeatureSet, real: FeatureSet) -> None:
    """Write the scores of each class alone, and draw them."""
    assert isinstance(job.judge.real, SplitImages), "a file has no classes"
    images = job.judge.real.images
    labels = np.asarray(job.generation.series.labels)
    rows = class_rows(generated, labels, real, labels_of(images), images.class_names)
    table = job.result.with_name(f"{job.result.stem}_classes.csv")
    make_folder(table.parent)
    write_rows(table, rows)
    log_written(table)
    picture = table.with_suffix(".png")
    if draw_or_warn(picture, lambda: draw_rows(picture, rows)):
        log_written(picture)


def _measure_images(job: ImagesJob) -> None:
    """Read the images and score them."""
    data, size = job.judge.data, job.judge.batch_size
    resize = data.preparation.resize if job.judge.how.takes_any else None
    images = open_generated(job.path, data.size, data.spec.channels, resize)
    check_count(len(images), "measuring")
    judge = job.judge.open()
    protocol = {**judge.protocol(len(images)), "measured": job.path.name}
    identity = {**protocol, "files": images.fingerprint, "batch_size": size, "resize": resize}
    unfinished = Unfinished(job.result, identity)
    rest = images_from(images, size, unfinished.done)
    bar = progress_bar("measuring", len(images), unfinished.done, unit="image")
    features = judge.measure(rest, len(images), bar, unfinished)
    scores = judge.compare(features)
    if job.nearest is not None:
        again = partial(_some_blocks, images, size)
        scores |= job.nearest.measure(features, again, size)
    write_scores(job.result, scores, protocol)
    unfinished.remove()


def _some_blocks(images: GeneratedImages, batch_size: int, numbers: list[int]) -> Iterator[Block]:
    """Yield the blocks with these numbers."""
    return (block for i, block in enumerate(images.blocks(batch_size)) if i in numbers)


def _measure_tokenizer(job: TokenizerJob) -> None:
    """Reconstruct the images, score the result, and add what the meter measures per image."""
    assert isinstance(job.judge.real, SplitImages), "a tokenizer reconstructs images"
    tokenizer, judge, images = job.tokenizer.open(), job.judge.open(), job.judge.real.images
    reference = None if job.reference is None else job.reference.open()
    perceptual = perceptual_if_there(job.perceptual_vgg)
    meter = ReconstructionMeter(tokenizer, perceptual)
    batch_size, device = job.judge.batch_size, job.machine.device
    more = {"tokenizer": tokenizer.fingerprint}
    protocol = {**judge.protocol(len(images)), **more}
    how = {"batch_size": batch_size, "device": str(device), "lpips": perceptual is not None}
    identity = {**protocol, **how, "compiled": job.machine.compiled}
    unfinished = Unfinished(job.result, identity, meter)
    # One pass over the images feeds both the meter and the judge.
    workers, rounding = job.judge.data.num_workers, job.judge.how.rounding
    batches = labeled_batches(images, batch_size, workers, device, unfinished.done)
    blocks = (
        (to_uint8(made.reconstructions, rounding), made.labels.numpy())
        for made in meter.reconstruct(batches)
    )
    bar = progress_bar("reconstructing", len(images), unfinished.done, unit="image")
    features = judge.measure(blocks, len(images), bar, unfinished)
    # The FID of reconstructions is called rFID. The meter has no LPIPS without VGG weights.
    scores = judge.compare(features)
    distance = judge.extractor.distance
    all_scores = {f"r{distance}": scores.pop(distance), **scores, "lpips": None, **meter.result()}
    write_scores(job.result, all_scores, protocol)
    if reference is not None:
        # Not an rFID: that compares with the images that were reconstructed, or others of theirs.
        path = job.result.with_stem(f"{job.result.stem}_to_file")
        found = reference.compare(features)
        write_scores(path, found, {**reference.protocol(len(images)), **more})
    unfinished.remove()
