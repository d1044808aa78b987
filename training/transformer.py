"""Stage 2: teach the transformer to fill in hidden tokens.

The random choices of a step (images, flips, labels, hidden tokens) are drawn for the whole batch
from (seed, purpose, step), and every process takes its share. Only dropout differs: each process
draws its own.

Axes: B images of a step, L tokens of an image, K codebook, N hidden tokens.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.token_set import DeviceTokens, TokenSet
from models.interfaces import TransformerShape
from models.masking import draw_masks, mask_ratio, masks_of_ratio
from models.open import new_transformer, transformer_family
from training.config import TrainingConfig
from training.ema import EMA
from training.learning_rate import LearningRate
from training.masked_batch import MaskedBatch, hide
from training.muon import MOMENTS
from training.optimizer import make_optimizers, step_unless
from training.working_copy import WorkingCopy
from utils.device import autocast, strictly_deterministic
from utils.errors import FieldError
from utils.plain import to_plain
from utils.processes import ALONE, Processes
from utils.seeding import derive_seed, rng
from utils.weights import load_moments, load_weights

VALIDATION_IMAGES = 4096
VALIDATION_SEED = 0  # the same for all runs, so that they are validated with the same masks
RATIO_BINS = (0.0, 0.25, 0.5, 0.75, 1.0)  # bounds of the mask ratios for `validate`
VALIDATION_SUMS = (3, len(RATIO_BINS) - 1)  # shape of sums: loss, correct, hidden; by bin
# On the CPU a step is computed in parts of at most this many tokens; larger ones are slower.
CPU_PART_TOKENS = 4096


class MaskGITStage:
    """The transformer, its optimiser and its data, as a `Stage` of training/loop.py.

    Attributes:
        config: shape of the model.
        training: settings of the training.
        model: the network with the raw weights.
        ema: the averaged weights, for validation and sampling.
        optimizer: AdamW, of all weights or of those that `muon` leaves.
        muon: Muon, of the weights of linear layers; None if AdamW trains them.
        learning_rate: the learning rate of each step.
        images_per_step: images of a step over all processes.
        steps_per_epoch: optimiser steps of an epoch; images that do not fill a step are left out.
    """

    name = kind = "maskgit"
    previews_are_generated = True

    def __init__(
        self,
        config: TransformerShape,
        training: TrainingConfig,
        train: TokenSet,
        validation: TokenSet,
        *,
        device: torch.device,
        precision: torch.dtype,
        checkpoint_entries: Mapping[str, Any],
        preview: Callable[[nn.Module, Path], None],
        compile_model: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        """Build the model with the run's seed.

        Args:
            config: shape of the model.
            training: settings of the training.
            train: tokens to train on.
            validation: tokens to validate on.
            device: device of this process.
            precision: dtype of the matrix products.
            checkpoint_entries: what else a checkpoint holds: dataset, class names, tokenizer.
            preview: writes a picture of samples of a transformer to a path.
            compile_model: whether the training step runs through torch.compile.
            processes: those that train together, at most as many as a step has images.

        Raises:
            FieldError: if `label_drop` is positive and the model has no null class.
        """
        if config.null_class is None and training.label_drop > 0:
            reason = "this transformer has no null class; use 0"
            raise FieldError("label_drop", training.label_drop, reason)
        self.config, self.training = config, training
        self.train_tokens, self.validation_tokens = train, validation
        self._train_tokens = DeviceTokens(train, device)
        self._validation_tokens = DeviceTokens(validation, device)
        self.device, self.precision, self.processes = device, precision, processes
        self._checkpoint_entries, self._preview = checkpoint_entries, preview
        self.images_per_step = min(training.batch_size, len(train))
        self.steps_per_epoch = len(train) // self.images_per_step
        self.learning_rate = LearningRate(
            training.lr, training.epochs, training.warmup_epochs, self.steps_per_epoch
        )
        # The model and what trains it.
        torch.manual_seed(derive_seed(training.seed, "weights"))
        self.model: nn.Module = new_transformer(config).to(device)
        self.ema = EMA(self.model, training.ema_decay)
        self.optimizer, self.muon = make_optimizers(self.model, config, training, precision)
        # This process's part of a step, and the exchange of gradients with the others.
        self._images_here = math.ceil(self.images_per_step / processes.size)
        self._num_parts = num_parts(
            self._images_here, config.seq_len, training.grad_accum, device.type
        )
        self._copy = WorkingCopy(self.model, precision, processes)
        self._shared = processes.share_gradients(self._copy.network)
        self._forward = torch.compile(self._shared) if compile_model else self._shared
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._settle_exchange()

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Make an optimiser step.

        Returns:
            Scalars on the device: "loss"; "gradient_norm" before clipping; and "skipped", which is
            1 if one of the two is not finite, and the weights are then unchanged.
        """
        # Draw the batch.
        self._shared.train()
        processes = self.processes
        torch.manual_seed(derive_seed(self.training.seed, "dropout", step, processes.rank))
        parts, num_hidden = self._draw_batch(step)
        # Add up the gradients of the parts; the last part exchanges them with other processes.
        loss = torch.zeros((), device=self.device)
        self._copy.renew()
        for part in parts:
            is_last = part is parts[-1]
            with nullcontext() if is_last else processes.keep_gradients(self._shared):
                part_loss = self._loss(part) / num_hidden
                # The loss is a sum over the processes, but their gradients are averaged.
                with strictly_deterministic():
                    (part_loss * processes.size).backward()
            self._copy.hand_over_gradients()
            loss += part_loss.detach()
        processes.add_up(loss)
        return {"loss": loss, **self._update(step, loss)}

    def validate(self) -> dict[str, float]:
        """Measure loss and token accuracy of the averaged weights, always with the same masks.

        Returns:
            "loss" and "accuracy" over all hidden tokens; "accuracy_0_25" and so on over images with
            0 to 25 percent of their tokens hidden. The loss is the cross-entropy in nats, without
            label smoothing.
        """
        # Choose the images and this process's share of them.
        count = len(self.validation_tokens)
        chosen = np.unique(np.linspace(0, count - 1, min(count, VALIDATION_IMAGES), dtype=int))
        labels = self.validation_tokens.classes(chosen, rng(VALIDATION_SEED, "labels"))
        share = self.processes.share(len(chosen))
        # Add up part by part.
        sums = torch.zeros(VALIDATION_SUMS, dtype=torch.float64)
        part_size = math.ceil(self._images_here / self._num_parts)  # fits, as in training
        for start in range(share.start, share.stop, part_size):
            batch = slice(start, min(start + part_size, share.stop))
            sums += self._validation_sums(chosen[batch], labels[batch])
        self.processes.add_up(sums)
        # Divide by the number of tokens.
        loss, correct, hidden = sums.tolist()
        result = {"loss": sum(loss) / sum(hidden), "accuracy": sum(correct) / sum(hidden)}
        for low, high, right, all_ in zip(
            RATIO_BINS, RATIO_BINS[1:], correct, hidden, strict=False
        ):
            if all_:
                result[f"accuracy_{100 * low:.0f}_{100 * high:.0f}"] = right / all_
        return result

    def preview(self, path: Path) -> None:
        """Write a grid of samples of the averaged weights."""
        self._preview(self.ema.module, path)

    def checkpoint(self, step: int) -> dict[str, Any]:
        """Return the contents of a checkpoint: raw and averaged weights and what describes them."""
        contents = transformer_contents(self.config, self.model, self.ema.module, step)
        return {**self._checkpoint_entries, **contents}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, the averaged weights and the moments of the optimisers."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **({} if self.muon is None else {"muon": self.muon.state_dict()}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; ValueError if it does not fit."""
        used, chosen = "muon" if "muon" in state else "adamw", self.training.optimizer
        if used != chosen:
            raise ValueError(f"it was trained with `optimizer` {used}, not {chosen}")
        load_weights(self.model, state["model"])
        load_weights(self.ema.module, state["ema"])
        load_moments(self.optimizer, state["optimizer"])
        if self.muon is not None:
            load_moments(self.muon, state["muon"], MOMENTS, counts=())

    def _settle_exchange(self) -> None:
        """Let several processes make one pass, to learn the order in which gradients come.

        Otherwise DistributedDataParallel learns it in the first step. A resumed run would then add
        up numbers in that step in another order than an uninterrupted run, with other rounding.
        """
        if self.processes.size > 1:
            (self._loss(self._draw_batch(0)[0][0]) * 0).backward()
            self.model.zero_grad()

    def _draw_batch(self, step: int) -> tuple[list[MaskedBatch], int]:
        """Draw the batch of a step.

        Returns:
            This process's share in parts, and the number of hidden tokens over all processes.
        """
        # Draw for the whole batch.
        seed, training = self.training.seed, self.training
        indices = self._indices(step)
        views = rng(seed, "views", step).integers(0, self.train_tokens.num_views, len(indices))
        generator = rng(seed, "labels", step)
        labels = self.train_tokens.classes(indices, generator)
        if self.config.null_class is not None:
            dropped = generator.random(len(indices)) < training.label_drop
            labels = np.where(dropped, self.config.null_class, labels)
        masks = draw_masks(
            rng(seed, "masks", step), len(indices), self.config.seq_len, training.schedule
        )
        # Take this process's share.
        here = np.arange(len(indices))[self.processes.share(len(indices))]
        parts = [
            hide(
                self._train_tokens.take(indices[part], views[part]),
                labels[part],
                masks[part],
                self.config.mask_token,
            )
            for part in np.array_split(here, self._num_parts)
            if len(part)
        ]
        return parts, int(masks.sum())

    def _indices(self, step: int) -> np.ndarray:
        """Choose the images of a step, in a new order every epoch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = rng(self.training.seed, "order", epoch).permutation(len(self.train_tokens))
            self._order = (epoch, order)
        start = position * self.images_per_step
        return self._order[1][start : start + self.images_per_step]

    def _loss(self, batch: MaskedBatch) -> Tensor:
        """Compute the cross-entropy with label smoothing, summed over the hidden tokens."""
        with autocast(self.device, self.precision):
            logits = self._forward(batch.inputs, batch.labels, batch.hidden)  # (N, K)
        return F.cross_entropy(
            logits.float(),
            batch.targets,
            reduction="sum",
            label_smoothing=self.training.label_smoothing,
        )

    def _update(self, step: int, loss: Tensor) -> dict[str, Tensor]:
        """Clip the gradient, make the step and update the average.

        The weights stay as they are if loss or gradient is not finite.
        """
        limit = self.training.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        spoilt = ~(loss + norm).isfinite()
        skip = spoilt.float()
        for optimizer in (self.optimizer, *([] if self.muon is None else [self.muon])):
            step_unless(skip, optimizer, self.learning_rate(step))
        self.ema.update(step)
        return {"gradient_norm": norm.masked_fill(spoilt, 0), "skipped": skip}

    @cached_property
    def _validation_ratios(self) -> np.ndarray:
        """The share of tokens to hide in each validation image, float64 (number of images,)."""
        generator = rng(VALIDATION_SEED, "validation ratios")
        return mask_ratio(generator.random(len(self.validation_tokens)), "arccos")

    @torch.no_grad()
    def _validation_sums(self, indices: np.ndarray, labels: np.ndarray) -> Tensor:
        """Add up loss, correct tokens and hidden tokens by bin of the mask ratio.

        Returns:
            float64 (3, bins), on the CPU.
        """
        # Hide tokens: an image's mask depends only on its index.
        tokens = self._validation_tokens.take(indices)
        masks = np.concatenate(
            [
                masks_of_ratio(
                    rng(VALIDATION_SEED, "validation masks", int(index)),
                    self._validation_ratios[index : index + 1],
                    tokens.shape[1],
                )
                for index in indices
            ]
        )
        batch = hide(tokens, labels, masks, self.config.mask_token)
        with autocast(self.device, self.precision):
            logits = self.ema.module(batch.inputs, batch.labels, batch.hidden).float()  # (N, K)
        # Compare each hidden token with its prediction, and add up by the bin of its image.
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        correct = logits.argmax(-1) == batch.targets
        bins = np.clip(np.digitize(masks.mean(1), RATIO_BINS, right=True) - 1, 0, None)
        bin_of = torch.from_numpy(bins.repeat(masks.sum(1)))  # (N,)
        values = torch.stack([losses, correct.float(), torch.ones_like(losses)]).cpu().double()
        return torch.zeros(VALIDATION_SUMS, dtype=torch.float64).index_add_(1, bin_of, values)


def transformer_contents(
    config: TransformerShape, model: nn.Module, averaged: nn.Module, step: int
) -> dict[str, Any]:
    """Return what a checkpoint holds of a transformer after `step` steps."""
    return {
        "family": transformer_family(config).name,
        "config": to_plain(config),
        "step": step,
        "weights": model.state_dict(),
        "ema": averaged.state_dict(),
    }


def num_parts(images: int, seq_len: int, grad_accum: int, device_type: str) -> int:
    """Choose in how many parts, one after the other, a process computes its share of a step.

    Args:
        images: images of the share.
        seq_len: L.
        grad_accum: smallest number of parts.
        device_type: "cpu", "cuda" or "mps".
    """
    most_tokens = CPU_PART_TOKENS if device_type == "cpu" else math.inf
    return max(grad_accum, math.ceil(images * seq_len / most_tokens))
