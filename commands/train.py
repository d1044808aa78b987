"""--train: its Job, its tokens and its previews; MaskGIT.py runs it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from commands.flags import configure
from commands.generation import (
    PREVIEW_IMAGES,
    guided_if_possible,
    plan_table,
    preview_writer,
    sampling_of_line,
    series_of,
)
from commands.init import (
    Origin,
    carry_of,
    fields_without_option,
    kept_origin,
    shaped_as,
    transformer_origin,
)
from commands.judging import check_judge
from commands.options import MEASURING
from commands.parser import CommandLine
from commands.request import Data, Machine, Request
from commands.resume import former_classes, kept_fields, run_record
from commands.stages import new_config
from commands.tokenizer_source import TokenizerSource, find_tokenizer, warn_if_unfinished
from commands.training_jobs import (
    TrainingJob,
    check_training,
    loop_config,
    open_splits,
)
from commands.training_scores import ScoresSource, evaluation_of, resolve_scores
from commands.trial import Cost, cost_of, cost_of_steps, cost_of_training, disk_of
from data.content import digest_of
from data.images import ImageDataset
from data.spec import Split
from data.token_cache import cache_bytes, cached_tokens
from data.token_set import TokenSet, token_type
from models.family import Transformer
from models.generator import ImageSeries
from models.model import Model
from models.open import family_of, new_transformer
from models.shapes import TokenizerShape, TransformerShape
from models.tokenizer import Tokenizer
from training.config import TrainingConfig
from training.loop import Evaluation
from training.optimizer import count_moments, freeze
from training.run_record import RunRecord, check_made_from
from training.runs import steps_made
from training.transformer_stage import MaskGITStage, num_parts
from training.validation import MOST_IMAGES
from utils.checkpoint import on_meta
from utils.device import float32_name
from utils.errors import UserError
from utils.weights import count_parameters


@dataclass(frozen=True)
class TrainJob(TrainingJob):
    """A transformer to train.

    Attributes:
        previews: the images of the preview grids.
        start: weights of a trained transformer that it starts from; empty without one.
        scores: samples to score while training; None scores none.
    """

    tokenizer: TokenizerSource
    config: TransformerShape
    training: TrainingConfig
    previews: ImageSeries
    start: Mapping[str, Tensor]
    scores: ScoresSource | None

    def model(self, network: Transformer, tokenizer: Tokenizer) -> Model:
        """Return the model of a transformer in training."""
        names = self.splits.train.class_names
        model = Model(network, tokenizer, self.data.spec.name, names, self.machine.precision)
        model.cuda_graphs.is_on &= self.machine.cuda_graphs
        return model

    @property
    def former_classes(self) -> list[str]:
        """Names of the classes of the run that continues, in the order of the labels."""
        return former_classes(self.record.continues or {}, self.run, "maskgit")


def check(line: CommandLine) -> None:
    """Refuse options that contradict --train or each other."""
    check_training(line, "maskgit", "checkpoint")
    if line.evaluate_every:
        check_judge(line)


def ignores(line: CommandLine) -> set[str]:
    """Name the options of --train that have no effect without --evaluate_every."""
    of_scores = {"evaluate_samples", *(o.name for o in MEASURING.options if "train" in o.modes)}
    return set() if line.evaluate_every else of_scores


def resolve(request: Request) -> TrainJob:
    """Find tokenizer and images, and make all configs of the training.

    Raises:
        UserError: if an option does not fit the tokenizer or the dataset. This includes sampling
            options, which the previews use.
    """
    # The tokenizer decides the size of the images; both decide the shape of the transformer.
    line = request.line
    tokenizer = find_tokenizer(request)
    _check_tokenizer(request, tokenizer)
    data = request.data(size=tokenizer.shape.image_size)
    data.check_workers(line.batch_size)
    splits = open_splits(request, data, "maskgit")
    warn_if_unfinished(request, len(splits.train))
    origin = transformer_origin(request, tokenizer)
    line = shaped_as(line, origin.network.config) if origin else line
    config = _shape_for(replace(request, line=line), tokenizer.shape, splits.train, origin)
    # The training. Without a null class no label is dropped.
    line = guided_if_possible(line, TrainingConfig, "label_drop", config.null_class)
    kept = kept_fields(request, "maskgit", config.usual)
    training = configure(TrainingConfig, line, **kept)
    training.validate_for(config)
    names = splits.train.class_names
    network = on_meta(lambda: new_transformer(config))
    freeze(network, training.freeze, "TrainingConfig.freeze")
    start = origin and origin.start(
        network, config, carry_of(origin, config, names, tokenizer.shape.grid)
    )
    begun = origin.made_from(config) if origin else kept_origin(request, "maskgit")
    loop = loop_config(request.line, "maskgit", training, len(splits.train))
    request.machine.processes.check_share(loop.images_per_step)
    settings = {"transformer's shape": vars(config), "settings of the training": vars(training)}
    request.machine.processes.check_equal(settings)
    sampling = sampling_of_line(line, config)
    sampling.validate_for(config)
    shown = min(line.num_samples, PREVIEW_IMAGES)
    return TrainJob(
        run=request.run(),
        machine=request.machine,
        splits=splits,
        data=data,
        loop=loop,
        record=run_record(
            request, line, "maskgit", {**splits.made_from, **begun, **kept}, data.size, splits.files
        ),
        tokenizer=tokenizer,
        config=config,
        training=training,
        previews=series_of(line, config, names, sampling, shown, range(len(names))),
        start=start or {},
        scores=resolve_scores(request, data, config, sampling),
    )


def _check_tokenizer(request: Request, tokenizer: TokenizerSource) -> None:
    """Refuse another tokenizer than that of the run that continues, before any work.

    Raises:
        UserError: if it is another one, or will be; or if the processes have different ones.
    """
    run, continues = request.run(), request.continued.get("maskgit")
    if tokenizer.fingerprint is not None:
        now = {"tokenizer": tokenizer.fingerprint}
        request.machine.processes.check_equal(now)
        check_made_from(now, continues or {}, run)
    elif continues is not None and request.jobs["train_vae"].goes_on:
        raise UserError(
            f"--train_vae goes on, and would change the tokenizer of the transformer in {run.path}"
            ": leave --train_vae out, or start another --run_name"
        )


def encoder_of(
    tokenizer: Tokenizer, data: Data, machine: Machine, batch_size: int
) -> Callable[[ImageDataset, Split], TokenSet]:
    """Return `cached_tokens` with a tokenizer: the images of a split and its name -> tokens."""
    identity = {
        "dataset": data.spec.name,
        "precision": float32_name(machine.device),
        "tokenizer": tokenizer.encoder_fingerprint,
    }
    return partial(
        cached_tokens,
        encode=tokenizer.encode_bytes,
        seq_len=tokenizer.config.seq_len,
        identity=identity,
        cache_dir=data.cache_folder,
        codebook_size=tokenizer.codebook_size,
        batch_size=batch_size,
        num_workers=data.num_workers,
        processes=machine.processes,
    )


def completed_record(job: TrainJob, tokenizer: Tokenizer, tokens: TokenSet) -> RunRecord:
    """Add tokenizer and tokens to the things that the run is made from.

    Raises:
        UserError: if the processes have different ones.
    """
    of_tokens = {
        "tokenizer": tokenizer.fingerprint,
        "tokens": digest_of(tokens.tokens.reshape(-1, tokens.tokens.shape[-1])),
    }
    job.machine.processes.check_equal(of_tokens)
    return replace(job.record, made_from={**job.record.made_from, **of_tokens})


def previews_of(job: TrainJob, tokenizer: Tokenizer) -> Callable[[Transformer, Path], None]:
    """Return the function that writes the preview grids, as `preview_writer` does."""
    return preview_writer(lambda network: job.model(network, tokenizer), job.previews)


def evaluation_in(job: TrainJob, tokenizer: Tokenizer, network: Transformer) -> Evaluation | None:
    """Return the evaluation of a network in training; None without `evaluate_every`."""
    return evaluation_of(job.scores, lambda: job.model(network, tokenizer), job.machine.processes)


def describe(job: TrainJob) -> dict[str, Any]:
    """Return what --dry_run prints about this Job."""
    config, splits = job.config, job.splits
    network = new_transformer(config)
    freeze(network, job.training.freeze, "TrainingConfig.freeze")
    parameters, moments = count_parameters(network), count_moments(network, job.training)
    both, dtype = (splits.train, splits.validation), token_type(config.codebook_size)
    cache = sum(cache_bytes(len(one), one.num_views, config.seq_len, dtype) for one in both)
    # Raw and averaged weights are in both; the state has moments too, a checkpoint the tokenizer.
    shape = job.tokenizer.shape
    tokenizer = count_parameters(on_meta(lambda: family_of(shape).network(shape)))
    numbers = 2 * parameters + moments, 2 * parameters + tokenizer
    checkpoints = disk_of(job.loop, *numbers, is_scored=job.scores is not None)
    return {
        "images": f"{len(splits.train)} train, {len(splits.validation)} validation",
        "tokens per image": f"{config.seq_len}, codebook of {config.codebook_size}",
        "transformer": f"{parameters / 1e6:.2f} M parameters",
        "optimizer steps": job.length,
        "stage 2 takes": _cost(job),
        "disk": f"{cache / 1e6:.0f} MB of tokens, {checkpoints}",
        "plan": plan_table(job.previews.sampling, config.seq_len),
    }


def _cost(job: TrainJob) -> str:
    """Measure what a process needs for the training, and for the tokens."""
    config, machine, splits = job.config, job.machine, job.splits
    training = replace(job.training, grad_accum=1)
    generator = np.random.default_rng(0)
    dtype = token_type(config.codebook_size)

    def stage(count: int) -> MaskGITStage:
        shape = (1, count, config.seq_len)
        tokens = generator.integers(0, config.codebook_size, shape).astype(dtype)
        some = TokenSet(tokens, np.zeros(count, np.int64))
        return MaskGITStage(
            config, training, some, some, device=machine.device, precision=machine.precision,
            checkpoint_entries={}, preview=lambda *_: None, cuda_graphs=machine.cuda_graphs,
        )  # fmt: skip

    def encoding(count: int) -> Callable[[], Tensor]:
        # Its own tokenizer may not be trained yet.
        shape = job.tokenizer.shape
        tokenizer = Tokenizer(family_of(shape).network(shape))
        pixels = torch.zeros(count, job.data.spec.channels, *job.data.size, dtype=torch.uint8)
        return lambda: tokenizer.to(machine.device).encode_bytes(pixels).cpu()

    # A process computes its share of a batch in parts.
    own = math.ceil(job.loop.images_per_step / machine.processes.size)
    parts = num_parts(own, config.seq_len, job.training.grad_accum, machine.device.type)
    step = cost_of_steps(stage, own, parts, machine.device)
    tokens = cost_of(encoding, own, machine.device)
    images = len(splits.train) * splits.train.num_views + len(splits.validation)
    seconds = tokens.seconds * images / own / machine.processes.size
    step = Cost(step.seconds, max(step.memory, tokens.memory))
    held_out = min(len(splits.validation), MOST_IMAGES)
    made = steps_made("maskgit", job.run, job.record)
    return cost_of_training(step, job.num_steps, made, job.loop, held_out, seconds)


def _shape_for(
    request: Request, tokenizer: TokenizerShape, images: ImageDataset, origin: Origin | None
) -> TransformerShape:
    """Return the shape of a transformer for these tokens and classes; errors as in `resolve`."""
    line = request.line
    kind = new_config("transformer", line)
    known = {
        "codebook_size": tokenizer.codebook_size,
        "num_classes": len(images.class_names),
        "seq_len": tokenizer.seq_len,
        "splits": tokenizer.splits,  # only of families that see several tokens of a cell together
        "grid": tokenizer.grid,
        "null_trained": line.drop_label > 0,  # some families have no null class
    }
    known = fields_without_option(request, "maskgit", kind, origin) | known
    own = {field.name for field in fields(kind)}
    config: TransformerShape = configure(kind, line, **{n: known[n] for n in known.keys() & own})
    config.validate()
    request.check_n_classes(config.num_classes, line.data_dir)
    return config
