"""--look: what the networks will see of a dataset, and what may be wrong with it."""

import logging
from dataclasses import dataclass

from commands.request import Data, Request
from data.images import ImageDataset
from data.problems import (
    SEEN_AT_START,
    class_counts,
    evenly,
    look_at,
    problems_of_classes,
    problems_of_copies,
    problems_of_files,
    problems_of_pixels,
)
from training.run_folder import RunFolder
from utils.errors import counted, in_one_line
from utils.files import make_folder
from utils.pictures import save_grid
from utils.progress import log_written
from utils.size import size_text

log = logging.getLogger(__name__)

SHEET_COLUMNS = 12
MOST_SHOWN = 120  # images on the contact sheet


@dataclass(frozen=True)
class LookJob:
    """A dataset to look at."""

    data: Data
    train: ImageDataset
    validation: ImageDataset
    run: RunFolder


def resolve(request: Request) -> LookJob:
    """Open both splits; errors as `Data.open`."""
    data = request.data()
    return LookJob(data, data.open("train"), data.open("validation"), request.run())


def run(job: LookJob) -> None:
    """Log what was found in the images, and write a contact sheet."""
    train, validation = job.train, job.validation
    held_out = class_counts(validation)
    log.info("%-24s %8s %10s", "class", "train", "validation")
    for name, count in class_counts(train).items():
        log.info("%-24s %8d %10d", in_one_line(name), count, held_out[name])
    # Read every image.
    workers = job.data.num_workers
    looks, others = (look_at(one, range(len(one)), workers) for one in (train, validation))
    problems = problems_of_classes(train) + problems_of_copies(looks, others)
    problems += [f"training: {text}" for text in problems_of_pixels(train, looks)]
    problems += [f"validation: {text}" for text in problems_of_pixels(validation, others)]
    for problem in problems or ["nothing odd was found"]:
        log.info("- %s", problem)
    # The contact sheet.
    make_folder(job.run.path)
    chosen = evenly(len(train), MOST_SHOWN)
    shown = [train.picture(index)[0] for index in chosen]
    save_grid(job.run.contact_sheet, shown, SHEET_COLUMNS)
    seen = counted(len(shown), "training image")
    log_written(job.run.contact_sheet, f"what the networks see of {seen}")


def log_short_look(train: ImageDataset, validation: ImageDataset) -> None:
    """Log in one line what a few of the images show."""
    counts = class_counts(train).values()
    looks = look_at(train, evenly(len(train), SEEN_AT_START))
    problems = problems_of_classes(train) + problems_of_files(train, validation)
    of_pixels = problems_of_pixels(train, looks)
    if of_pixels:
        problems.append(f"of {len(looks)} seen, " + "; ".join(of_pixels))
    log.info(
        "%s of %s pixels, %s in a class, %s: %s",
        counted(len(train), "training image"),
        size_text(train.size),
        f"{min(counts)} to {max(counts)}" if len({*counts}) > 1 else min(counts),
        counted(len(validation), "validation image"),
        "; ".join(problems) + " (`look` says more)" if problems else "nothing odd in a short look",
    )
