"""The Request, from which every mode makes its Job, and the common parts of several Jobs."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from commands.flags import configure
from commands.options import OPTIONS
from commands.parser import CommandLine
from data.datasets import DATASETS, OWN_IMAGES
from data.folder import is_among
from data.images import ImageDataset
from data.open_dataset import open_dataset
from data.spec import AS_IT_IS, DatasetSpec, Preparation, Split
from training.run_folder import RunFolder
from utils.errors import FieldError, UserError, counted
from utils.processes import Processes
from utils.size import Size, size_of, size_text
from utils.workers import check_workers


@dataclass(frozen=True)
class Machine:
    """Where and how to compute.

    Attributes:
        precision: dtype of matrix products.
        compiled: whether networks go through torch.compile.
        cuda_graphs: whether training and sampling repeat their work as CUDA graphs.
    """

    device: torch.device
    precision: torch.dtype
    processes: Processes
    compiled: bool
    cuda_graphs: bool = False


@dataclass(frozen=True)
class Data:
    """A dataset at one size.

    Attributes:
        output_folder: folder of all runs.
        cache_folder: folder of the token caches, and of the notes of checked images.
        main_first: a block that the main process enters first; see `Processes.main_first`.
        opened: the open splits, which the modes share, by dataset, split, size and preparation.
    """

    spec: DatasetSpec
    size: Size
    folder: Path
    output_folder: Path
    cache_folder: Path
    num_workers: int
    may_download: bool
    main_first: Callable[[], AbstractContextManager[None]]
    opened: dict[Any, Any] = field(default_factory=dict, repr=False)
    preparation: Preparation = AS_IT_IS

    def open(self, split: Split) -> ImageDataset:
        """Open one split, once for all modes.

        Raises:
            UserError: if files are missing or damaged and cannot be fetched; or if what the program
                writes would count as the user's own images at the next start.
        """
        places = {"output_dir": self.output_folder, "cache_dir": self.cache_folder}
        for name, place in places.items() if self.spec.name == OWN_IMAGES else ():
            if is_among(place, self.folder):
                raise UserError(
                    f"`{name}` {place} is among the images of `data_dir` {self.folder}, so what is "
                    "written there would count as images: give another, and move what is there"
                )
        key = (self.spec.name, split, self.size, self.preparation)
        if key not in self.opened:
            with self.main_first():
                self.opened[key] = open_dataset(
                    self.spec.name,
                    split,
                    self.folder,
                    self.size,
                    download=self.may_download,
                    notes=self.cache_folder,
                    preparation=self.preparation,
                )
        images: ImageDataset = self.opened[key]
        return images

    def check_workers(self, batch_size: int) -> None:
        """Refuse more --num_workers than the machine has room for; errors as `check_workers`."""
        check_workers(self.num_workers, batch_size * self.spec.channels * math.prod(self.size))


@dataclass(frozen=True)
class Request:
    """A mode makes its Job from this: command line, machine and the Jobs of earlier modes.

    Attributes:
        line: the command line; options of a resumed run are already filled in.
        jobs: Jobs of the modes that run earlier, by name of the mode. They say, for example, which
            tokenizer --train_vae will make.
        continued: for each stage that continues, its settings in config.json.
        opened: models, splits and networks that modes share.
    """

    line: CommandLine
    machine: Machine
    jobs: dict[str, Any] = field(default_factory=dict)
    continued: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    opened: dict[Any, Any] = field(default_factory=dict)

    def data(self, dataset: str | None = None, size: Size | None = None) -> Data:
        """Return the dataset of the command line, or that of a checkpoint.

        Args:
            dataset: name of the checkpoint's dataset; None takes --dataset.
            size: size of the checkpoint's images; None takes --size.

        Raises:
            UserError: if --size differs from the size of the checkpoint's images.
        """
        line = self.line
        spec = DATASETS[dataset or line.dataset]
        asked = size_of(line.size or spec.size)
        if size is not None and line.size is not None and asked != size:
            reason = f"the model's images have {size_text(size)} pixels"
            raise FieldError("image_size", line.size, reason)
        processes = self.machine.processes
        # If config.json names the folder, it is only read: the file may come from anybody.
        is_ours = "data_dir" in line.given or line.data_dir == OPTIONS["data_dir"].default_value
        return Data(
            spec=spec,
            size=size or asked,
            folder=Path(line.data_dir),
            output_folder=Path(line.output_dir),
            cache_folder=Path(line.cache_dir or Path(line.output_dir) / "tokens"),
            num_workers=line.num_workers,
            # Several processes may run on machines with a data folder each.
            may_download=processes.size == 1 and not line.dry_run and is_ours,
            main_first=processes.main_first,
            opened=self.opened,
            preparation=configure(Preparation, line),
        )

    def run(self, dataset: str | None = None) -> RunFolder:
        """Return the run folder for a dataset; None takes --dataset."""
        return run_folder(self.line, dataset or self.line.dataset)

    def check_n_classes(self, num_classes: int, source: Path | str) -> None:
        """Refuse an --n_classes that differs from the number of classes of `source`."""
        line = self.line
        if "n_classes" in line.given and line.n_classes != num_classes:
            raise UserError(
                f"--n_classes {line.n_classes} contradicts {source}, which has "
                f"{counted(num_classes, 'class')}; leave the option out"
            )


def run_folder(line: CommandLine, dataset: str) -> RunFolder:
    """Return the folder that a command line names for a run of a dataset."""
    return RunFolder(Path(line.output_dir) / (line.run_name or dataset), dataset)
