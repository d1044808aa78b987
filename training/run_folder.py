"""The names of the files of a run."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFiles:
    """The folder of a run, and its files with names that do not depend on the dataset."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings of each stage."""
        return self.path / "config.json"

    @property
    def lock(self) -> Path:
        """File that a training holds locked."""
        return self.path / ".lock"

    @property
    def samples(self) -> Path:
        """Folder of everything generated."""
        return self.path / "samples"

    @property
    def contact_sheet(self) -> Path:
        """Picture of the images as the networks see them."""
        return self.path / "look.png"

    def evaluation(self, what: str) -> Path:
        """Name the file with the scores of "samples", of given "images" or of the "tokenizer"."""
        return self.path / f"evaluation_{what}.json"

    def resume_state(self, stage: str) -> Path:
        """Name the file with the state from which a stage continues."""
        return self.path / f"resume_{stage}.pt"

    def images(self, stage: str) -> Path:
        """Name the file with the names and sizes of the image files of a stage."""
        return self.path / f"images_{stage}.json"

    def metrics(self, stage: str) -> Path:
        """Name the file with a stage's numbers, one JSON object per line."""
        return self.path / ("metrics.jsonl" if stage == "maskgit" else f"metrics_{stage}.jsonl")

    def curves(self, stage: str) -> Path:
        """Name the picture of a stage's numbers."""
        return self.path / ("curves.png" if stage == "maskgit" else f"curves_{stage}.png")

    def preview(self, stage: str, step: int) -> Path:
        """Name a picture of a stage in training, after this number of steps."""
        return self.samples / f"{stage}_step_{step:07d}.png"


@dataclass(frozen=True)
class RunFolder(RunFiles):
    """The folder `<output_dir>/<run_name>` of one run of a dataset.

    Attributes:
        dataset: name of the dataset, part of the checkpoints' names.
    """

    dataset: str

    @property
    def tokenizer(self) -> Path:
        """Checkpoint of the VQ-GAN."""
        return self.path / f"VQGAN_{self.dataset}.pt"

    @property
    def model(self) -> Path:
        """Checkpoint of the transformer, with its tokenizer."""
        return self.path / f"MaskGIT_{self.dataset}.pt"

    def published(self, stage: str) -> Path:
        """Name the newest checkpoint of a stage; students use the name of other models."""
        return self.tokenizer if stage == "vqgan" else self.model

    def kept(self, stage: str, step: int) -> Path:
        """Name a checkpoint of an earlier step, which is kept beside the newest one."""
        newest = self.published(stage)
        return newest.with_name(f"{newest.stem}_step_{step:07d}{newest.suffix}")

    def best(self, stage: str, score: str = "") -> Path:
        """Name the checkpoint with the lowest validation loss, or with the best other score."""
        newest = self.published(stage)
        name = f"best_{score}" if score else "best"
        return newest.with_name(f"{newest.stem}_{name}{newest.suffix}")

    def all_kept(self, stage: str) -> list[Path]:
        """Find all checkpoints of earlier steps, in the order of their steps."""
        start = f"{self.published(stage).stem}_step_"
        found = self.path.glob(f"{start}*.pt")
        steps = {path: path.stem.removeprefix(start) for path in found}
        numbered = [path for path in steps if steps[path].isdecimal()]
        return sorted(numbered, key=lambda path: int(steps[path]))
