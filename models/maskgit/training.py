"""Stage 2: teach the transformer to fill in hidden tokens.

Everything random in a step (which images, views, labels and tokens) is drawn for the whole batch
from (seed, purpose, step), and every process takes its share; dropout alone is drawn per process.

Axes: B images of a step, L tokens of an image, K codebook, N hidden tokens.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.maskgit.config import TrainingConfig, TransformerConfig
from models.maskgit.masking import draw_masks, mask_ratio, masks_of_ratio
from models.maskgit.transformer import MaskedTransformer
from utils.device import autocast
from utils.distributed import ALONE, Processes
from utils.ema import EMA
from utils.optimizer import step_if_finite
from utils.plain import to_plain
from utils.schedule import LearningRate
from utils.seeding import derive_seed, rng
from utils.token_set import DeviceTokens, TokenSet, send_array
from utils.weights import load_moments, load_weights

VALIDATION_IMAGES = 4096
VALIDATION_SEED = 0  # not the run's: equal masks make runs comparable
RATIO_BINS = (0.0, 0.25, 0.5, 0.75, 1.0)
VALIDATION_SUMS = (3, len(RATIO_BINS) - 1)  # loss, correct and all tokens, by bin
# A step is computed in parts of at most this many tokens on the CPU, where larger ones are slower.
CPU_PART_TOKENS = 4096


@dataclass(frozen=True)
class Batch:
    """Images of one step, as the transformer sees them.

    Attributes:
        inputs: int64 (B, L), the mask token where a token is hidden.
        labels: int64 (B,), the null class where the label is dropped.
        hidden: int64 (N,), indices of the hidden tokens among the B * L.
        targets: int64 (N,), those tokens.
    """

    inputs: Tensor
    labels: Tensor
    hidden: Tensor
    targets: Tensor


class MaskGITStage:
    """The transformer, its optimiser and its data, one step at a time (utils/loop.py).

    Attributes:
        model: the raw weights.
        ema: the averaged weights, which validate and sample.
    """

    name = "maskgit"
    previews_are_generated = True

    def __init__(
        self,
        config: TransformerConfig,
        training: TrainingConfig,
        train: TokenSet,
        validation: TokenSet,
        *,
        device: torch.device,
        precision: torch.dtype,
        describe: Mapping[str, Any],
        preview: Callable[[MaskedTransformer, Path], None],
        compile_model: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        """Build the model with the run's seed.

        Args:
            config: shape of the model.
            training: how it learns.
            train: tokens to learn from.
            validation: tokens to measure on.
            device: where to compute.
            precision: of the matrix products.
            describe: entries that make the checkpoint complete: dataset, class names, tokenizer.
            preview: writes a picture of samples of a model to a path.
            compile_model: run the training step through torch.compile.
            processes: those that train together, at most as many as a step has images.
        """
        self.config, self.training = config, training
        self.train_tokens, self.validation_tokens = train, validation
        self._train_tokens = DeviceTokens(train, device)
        self._validation_tokens = DeviceTokens(validation, device)
        self.device, self.precision = device, precision
        self.processes = processes
        self._describe, self._preview = describe, preview
        self.images_per_step = min(training.batch_size, len(train))
        self.steps_per_epoch = len(train) // self.images_per_step
        self.learning_rate = LearningRate(
            training.lr, training.epochs, training.warmup_epochs, self.steps_per_epoch
        )
        torch.manual_seed(derive_seed(training.seed, "weights"))
        self.model = MaskedTransformer(config).to(device)
        self.ema = EMA(self.model, training.ema_decay)
        self.optimizer = make_optimizer(self.model, training)
        self._images_here = math.ceil(self.images_per_step / processes.size)
        self._num_parts = num_parts(
            self._images_here, config.seq_len, training.grad_accum, device.type
        )
        self._shared = processes.share_gradients(self.model)
        self._forward = torch.compile(self._shared) if compile_model else self._shared
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        if processes.size > 1:
            self._settle_exchange()

    def train_step(self, step: int) -> dict[str, Tensor]:
        """One optimiser step.

        Returns:
            Scalars on the device: "loss", "gradient_norm" (before clipping) and "skipped", 1 where
            one of the two is not finite and the weights are as before.
        """
        self.model.train()
        processes = self.processes
        torch.manual_seed(derive_seed(self.training.seed, "dropout", step, processes.rank))
        parts, num_hidden = self._draw_batch(step)
        loss = torch.zeros((), device=self.device)
        for part in parts:
            is_last = part is parts[-1]
            with nullcontext() if is_last else processes.keep_gradients(self._shared):
                part_loss = self._loss(part) / num_hidden
                # Gradients are averaged over the processes, and the loss is a sum.
                (part_loss * processes.size).backward()
            loss += part_loss.detach()
        processes.add_up(loss)
        return {"loss": loss, **self._update(step, loss)}

    def validate(self) -> dict[str, float]:
        """Loss and token accuracy of the averaged weights under masks that are the same always.

        Returns:
            "loss" and "accuracy" over all hidden tokens, and "accuracy_0_25" and so on by the share
            of the image that is hidden, in percent. The loss is the plain cross-entropy.
        """
        count = len(self.validation_tokens)
        chosen = np.unique(np.linspace(0, count - 1, min(count, VALIDATION_IMAGES), dtype=int))
        labels = self.validation_tokens.classes(chosen, rng(VALIDATION_SEED, "labels"))
        share = self.processes.share(len(chosen))
        sums = torch.zeros(VALIDATION_SUMS, dtype=torch.float64)
        part_size = math.ceil(self._images_here / self._num_parts)  # what fits in training fits
        for start in range(share.start, share.stop, part_size):
            batch = slice(start, min(start + part_size, share.stop))
            sums += self._validation_sums(chosen[batch], labels[batch])
        self.processes.add_up(sums)
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
        self._preview(self._averaged(), path)

    def checkpoint(self, step: int) -> dict[str, Any]:
        """Contents of the checkpoint: both sets of weights and all that it takes to use them."""
        return {
            **self._describe,
            "config": to_plain(self.config),
            "step": step,
            "weights": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights, averaged weights and optimiser."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        load_weights(self.model, state["model"])
        load_weights(self.ema.module, state["ema"])
        load_moments(self.optimizer, state["optimizer"])

    def _averaged(self) -> MaskedTransformer:
        averaged: MaskedTransformer = self.ema.module  # type: ignore[assignment]
        return averaged

    def _settle_exchange(self) -> None:
        """Make the pass from which the exchange of gradients takes its order.

        Else the first step after a resume would add up in another order than the uninterrupted run.
        """
        (self._loss(self._draw_batch(0)[0][0]) * 0).backward()
        self.optimizer.zero_grad()

    def _draw_batch(self, step: int) -> tuple[list[Batch], int]:
        """This process's share of a step in parts, and how many tokens are hidden in all."""
        seed, training = self.training.seed, self.training
        indices = self._indices(step)
        views = rng(seed, "views", step).integers(0, self.train_tokens.num_views, len(indices))
        generator = rng(seed, "labels", step)
        labels = self.train_tokens.classes(indices, generator)
        dropped = generator.random(len(indices)) < training.label_drop
        labels = np.where(dropped, self.config.null_class, labels)
        masks = draw_masks(
            rng(seed, "masks", step), len(indices), self.config.seq_len, training.schedule
        )
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
        """Images of a step: a new order every epoch; what does not fill a batch is left out."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            order = rng(self.training.seed, "order", epoch).permutation(len(self.train_tokens))
            self._order = (epoch, order)
        start = position * self.images_per_step
        return self._order[1][start : start + self.images_per_step]

    def _loss(self, batch: Batch) -> Tensor:
        """Cross-entropy with label smoothing, summed over the hidden tokens."""
        with autocast(self.device, self.precision):
            logits = self._forward(batch.inputs, batch.labels, batch.hidden)  # (N, K)
        return F.cross_entropy(
            logits.float(),
            batch.targets,
            reduction="sum",
            label_smoothing=self.training.label_smoothing,
        )

    def _update(self, step: int, loss: Tensor) -> dict[str, Tensor]:
        """Clip, step, average; the weights stay as they are if loss or gradient is not finite."""
        limit = self.training.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        finite = (loss + norm).isfinite()
        step_if_finite(self.optimizer, self.learning_rate(step), finite)
        self.ema.update(self.model, step)
        return {"gradient_norm": torch.where(finite, norm, 0), "skipped": (~finite).float()}

    @cached_property
    def _validation_ratios(self) -> np.ndarray:
        generator = rng(VALIDATION_SEED, "validation ratios")
        return mask_ratio(generator.random(len(self.validation_tokens)), "arccos")

    @torch.no_grad()
    def _validation_sums(self, indices: np.ndarray, labels: np.ndarray) -> Tensor:
        """Loss, correct and hidden tokens by bin of mask ratio: float64 (3, bins) on the host."""
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
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        correct = logits.argmax(-1) == batch.targets
        bins = np.clip(np.digitize(masks.mean(1), RATIO_BINS, right=True) - 1, 0, None)
        bin_of = torch.from_numpy(bins.repeat(masks.sum(1)))  # (N,)
        values = torch.stack([losses, correct.float(), torch.ones_like(losses)]).cpu().double()
        return torch.zeros(VALIDATION_SUMS, dtype=torch.float64).index_add_(1, bin_of, values)


def hide(tokens: Tensor, labels: np.ndarray, masks: np.ndarray, mask_token: int) -> Batch:
    """Put the mask token where the mask is True.

    Args:
        tokens: int64 (B, L), on the device where the batch is wanted.
        labels: int64 (B,).
        masks: bool (B, L).
        mask_token: its id.
    """
    hidden = send_array(np.flatnonzero(masks), tokens.device)
    return Batch(
        inputs=tokens.masked_fill(send_array(masks, tokens.device), mask_token),
        labels=send_array(labels, tokens.device),
        hidden=hidden,
        targets=tokens.flatten().index_select(0, hidden),
    )


def num_parts(images: int, seq_len: int, grad_accum: int, device_type: str) -> int:
    """In how many parts, one after the other, a process computes its images of a step."""
    most_tokens = CPU_PART_TOKENS if device_type == "cpu" else math.inf
    return max(grad_accum, math.ceil(images * seq_len / most_tokens))


def make_optimizer(model: nn.Module, training: TrainingConfig) -> torch.optim.AdamW:
    """AdamW that decays the weights of linear layers and nothing else."""
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    groups = [
        {
            "params": [p for p in model.parameters() if (id(p) in decayed) == decay],
            "weight_decay": training.weight_decay if decay else 0.0,
        }
        for decay in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=training.lr, betas=training.betas, fused=True)
