"""Distills a trained transformer (the teacher) into a student that samples in few steps.

The method is that of Zhu et al. 2025, "Di[M]O: Distilling Masked Diffusion Models into One-step
Generator". It needs no images. At each step

1. the student makes images in its few steps, and some of their tokens are hidden;
2. the teacher, with guidance, predicts the hidden tokens, and an auxiliary model predicts which
   tokens the student tends to choose there;
3. the student's logits move by the difference of these predictions, and the auxiliary model learns
   to fill in the student's images.

Tokens that are drawn in the same step are independent of each other. So the student starts from a
few random tokens (`SamplingConfig.start_share`), and learns to complete them to a consistent image.
Di[M]O draws these tokens uniformly. Here they are sampled from the prediction of an empty image,
which the student also learns from its teacher. So the teacher's first answers to such a start are
already good.

Axes: B images of a step, E empty images, L tokens of an image, K codebook, N hidden tokens.
"""

import copy
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.family import Transformer
from models.masking import hide, masks_of_ratio
from models.model import MADE_FOR
from models.predictors import guided_logits, prepare_decoding
from models.samplers import draw_tokens
from models.sampling import SamplingConfig
from models.schedules import MASK_SCHEDULES
from training.config import UPDATES_PER_EPOCH, DistillConfig
from training.ema import EMA
from training.learning_rate import LearningRate
from training.optimizer import linear_weights, make_optimizers, step_unless
from training.stage import GeneratorStage
from utils.device import autocast, send, strictly_deterministic
from utils.plain import to_plain
from utils.seeding import derive_seed, rng

# In the first steps the student only imitates the teacher: at most this many steps, and at most
# this share of the run.
IMITATION, IMITATION_SHARE = 100, 0.05
WARMUP_SHARE = 0.05  # of the run
IMAGES_PER_EMPTY = 8  # images of a step for each empty image, which is fully hidden
MASK_SCHEDULE = "arccos"  # of the tokens that are hidden from teacher and auxiliary model
VALIDATION_SEED, VALIDATION_BATCHES = 0, 8
AUXILIARY = "auxiliary_"  # starts the names of the auxiliary model's optimizers


def student_settings(
    num_steps: int, start_share: float = DistillConfig.start_share
) -> SamplingConfig:
    """Return the sampling settings of a student that takes `num_steps` steps."""
    return SamplingConfig(
        num_steps=num_steps,
        schedule="arccos-cumulative",
        guidance=0.0,  # the student has learned it
        start_share=start_share,
    )


class StudentImages(NamedTuple):
    """The images that the student made at a step.

    Attributes:
        logits: float32 (B, L, K), its prediction at the last of its steps so far.
        start: int64 (B, L), its input at that step.
        tokens: int64 (B, L), the whole image.
        drawn: bool (B, L), True where the token comes from these logits.
        labels: int64 (B,).
    """

    logits: Tensor
    start: Tensor
    tokens: Tensor
    drawn: Tensor
    labels: Tensor


class Predictions(NamedTuple):
    """Predictions of hidden tokens by teacher and auxiliary model.

    Attributes:
        at: int64 (N,), the hidden ones among the B * L positions.
        targets: int64 (N,), the student's tokens there.
        teacher: float32 (N, K), log-probabilities.
        auxiliary: float32 (N, K), log-probabilities.
    """

    at: Tensor
    targets: Tensor
    teacher: Tensor
    auxiliary: Tensor


class DistillationStage(GeneratorStage):
    """Student, auxiliary model and teacher.

    All networks are in evaluation mode: without dropout, the student trains as it samples.

    Attributes:
        config: shape of all three networks.
        model: the student.
        ema: the student with averaged weights, for validation and sampling.
        learning_rate: that of the student at each step after imitation.
    """

    name = "student"
    steps_per_epoch = UPDATES_PER_EPOCH
    training: DistillConfig

    def __init__(
        self,
        teacher: Transformer,
        training: DistillConfig,
        *,
        device: torch.device,
        precision: torch.dtype,
        checkpoint_entries: Mapping[str, Any],
        preview: Callable[[Transformer, Path], None],
    ) -> None:
        """Start with copies of the teacher.

        Args:
            teacher: a trained transformer on the device; it is not changed.
            checkpoint_entries: what else a checkpoint holds: dataset, class names, tokenizer.
            preview: writes a picture of samples of a transformer to a path.
        """
        self.config, self.training = teacher.config, training
        self.device, self.precision = device, precision
        self.sampling = student_settings(training.num_steps, training.start_share)
        made_for = {MADE_FOR: to_plain(self.sampling)}
        self.checkpoint_entries, self.write_preview = {**checkpoint_entries, **made_for}, preview
        # The networks. A copy is not compiled: their many kinds of calls exceed torch's limit.
        self._teacher, self.model, self.auxiliary = (
            copy.deepcopy(teacher).eval().requires_grad_(trains) for trains in (False, True, True)
        )
        self.ema = EMA(self.model, training.ema_decay)
        self.networks = {"model": self.model, "auxiliary": self.auxiliary, "ema": self.ema.module}
        # What trains them.
        warmup = WARMUP_SHARE * training.epochs
        self.learning_rate, self._auxiliary_rate = (
            LearningRate(peak, training.epochs, warmup, UPDATES_PER_EPOCH)
            for peak in (training.lr, training.auxiliary_lr)
        )
        self.optimizers = {
            prefix + name: optimizer
            for prefix, network in (("", self.model), (AUXILIARY, self.auxiliary))
            for name, optimizer in make_optimizers(
                network, linear_weights(network), training, precision
            ).items()
        }

    def train_step(self, step: int) -> dict[str, Tensor]:
        """Make an optimizer step of the student, and one of the auxiliary model.

        Returns:
            Scalars on the device: "loss", how far the auxiliary model is from the teacher on the
            student's images (`divergence`), in nats; "auxiliary", the loss of the auxiliary model;
            "entropy" of the student's tokens, in nats; "gradient_norm" of the student before
            clipping; "skipped", 1 if one of them is not finite, and no weight has changed then.
        """
        seed, count = self.training.seed, self.training.batch_size
        # Draw the labels, and the number of steps before the one that learns.
        draws = rng(seed, "student", step)
        labels = draws.integers(0, self.config.num_labels, count)
        steps_before = int(draws.integers(self.training.num_steps))
        imitates = step < min(IMITATION, IMITATION_SHARE * self.training.epochs * UPDATES_PER_EPOCH)
        series = derive_seed(seed, "student's noise", step)
        # The student makes images; teacher and auxiliary model see them with some tokens hidden.
        made = self._make(self.model, labels, series, 0 if imitates else steps_before)
        compared = self._compare(made, draws)
        # The losses of the student and of the auxiliary model.
        empty = self._empty_images(draws)
        loss = imitation_loss(self._predict(self.model, *empty), self._ask_teacher(*empty, 0.0))
        if imitates:
            answer = self._ask_teacher(made.start, made.labels, self.training.start_share)
            loss = loss + imitation_loss(made.logits, answer)
        else:
            loss = loss + student_loss(made, compared)
        auxiliary_loss = F.nll_loss(compared.auxiliary, compared.targets)
        with strictly_deterministic():
            (loss + auxiliary_loss).backward()  # they share no weights
        # Update both. While the student imitates, its target is fixed, so both learn at one rate.
        rate = self._auxiliary_rate if imitates else self.learning_rate
        metrics = {
            "loss": divergence(compared),
            "auxiliary": auxiliary_loss.detach(),
            "entropy": entropy(made),
        }
        return self._update(step, rate(step), metrics)

    def validate(self) -> dict[str, float]:
        """Measure the averaged student, always with the same noise.

        Returns:
            "loss", as that of `train_step`, and "entropy".
        """
        rows = []
        for batch in range(VALIDATION_BATCHES):
            draws = rng(VALIDATION_SEED, "student's validation", batch)
            labels = draws.integers(0, self.config.num_labels, self.training.batch_size)
            series = derive_seed(VALIDATION_SEED, "student's validation", batch)
            with torch.no_grad():
                made = self._make(self.ema.module, labels, series, self.training.num_steps - 1)
                compared = self._compare(made, draws)
            rows.append(torch.stack([divergence(compared), entropy(made)]))
        loss, mean_entropy = torch.stack(rows).mean(0).tolist()
        return {"loss": loss, "entropy": mean_entropy}

    def _make(
        self, student: Transformer, labels: np.ndarray, series: int, steps_before: int
    ) -> StudentImages:
        """Let a student make images; gradients can flow through the last step.

        Args:
            labels: int64 (B,).
            series: the seed of the noise.
            steps_before: number of steps before the last one, which fills in all tokens that are
                still hidden.
        """
        start = prepare_decoding(
            student, labels, np.arange(len(labels)), self.sampling, series, self.precision
        )
        tokens, hidden = start.tokens, start.hidden
        for step in islice(start.steps(), steps_before):
            tokens, hidden = step.tokens, step.hidden
        device_labels = send(labels, self.device)
        logits = self._predict(student, tokens, device_labels)
        drawn = draw_tokens(logits.detach().log_softmax(-1), start.noise.uniform[steps_before])
        whole = torch.where(hidden, drawn, tokens)
        return StudentImages(logits, tokens, whole, hidden, device_labels)

    def _compare(self, made: StudentImages, draws: np.random.Generator) -> Predictions:
        """Hide tokens of images, and let teacher and auxiliary model predict them."""
        count, length = made.tokens.shape
        progress = draws.random(count)
        masks = masks_of_ratio(draws, MASK_SCHEDULES[MASK_SCHEDULE](progress), length)
        seen, labels, at, targets = hide(made.tokens, made.labels, masks, self.config.mask_token)
        return Predictions(
            at=at,
            targets=targets,
            teacher=self._ask_teacher(seen, labels, progress, at),
            auxiliary=self._predict(self.auxiliary, seen, labels, at).log_softmax(-1),
        )

    def _ask_teacher(
        self,
        tokens: Tensor,
        labels: Tensor,
        risen: float | np.ndarray,
        at: Tensor | None = None,
    ) -> Tensor:
        """Return the teacher's log-probabilities, guided and scaled: (B, L, K), or (N, K).

        They have no gradient, as its weights have none.

        Args:
            risen: the share of its full weight that rising guidance has, in [0, 1]: one number, or
                float64 (B,).
        """
        null_class = self.config.null_class
        logits = self._predict(self._teacher, tokens, labels, at)
        if self.training.teacher_guidance and null_class is not None:
            unguided = self._predict(self._teacher, tokens, torch.full_like(labels, null_class), at)
            logits = guided_logits(logits, unguided, self._guidance(tokens, risen, at))
        return (logits * self.training.teacher_logit_scale).log_softmax(-1)

    def _guidance(
        self, tokens: Tensor, risen: float | np.ndarray, at: Tensor | None
    ) -> float | Tensor:
        """Return the weight of the guidance, of all images or float32 (B, 1, 1), or (N, 1)."""
        weight = self.training.teacher_guidance
        if not self.training.guidance_rises:
            return weight
        weights = np.full(len(tokens), weight * np.float32(risen), np.float32)  # (B,)
        of_images = send(weights, self.device)
        if at is None:
            return of_images[:, None, None]
        return of_images.index_select(0, at // tokens.shape[1])[:, None]

    def _predict(
        self, network: nn.Module, tokens: Tensor, labels: Tensor, at: Tensor | None = None
    ) -> Tensor:
        """Return the logits of a network in float32: (B, L, K), or (N, K) with `at`."""
        with autocast(self.device, self.precision):
            logits: Tensor = network(tokens, labels, at)
        return logits.float()

    def _empty_images(self, draws: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return fully hidden images, int64 (E, L), and their labels, int64 (E,)."""
        count = max(1, self.training.batch_size // IMAGES_PER_EMPTY)
        labels = draws.integers(0, self.config.num_labels, count)
        shape = (count, self.config.seq_len)
        empty = torch.full(shape, self.config.mask_token, device=self.device)
        return empty, send(labels, self.device)

    def _update(self, step: int, rate: float, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clip the gradients, update both models and the average; all or nothing.

        Returns:
            What `train_step` returns.
        """
        limit = self.training.grad_clip or torch.inf
        norm, auxiliary_norm = (
            nn.utils.clip_grad_norm_(network.parameters(), limit)
            for network in (self.model, self.auxiliary)
        )
        is_lost = ~torch.stack(list(metrics.values())).isfinite().all()
        spoiled = is_lost | ~(norm + auxiliary_norm).isfinite()
        skip = spoiled.float()
        for name, optimizer in self.optimizers.items():
            own = self._auxiliary_rate(step) if name.startswith(AUXILIARY) else rate
            step_unless(skip, optimizer, own)
        self.ema.update(step)
        finite = {name: value.masked_fill(is_lost, 0) for name, value in metrics.items()}
        loss = metrics["loss"].masked_fill(is_lost, torch.nan)
        norm = norm.masked_fill(spoiled, 0)
        return {**finite, "loss": loss, "gradient_norm": norm, "skipped": skip}


# --- The losses ---


def student_loss(made: StudentImages, compared: Predictions) -> Tensor:
    """Compute a loss whose gradient moves the student's logits toward the teacher.

    At the M hidden tokens that the student drew at this step, its gradient with respect to the
    logits is (auxiliary - teacher) / M; elsewhere it is 0. This is the gradient of
    KL(teacher || auxiliary) with respect to the auxiliary model's logits, applied to those of the
    student (the token-level matching of Di[M]O, which mixes it with that of the opposite
    divergence; docs/log/few_steps.md says why this does not).

    Args:
        made: the student's images; gradients flow through the logits.
        compared: the two predictions; no gradient flows through them.
    """
    difference = compared.auxiliary.detach().exp() - compared.teacher.exp()  # (N, K)
    ours = made.drawn.flatten().index_select(0, compared.at).float()[:, None]  # (N, 1)
    logits = made.logits.flatten(0, 1).index_select(0, compared.at)  # (N, K)
    return (logits * (difference * ours)).sum() / ours.sum().clamp(min=1)


def divergence(compared: Predictions) -> Tensor:
    """Compute the mean KL(teacher || auxiliary) over the hidden tokens, in nats."""
    teacher, auxiliary = compared.teacher, compared.auxiliary.detach()
    return (teacher.exp() * (teacher - auxiliary)).sum(-1).mean()


def entropy(made: StudentImages) -> Tensor:
    """Compute the mean entropy of the drawn tokens, in nats; no gradient."""
    log_probs = made.logits.detach().log_softmax(-1)
    of_tokens = -(log_probs.exp() * log_probs).sum(-1)  # (B, L)
    return (of_tokens * made.drawn).sum() / made.drawn.sum()


def imitation_loss(logits: Tensor, answer: Tensor) -> Tensor:
    """Compute the cross-entropy of logits and the teacher's log-probabilities, both (B, L, K)."""
    return F.cross_entropy(logits.flatten(0, 1), answer.flatten(0, 1).exp())
