"""--reconstruct: encode and decode the validation images; show and measure the result."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from commands.generation import GRID_COLUMNS
from commands.model_source import find_tokenizer_to_measure
from commands.request import Data, Machine, Request
from commands.tokenizer_source import TokenizerSource
from data.batches import labeled_batches
from data.generated import write_npz
from data.images import ImageDataset
from metrics.reconstruction import ReconstructionMeter
from training.run_folder import RunFolder
from utils.files import make_folder, write_json_atomic
from utils.pictures import save_grid, to_uint8
from utils.progress import log_written

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReconstructJob:
    """A tokenizer to measure."""

    tokenizer: TokenizerSource
    images: ImageDataset
    data: Data
    batch_size: int
    machine: Machine
    run: RunFolder


def resolve(request: Request) -> ReconstructJob:
    """Find the tokenizer and open the validation images.

    Raises:
        UserError: if the tokenizer is missing, or an option does not fit it.
    """
    tokenizer, data, run = find_tokenizer_to_measure(request)
    data.check_workers(request.line.batch_size_vae)
    return ReconstructJob(
        tokenizer=tokenizer,
        images=data.open("validation"),
        data=data,
        batch_size=request.line.batch_size_vae,
        machine=request.machine,
        run=run,
    )


def run(job: ReconstructJob) -> None:
    """Reconstruct the images, and write them and their scores."""
    tokenizer, folder = job.tokenizer.open(), job.run.path
    meter = ReconstructionMeter(tokenizer)
    originals: list[np.ndarray] = []  # the first images, for the picture

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield reconstructions uint8 (B, H, W, C) and labels, and keep the first originals."""
        workers, device = job.data.num_workers, job.machine.device
        batches = labeled_batches(job.images, job.batch_size, workers, device)
        for original, reconstruction, labels in meter.reconstruct(batches):
            if not originals:
                originals.extend(to_uint8(tokenizer.to_rgb(original[:GRID_COLUMNS])))
            yield to_uint8(tokenizer.to_rgb(reconstruction)), labels.numpy()

    # Write all reconstructions to one file, and a picture of the first ones below their originals.
    make_folder(folder)
    first = write_npz(folder / "reconstructions.npz", blocks(), len(job.images), "reconstructing")
    pictures = [*originals, *first[: len(originals)]]
    save_grid(folder / "reconstructions.png", pictures, columns=len(originals))

    # Write and print the scores.
    result = {"images": len(job.images), "split": "validation", **meter.result()}
    write_json_atomic(folder / "reconstruction.json", result)
    for name, value in result.items():
        log.info("%-24s %s", name, f"{value:.4f}" if isinstance(value, float) else value)

    for name in ("reconstructions.npz", "reconstruction.json"):
        log_written(folder / name)
    log_written(folder / "reconstructions.png", "originals above reconstructions")
