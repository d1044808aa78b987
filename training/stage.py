"""What every stage of training can do, and the files that it is saved in."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.family import Transformer
from training.config import LoopConfig, Training
from training.ema import EMA
from training.learning_rate import LearningRate
from training.optimizer import load_optimizers
from training.run_folder import RunFolder
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError, one_line
from utils.files import atomic_write
from utils.plain import ADDED_LATER, from_plain, to_plain
from utils.weights import load_weights


class Stage(ABC):
    """Networks in training with their data and optimizers, as the loop sees them.

    Attributes:
        name: one of `training.run_record.STAGES`, part of its file names.
        kind: the kind of its checkpoint, "vqgan" or "maskgit".
        previews_are_generated: whether previews show only generated images. They may then leave the
            machine.
        networks: what a step changes, by the names in a saved state. "ema" has averaged weights.
        optimizers: by their names in a saved state.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    previews_are_generated: ClassVar[bool]
    steps_per_epoch: int
    learning_rate: LearningRate
    training: Training
    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    @abstractmethod
    def train_step(self, step: int) -> dict[str, Tensor]:
        """Make an optimizer step.

        Args:
            step: its number, from 0.

        Returns:
            Metrics by name, scalars on the device; "loss" and "skipped" are required. "skipped" is
            1 if the loss or the gradient was not finite; the weights must then be unchanged. If the
            loss is finite, all metrics are finite.

        Raises:
            UserError: if images cannot be read; nothing has changed then.
        """

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Measure the averaged weights on the validation split; returns at least "loss"."""

    @abstractmethod
    def preview(self, path: Path) -> None:
        """Write a picture of what the averaged weights produce."""

    @abstractmethod
    def checkpoint(self, step: int) -> dict[str, Any]:
        """Return the contents of a checkpoint after `step` steps."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that lets training continue bit for bit."""
        parts: dict[str, Any] = {**self.networks, **self.optimizers}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; ValueError if it does not fit."""
        for name, network in self.networks.items():
            load_weights(network, state[name])
        load_optimizers(self.optimizers, state, self.training)


class GeneratorStage(Stage):
    """A stage whose result is a transformer.

    Attributes:
        model: the network with the raw weights.
        ema: the averaged weights, for validation, previews and sampling.
        checkpoint_entries: what else a checkpoint holds: dataset, class names, tokenizer and more.
        write_preview: writes a picture of samples of a transformer to a path.
    """

    kind = "maskgit"
    previews_are_generated = True
    model: Transformer
    ema: EMA[Transformer]
    checkpoint_entries: Mapping[str, Any]
    write_preview: Callable[[Transformer, Path], None]

    def preview(self, path: Path) -> None:
        """Write a grid of samples of the averaged weights."""
        self.write_preview(self.ema.module, path)

    def checkpoint(self, step: int) -> dict[str, Any]:
        """Return the contents of a checkpoint: config, raw and averaged weights, and more."""
        return {
            **self.checkpoint_entries,
            "family": self.model.config.family,
            "config": to_plain(self.model.config),
            "step": step,
            "weights": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
        }


@dataclass
class Position:
    """The progress of a run; it is saved with the state.

    Attributes:
        step: optimizer steps made.
        best_loss: lowest validation loss so far.
        best_step: the step after which `best_loss` was measured.
        best_train_loss: the mean training loss of the epoch that ended there.
        wandb_id: id of the run at Weights & Biases; None without one.
        wandb_home: digests of the path and the inode number of the run folder that the id belongs
            to; empty in older states.
        length: steps of the whole run if they were chosen to fit a time limit, or if it ended
            early; 0 if the number of epochs decides.
        best_fid: lowest FID of samples so far.
        fid_basis: the `Evaluation.basis` of `best_fid`.
        sums: sum of each metric since the last logged row, and its number of steps. They let a
            resumed run log the same rows as an uninterrupted one.
        epoch_loss: sum of the losses of the epoch up to the last logged row.
        epoch_steps: number of steps in `epoch_loss`; older states begin to count where they go on.
    """

    step: int = 0
    best_loss: float = math.inf
    wandb_id: str | None = None
    wandb_home: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    sums: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    best_step: int = field(default=0, metadata=ADDED_LATER)
    best_train_loss: float = field(default=-math.inf, metadata=ADDED_LATER)
    length: int = field(default=0, metadata=ADDED_LATER)
    best_fid: float = field(default=math.inf, metadata=ADDED_LATER)
    fid_basis: str = field(default="", metadata=ADDED_LATER)
    epoch_loss: float = field(default=0.0, metadata=ADDED_LATER)
    epoch_steps: int = field(default=0, metadata=ADDED_LATER)

    def validate(self) -> None:
        """Check values that come from a file.

        Raises:
            ValueError, TypeError or AttributeError: if a value is impossible.
        """
        best = (self.best_loss, self.best_fid)
        if not 0 <= self.best_step <= self.step or any(map(math.isnan, best)) or self.length < 0:
            raise ValueError(f"step {self.step} of {self.length}, best loss and FID {best}")
        if self.epoch_steps < 0:
            raise ValueError(f"an epoch of {self.epoch_steps} steps")
        for name, (total, count) in self.sums.items():
            if not isinstance(count, int) or total.shape != () or not total.isfinite():
                raise ValueError(f"sum of {name} {total!r} over {count!r} steps")


def load_state(stage: Stage, run: RunFolder) -> Position:
    """Load the last saved state of a run into a stage.

    Returns:
        The position of the run at that time.

    Raises:
        UserError: if the state cannot be read or does not belong to this stage.
    """
    return load_position(stage.name, run, stage.load_state_dict)


def load_position(
    name: str, run: RunFolder, load: Callable[[Mapping[str, Any]], None] = lambda _state: None
) -> Position:
    """Load the position in the last saved state of a stage; the rest of the state goes to `load`.

    Raises:
        UserError: as `load_state`.
    """
    path = run.resume_state(name)
    state = load_checkpoint(path, f"{name}-resume")
    try:
        load(state["stage"])
        position = from_plain(Position, state["position"])
        position.validate()
        position.best_step = position.best_step or position.step  # earlier versions did not save it
    except Exception as error:  # wrong contents can raise anything
        raise UserError(f"{path} does not fit this run: {one_line(error)}") from error
    return position


def run_length(stage: Stage, config: LoopConfig, position: Position) -> int:
    """Return the number of steps of the whole run."""
    return position.length or config.epochs * stage.steps_per_epoch


def save_state(stage: Stage, run: RunFolder, position: Position) -> None:
    """Write the state that `load_state` reads."""
    contents = {"position": vars(position).copy(), "stage": stage.state_dict()}
    save_checkpoint(run.resume_state(stage.name), f"{stage.name}-resume", contents)


def publish_checkpoint(
    stage: Stage, run: RunFolder, position: Position, config: LoopConfig, keep: int = 0
) -> None:
    """Write the checkpoint, and keep the last `keep` ones with their step in the name.

    The oldest is deleted last, so at least `keep` complete ones exist at all times.
    """
    best = run.best(stage.name)
    contents = stage.checkpoint(position.step)
    if keep:
        save_checkpoint(run.kept(stage.name, position.step), stage.kind, contents)
    # Before the first validation the best file is of another run, or of fewer images and classes.
    if config.publish == "best" and best.is_file() and position.best_loss < math.inf:
        with atomic_write(run.published(stage.name)) as file:
            file.write(best.read_bytes())
    else:
        save_checkpoint(run.published(stage.name), stage.kind, contents)
    if keep:
        for old in run.all_kept(stage.name)[:-keep]:
            old.unlink()
