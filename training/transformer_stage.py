"""Stage 2: train the transformer to fill in hidden tokens.

The random choices of a step (images, flips, labels, hidden tokens) are drawn for the whole batch
from (seed, purpose, step), and every process takes its share. Only dropout differs: each process
draws its own.

Axes: B images of a step, L tokens of an image, K codebook, N hidden tokens.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.token_set import DeviceTokens, TokenSet
from models.batch_sizes import compiled_for_any
from models.family import Transformer
from models.masking import MaskedBatch, hide, masks_of_ratio
from models.open import new_transformer
from models.schedules import MASK_SCHEDULES
from models.shapes import TransformerShape
from training import validation
from training.config import TrainingConfig
from training.ema import EMA
from training.growth import grown_state
from training.learning_rate import LearningRate
from training.optimizer import freeze, linear_weights, make_optimizers, step_unless
from training.stage import GeneratorStage
from training.working_copy import WorkingCopy
from utils.cuda_graphs import CudaGraphs
from utils.device import autocast, strictly_deterministic
from utils.processes import ALONE, Processes
from utils.seeding import derive_seed, rng

# On the CPU a step is computed in parts of at most this many tokens; larger ones are slower.
CPU_PART_TOKENS = 4096
# On the CPU torch sets up a matrix product in bfloat16 once for each number of rows, and keeps
# every setup in memory. So the hidden tokens of a part are padded to a multiple of this.
CPU_ROWS = 128
# A CUDA graph has a fixed number of rows. So the hidden tokens are padded to a multiple of this
# share of all: two or three graphs serve nearly all steps.
GRAPH_ROWS = 1 / 16


class MaskGITStage(GeneratorStage):
    """The transformer, its optimizers and its data.

    Attributes:
        images_per_step: images per step over all processes.
        steps_per_epoch: full steps per epoch; the remaining images are left out.
    """

    name = "maskgit"
    training: TrainingConfig
    _gradients: list[Tensor] | None = None  # of the graphs

    def __init__(
        self,
        config: TransformerShape,
        training: TrainingConfig,
        train: TokenSet,
        held_out: TokenSet,
        *,
        device: torch.device,
        precision: torch.dtype,
        checkpoint_entries: Mapping[str, Any],
        preview: Callable[[Transformer, Path], None],
        start: Mapping[str, Tensor] | None = None,
        former_classes: Sequence[str] = (),
        compile_model: bool = False,
        cuda_graphs: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        """Build the model with the run's seed.

        Args:
            checkpoint_entries: what else a checkpoint holds: dataset, class names, tokenizer.
            preview: writes a picture of samples of a transformer to a path.
            start: weights by name that replace the random ones; None for random weights.
            former_classes: those of a saved state that names none, at most as many as the model's.
            compile_model: whether the training step runs through torch.compile.
            cuda_graphs: whether CUDA graphs compute the gradients, unless processes share them.
            processes: the processes that train together, at most one per image of a step.

        Raises:
            FieldError: if labels are dropped without a null class; if `freeze` fits none, or all.
        """
        training.validate_for(config)
        self.config, self.training = config, training
        self.train_tokens = DeviceTokens(train, device)
        self.validation_tokens = DeviceTokens(held_out, device)
        self.device, self.precision, self.processes = device, precision, processes
        self.checkpoint_entries, self.write_preview = checkpoint_entries, preview
        self._class_names = list(checkpoint_entries.get("class_names", ()))
        self._former_classes = former_classes
        self.images_per_step = min(training.batch_size, len(train))
        self.steps_per_epoch = len(train) // self.images_per_step
        times = training.epochs, training.warmup_epochs, self.steps_per_epoch
        self.learning_rate = LearningRate(training.lr, *times, training.decay)
        # The model and its optimizers.
        torch.manual_seed(derive_seed(training.seed, "weights"))
        model = self.model = new_transformer(config).to(device)
        model.load_state_dict(start or {}, strict=False)  # what `start` lacks stays random
        freeze(model, training.freeze, "TrainingConfig.freeze")
        self.optimizers = make_optimizers(model, linear_weights(model), training, precision)
        # This process's part of a step, and the exchange of gradients with the others.
        images = self._images_here = math.ceil(self.images_per_step / processes.size)
        self._num_parts = num_parts(images, config.seq_len, training.grad_accum, device.type)
        self._copy = WorkingCopy(model, precision, processes)
        self._shared = processes.share_gradients(self._copy.network)
        self._forward = compiled_for_any(self._shared) if compile_model else self._shared
        self._graphs = CudaGraphs(cuda_graphs and processes.size == 1 and not model.waits)
        # Sharing gave all processes the same weights, which the average starts from.
        self.ema = EMA(model, training.ema_decay)
        self.networks = {"model": model, "ema": self.ema.module}
        self._fix_exchange_order()

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Make an optimizer step.

        Returns:
            Scalars on the device: "loss"; "gradient_norm" before clipping; and "skipped", 1 if one
            of the two was not finite. The weights are unchanged then.
        """
        processes = self.processes
        self._shared.train()
        # Dropout differs between processes; all else is drawn for the whole batch.
        torch.manual_seed(derive_seed(self.training.seed, "dropout", step, processes.rank))
        parts, num_hidden = self.draw_batch(step)
        count = torch.full((), float(num_hidden), device=self.device)
        # Add up the gradients of the parts; the last one exchanges them with other processes.
        loss = torch.zeros((), device=self.device)
        self._copy.renew()
        if self._graphs.is_on:
            self._fix_gradients_in_place()
        for part in parts:
            is_last = part is parts[-1]
            with nullcontext() if is_last else processes.keep_gradients(self._shared):
                work = partial(self._add_gradients, part, count)
                on, inputs = self._graphs.is_on, [*part, count]
                loss += self._graphs.run("gradients", inputs, work) if on else work()
        processes.add_up(loss)
        return {"loss": loss, **self._update(step, loss)}

    def _fix_gradients_in_place(self) -> None:
        """Set the gradients to 0, always in the same memory, which the graphs add to."""
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self._gradients = self._gradients or [torch.empty_like(weight) for weight in trained]
        torch._foreach_zero_(self._gradients)
        for weight, gradient in zip(trained, self._gradients, strict=True):
            weight.grad = gradient

    def _add_gradients(self, part: MaskedBatch, count: Tensor) -> Tensor:
        """Add the gradients of a part to those of the weights, and return its loss.

        Args:
            count: float32 scalar, the number of hidden tokens of the step over all processes.
        """
        self._copy.clear_gradients()  # a graph that failed may have left some
        loss = self._loss(part) / count
        # The loss is a sum over the processes, but their gradients are averaged.
        with strictly_deterministic():
            (loss * self.processes.size).backward()
        self._copy.hand_over_gradients()
        return loss.detach()

    def draw_batch(self, step: int) -> tuple[list[MaskedBatch], int]:
        """Draw the batch of a step.

        Returns:
            This process's share in parts, and the number of hidden tokens over all processes.
        """
        # Draw for the whole batch.
        seed, training = self.training.seed, self.training
        indices = self._indices(step)
        tokens = self.train_tokens.source
        views = rng(seed, "views", step).integers(0, tokens.num_views, len(indices))
        generator = rng(seed, "labels", step)
        labels = tokens.classes(indices, generator)
        if self.config.null_class is not None:
            dropped = generator.random(len(indices)) < training.label_drop
            labels = np.where(dropped, self.config.null_class, labels)
        generator = rng(seed, "masks", step)
        ratios = MASK_SCHEDULES[training.schedule](generator.random(len(indices)))
        seq_len = self.config.seq_len
        masks = masks_of_ratio(generator, ratios, seq_len)
        # Take this process's share.
        here = np.arange(len(indices))[self.processes.share(len(indices))]
        parts = [
            hide(
                self.train_tokens.take(indices[part], views[part]),
                labels[part],
                masks[part],
                self.config.mask_token,
                row_multiple(
                    len(part) * seq_len, self.device.type, self.precision, self._graphs.is_on
                ),
            )
            for part in np.array_split(here, self._num_parts)
            if len(part)
        ]
        return parts, int(masks.sum())

    def _indices(self, step: int) -> np.ndarray:
        """Choose the images of a step, in a new order every epoch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = image_order(self.training.seed, epoch, len(self.train_tokens.source))
        start = position * self.images_per_step
        return order[start : start + self.images_per_step]

    def _loss(self, batch: MaskedBatch) -> Tensor:
        """Compute the cross-entropy with label smoothing, summed over the hidden tokens."""
        with autocast(self.device, self.precision):
            logits = self._forward(batch.inputs, batch.labels, batch.at)  # (N, K)
        return F.cross_entropy(
            logits.float(),
            batch.targets,
            reduction="sum",
            label_smoothing=self.training.label_smoothing,
        )

    def _update(self, step: int, loss: Tensor) -> dict[str, Tensor]:
        """Clip the gradient, make the step and update the average.

        If loss or gradient is not finite, the weights do not change.
        """
        limit = self.training.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        spoiled = ~(loss + norm).isfinite()
        skip = spoiled.float()
        for optimizer in self.optimizers.values():
            step_unless(skip, optimizer, self.learning_rate(step))
        self.ema.update(step)
        return {"gradient_norm": norm.masked_fill(spoiled, 0), "skipped": skip}

    def validate(self) -> dict[str, float]:
        """Measure loss and token accuracy of the averaged weights (`training.validation`)."""
        part_size = math.ceil(self._images_here / self._num_parts)  # fits in memory, as in training
        return validation.validate(
            self.ema.module, self.validation_tokens, part_size, self.precision, self.processes
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what `Stage` does, and the classes that its weights belong to."""
        return {"class_names": self._class_names, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; ValueError if it does not fit.

        It may be of a model with fewer classes; see `grown_state`.
        """
        former = state.get("class_names", self._former_classes)
        if former and list(former) != self._class_names:
            state = grown_state(state, self.model, self.optimizers, former, self._class_names)
        super().load_state_dict(state)

    def _fix_exchange_order(self) -> None:
        """With several processes, make one pass to fix the order in which gradients are exchanged.

        DistributedDataParallel learns this order in its first step. A resumed run would otherwise
        sum in another order than an uninterrupted run in that step, with other rounding.
        """
        if self.processes.size > 1:
            (self._loss(self.draw_batch(0)[0][0]) * 0).backward()
            self.model.zero_grad()


@lru_cache(maxsize=1)
def image_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the images of an epoch, int64 (count,), in its order."""
    return rng(seed, "order", epoch).permutation(count)


def num_parts(images: int, seq_len: int, grad_accum: int, device_type: str) -> int:
    """Choose in how many parts, at least `grad_accum`, a process computes its images of a step."""
    most_tokens = CPU_PART_TOKENS if device_type == "cpu" else math.inf
    return max(grad_accum, math.ceil(images * seq_len / most_tokens))


def row_multiple(positions: int, device_type: str, precision: torch.dtype, graphs: bool) -> int:
    """Choose the number to whose multiples the hidden tokens of a part are padded."""
    if graphs:
        return math.ceil(positions * GRAPH_ROWS)
    return CPU_ROWS if device_type == "cpu" and precision != torch.float32 else 1
