"""The training settings; their defaults are also those of the command line.

This file imports nothing slow, because the command line reads it before it shows its help.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from models.schedules import CUMULATIVE_SCHEDULES
from models.shapes import TransformerShape
from models.vqgan.config import VQGANConfig
from utils.errors import FieldError, counted

OPTIMIZERS = ("adamw", "muon")
PUBLISHED = ("last", "best", "both")
UPDATES_PER_EPOCH = 100  # in distillation, which has no dataset to define an epoch


def training_schedule(name: str) -> str:
    """Return the mask schedule to train with for a model that will sample with `name`."""
    return CUMULATIVE_SCHEDULES[name].schedule if name in CUMULATIVE_SCHEDULES else name


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of stage 2, which trains the transformer.

    Attributes:
        epochs: passes over the training tokens.
        batch_size: images per optimizer step, over all processes.
        optimizer: "adamw" for all weights, or "muon" for the weights of linear layers and AdamW for
            the others.
        lr: peak learning rate.
        weight_decay: weight decay, on the weights of linear layers only.
        warmup_epochs: epochs of linear warm-up, at most a tenth of the run; a decay to 0 follows.
        decay: how the learning rate falls after warm-up; a key of `learning_rate.DECAYS`.
        label_drop: share of images that are trained without their class, in [0, 1).
        schedule: mask schedule; a key of MASK_SCHEDULES.
        label_smoothing: label smoothing of the cross-entropy, in [0, 1).
        grad_clip: largest norm of the whole gradient; 0 turns clipping off.
        grad_accum: number of parts in which a batch is computed, one after the other.
        ema_decay: decay of the averaged weights; 0 makes them equal to the raw weights.
        init: file of the trained model whose weights the training starts from; None for random
            weights.
        freeze: shell patterns of the names of the parameters that are not trained.
    """

    epochs: int = 100
    batch_size: int = 256
    optimizer: str = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    warmup_epochs: int = 10
    decay: str = "cosine"
    label_drop: float = 0.1
    schedule: str = "arccos"
    label_smoothing: float = 0.1
    grad_clip: float = 1.0
    grad_accum: int = 1
    ema_decay: float = 0.999
    init: str | None = None
    freeze: tuple[str, ...] = ()
    seed: int = 0

    def validate_for(self, shape: TransformerShape) -> None:
        """Check the settings against the transformer.

        Raises:
            FieldError: if labels are dropped, but it has no null class.
        """
        if self.label_drop and shape.null_class is None:
            reason = "this transformer has no null class; use 0"
            raise FieldError("label_drop", self.label_drop, reason)


@dataclass(frozen=True)
class VQGANTrainingConfig:
    """The settings of stage 1, which trains the VQ-GAN.

    Attributes:
        epochs: passes over the training images.
        optimizer: of the autoencoder: "adamw", or "muon" for the weights of convolutions and AdamW
            for the others. The discriminator has AdamW.
        linear_start: whether the autoencoder starts nearly linear (`VQModel.start_linear`).
        lr: peak learning rate of all optimizers.
        betas: betas of AdamW; taming's values.
        warmup_epochs: epochs of linear warm-up, at most a tenth of the run; a cosine decay to 0
            follows.
        grad_accum: number of parts in which a batch is computed, one after the other.
        ema_decay: decay of the averaged weights, which are validated and published.
        chroma_weight: weight of the L1 distance of color differences (utils/colors.py).
        perceptual_weight: weight of LPIPS; with 0 no VGG16 weights are needed.
        perceptual_vgg: file with torchvision's VGG16 weights; None downloads them.
        disc_start: first step with the discriminator.
        disc_weight: factor on the adaptive weight of the adversarial loss; 0 trains without a
            discriminator.
        disc_channels: channels of the discriminator's first layer.
        disc_layers: strided convolutions of the discriminator; None depends on the image size.
        revive_every: search for dead codes every this many steps; 0 never searches.
        revive_below: a code that is used less than this share of the average code is dead.
        init: file of the trained VQ-GAN whose weights the training starts from; None for random
            weights.
        freeze: shell patterns of the names of the parameters that are not trained.
    """

    weight_decay: ClassVar[float] = 0.0

    epochs: int = 100
    batch_size: int = 128
    optimizer: str = "adamw"
    linear_start: bool = False
    lr: float = 5e-4
    betas: tuple[float, float] = (0.5, 0.9)
    warmup_epochs: float = 1.0
    grad_accum: int = 1
    ema_decay: float = 0.999
    codebook_weight: float = 1.0
    chroma_weight: float = 0.0
    perceptual_weight: float = 1.0
    perceptual_vgg: str | None = None
    disc_start: int = 10_000
    disc_weight: float = 0.8
    disc_channels: int = 64
    disc_layers: int | None = None
    revive_every: int = 100
    revive_below: float = 0.05
    init: str | None = None
    freeze: tuple[str, ...] = ()
    seed: int = 0

    def discriminator_layers(self, image_size: int) -> int:
        """Return the number of strided convolutions of the discriminator, by the shorter side.

        With 1, 2 or 3 of them its patches are 16, 34 or 70 pixels wide. The default is the largest
        number whose patches are not much wider than the image, at most taming's 3.
        """
        if self.disc_layers is not None:
            return self.disc_layers
        return 1 if image_size < 32 else 2 if image_size < 64 else 3

    def validate_for(self, architecture: VQGANConfig) -> None:
        """Check the settings against the shape of the VQ-GAN.

        Raises:
            FieldError: naming the first field with a wrong value, and what would work.
        """
        if self.chroma_weight and architecture.image_channels != 3:
            reason = "only images of 3 channels have colors; use 0"
            raise FieldError("chroma_weight", self.chroma_weight, reason)
        if self.perceptual_weight and architecture.image_channels not in (1, 3):
            raise FieldError(
                "perceptual_weight",
                self.perceptual_weight,
                f"the perceptual loss needs gray or color images, not "
                f"{architecture.image_channels} channels; use 0",
            )
        image_size = min(architecture.image_size)
        layers = self.discriminator_layers(image_size)
        smallest = 3 * 2**layers
        if self.disc_weight and (layers < 1 or image_size < smallest):
            raise FieldError(
                "disc_weight",
                self.disc_weight,
                f"a discriminator with {counted(layers, 'strided layer')} needs images of at "
                f"least {smallest} pixels, not {image_size}; use 0",
            )


@dataclass(frozen=True)
class DistillConfig:
    """The settings of distillation.

    Attributes:
        epochs: length of the run; an epoch has UPDATES_PER_EPOCH optimizer steps.
        optimizer: of student and auxiliary model, as in TrainingConfig.
        auxiliary_lr: peak learning rate of the auxiliary model, which must follow the student.
        teacher_guidance: weight w of the teacher's guidance, which the student learns.
        guidance_rises: whether the weight rises as in sampling, from 0 where all tokens are hidden
            to w where few are. If not, it is w everywhere.
        teacher_logit_scale: factor on the teacher's guided logits; above 1 sharpens.
        grad_clip: largest norm of the gradient of each network; 0 turns clipping off.
        ema_decay: decay of the averaged weights; 0 makes them equal to the raw weights.
        start_share: share of the positions that start from a sampled token, in (0, 1].
    """

    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    weight_decay: ClassVar[float] = 0.0

    num_steps: int = 1
    epochs: int = 20
    batch_size: int = 32
    optimizer: str = "adamw"
    lr: float = 3e-4
    auxiliary_lr: float = 1e-3
    teacher_guidance: float = 1.0
    guidance_rises: bool = False
    teacher_logit_scale: float = 1.25
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    start_share: float = 1 / 8
    seed: int = 0


Training = TrainingConfig | VQGANTrainingConfig | DistillConfig


@dataclass(frozen=True)
class LoopConfig:
    """The settings of the training loop.

    Attributes:
        images_per_step: images per optimizer step, over all processes; for the rates in the log.
        save_every_epochs: write a preview and a checkpoint every this many epochs, and after the
            last one.
        keep_checkpoints: number of recent checkpoints to keep with their step in the name.
        publish: which weights the published checkpoint has: "last", or "best" for those with the
            lowest validation loss. "both" publishes the last and keeps the best beside them.
        early_stop: end the run after this many epochs without a lower validation loss; 0 never.
        use_wandb: whether metrics and generated images also go to Weights & Biases.
        begins_at: the time at which the stage begins, by `time.monotonic`, if it has an `ends_at`.
        ends_at: the time at which the run must have ended; the speed of its steps then decides its
            length. None for `epochs`.
        picture_at: the time, by `time.monotonic`, after which a first picture is written.
    """

    epochs: int
    images_per_step: int
    save_every_epochs: int = 20
    keep_checkpoints: int = 0
    publish: str = PUBLISHED[0]
    early_stop: int = 0
    use_wandb: bool = True
    begins_at: float = 0.0
    ends_at: float | None = None
    picture_at: float = math.inf

    @property
    def keeps_best(self) -> bool:
        """Whether the checkpoint with the lowest validation loss is kept."""
        return self.publish != "last"
