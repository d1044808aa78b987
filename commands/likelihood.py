"""--evaluate likelihood: how well a model predicts the tokens of real images."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from commands.generation import GRID_COLUMNS
from commands.judging import SPLITS
from commands.model_source import ModelSource, data_of, find_model
from commands.parser import CommandLine
from commands.request import Data, Machine, Request
from commands.train import encoder_of
from data.content import in_order
from data.images import ImageDataset
from data.spec import Split
from data.token_set import DeviceTokens, TokenSet
from metrics.likelihood_bound import Bounder, image_interval, mask_interval, typicality
from metrics.report import report
from utils.errors import FieldError, UserError
from utils.files import make_folder, write_csv_atomic, write_json_atomic
from utils.pictures import save_grid
from utils.progress import log_written
from utils.seeding import rng
from utils.version import VERSION

log = logging.getLogger(__name__)

PAIRS, CLASSIFIER_MASKS = 2, 16  # of an image: pairs of masks, and masks to classify it


@dataclass(frozen=True)
class LikelihoodJob:
    """A model whose likelihood is measured.

    Attributes:
        images: the images of the split.
        num_images: how many of them are measured, evenly spread over the split.
        num_classified: how many are classified too.
        result: file for the scores.
    """

    model: ModelSource
    images: ImageDataset
    split: Split
    data: Data
    num_images: int
    num_classified: int
    seed: int
    batch_size: int
    machine: Machine
    result: Path


def check(line: CommandLine) -> None:
    """Refuse images in files, and a reference that is not a split."""
    if line.reference not in (None, *SPLITS):
        raise FieldError("reference", line.reference, f"choose from {', '.join(SPLITS)}")
    if line.images:
        raise UserError("--evaluate likelihood measures the dataset's images; leave --images out")


def resolve_likelihood(request: Request) -> LikelihoodJob:
    """Find the model and the images.

    Raises:
        UserError: if the model is missing, the classes are not its own, or there are too few
            images.
    """
    line, model = request.line, find_model(request)
    data = data_of(request, model)
    data.check_workers(line.batch_size)
    split: Split = line.reference or "validation"
    images = in_order(data.open(split), model.class_names)
    names = list(images.class_names)
    if names != list(model.class_names)[: len(names)]:
        raise UserError(f"{model.path} was trained on other classes than those of {data.folder}")
    count = min(line.num_samples, len(images)) if "num_samples" in line.given else len(images)
    if count < 2:
        raise UserError(f"too few images to measure a likelihood: {count}; at least 2 are needed")
    if line.classify > count:
        raise FieldError("classify", line.classify, f"only {count} images are measured")
    if line.classify and (len(names) < 2 or images.picture(0)[1] is None):
        raise FieldError("classify", line.classify, "the images do not have one class of several")
    return LikelihoodJob(
        model=model,
        images=images,
        split=split,
        data=data,
        num_images=count,
        num_classified=line.classify,
        seed=line.seed,
        batch_size=line.batch_size,
        machine=request.machine,
        result=model.run.evaluation("likelihood"),
    )


def run(job: LikelihoodJob) -> None:
    """Measure the likelihood; write the scores, a row for each image, and a picture."""
    model = job.model.open()
    encode = encoder_of(model.tokenizer, job.data, job.machine, job.batch_size)
    tokens = encode(job.images, job.split)
    bounder = Bounder(
        model.transformer,
        DeviceTokens(tokens, job.machine.device),
        PAIRS,
        job.seed,
        job.machine.precision,
        job.batch_size,
    )
    chosen = spread_evenly(len(tokens), job.num_images)
    labels = tokens.classes(chosen, rng(job.seed, "likelihood labels"))
    nats = bounder.nats(chosen, labels, "measuring the likelihood")
    means, mean = nats.mean(1), float(nats.mean())
    scores = {
        "nats_per_token": mean,
        "interval": image_interval(nats, labels),
        "interval_of_masks": mask_interval(nats),
        "bits_per_token": mean / math.log(2),
        "nats_per_image": mean * tokens.seq_len,
        **_classification(job, tokens, bounder),
    }
    odd = typicality(means, labels)
    _write_picture(job, chosen, odd)
    _write_table(
        job, {"image": chosen, "label": labels, "nats_per_token": means, "typicality": odd}
    )
    protocol = _protocol(job)
    found = {"scores": scores, "basis": protocol["basis"], "protocol": protocol}
    write_json_atomic(job.result, found)
    log.info("%s", report(scores, protocol))
    log_written(job.result)


def spread_evenly(total: int, count: int) -> np.ndarray:
    """Choose `count` different indices of 0..total-1, evenly spread: int64 (count,)."""
    return np.arange(count) * total // count


def _classification(job: LikelihoodJob, tokens: TokenSet, bounder: Bounder) -> dict[str, float]:
    """Return the share of images whose own class gives them the highest likelihood, if asked."""
    if not job.num_classified:
        return {}
    chosen = spread_evenly(len(tokens), job.num_classified)
    found = bounder.classify(chosen, len(job.images.class_names), CLASSIFIER_MASKS)
    return {"likelihood_accuracy": float((found == tokens.labels[chosen]).mean())}


def _protocol(job: LikelihoodJob) -> dict[str, Any]:
    """Return what is needed to compare the scores with others."""
    model = job.model.open()
    return {
        "basis": f"tokens of {model.tokenizer.fingerprint}, not pixels",
        "images": job.num_images,
        "dataset": job.data.spec.name,
        "split": job.split,
        "source": job.images.fingerprint[:16],
        "tokens_per_image": job.model.shape.seq_len,
        "codebook_size": job.model.shape.codebook_size,
        "masks": f"{PAIRS} pairs for each image; {CLASSIFIER_MASKS} of half or more to classify",
        "classified": job.num_classified,
        "checkpoint": {"file": job.model.path.name, "fingerprint": model.fingerprint},
        "tokenizer": model.tokenizer.fingerprint,
        "seed": job.seed,
        "precision": str(job.machine.precision),
        "program": VERSION,
    }


def _write_picture(job: LikelihoodJob, chosen: np.ndarray, odd: np.ndarray) -> None:
    """Draw the images that are farthest from the mean of their class, above the closest ones."""
    order = np.abs(odd).argsort()
    columns = min(GRID_COLUMNS, len(chosen))
    shown = chosen[np.concatenate([order[::-1][:columns], order[:columns]])]
    pixels = [job.images.picture(int(index))[0] for index in shown]
    path = job.result.with_suffix(".png")
    make_folder(path.parent)
    save_grid(path, pixels, columns=columns)
    log_written(path, "the oddest images of their classes, above the most typical ones")


def _write_table(job: LikelihoodJob, columns: Mapping[str, np.ndarray]) -> None:
    """Write a row for each image, as CSV."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    write_csv_atomic(job.result.with_suffix(".csv"), [columns, *rows])
