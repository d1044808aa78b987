"""What a run of stage 2 is made of: the transformer, its training, its sampling.

The defaults of the command line live here. Nothing is imported but the standard library, so that
`--help` does not wait for torch.
"""

from dataclasses import dataclass, fields

MAX_DEPTH = 1000  # a damaged file must not build modules for hours
TRAINING_SCHEDULES = ("arccos", "cosine", "linear", "square", "root")
CUMULATIVE_SCHEDULES = ("cosine-cumulative", "arccos-cumulative")
SAMPLERS = ("confidence", "moment", "halton", "random")
NOISY_SAMPLERS = ("confidence", "moment")  # those that a choice temperature acts on
GUIDANCE_SCHEDULES = ("linear", "constant")


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the masked transformer, and with it of its checkpoint.

    Attributes:
        codebook_size: K, image tokens 0 .. K-1.
        num_classes: classes of the dataset; one more label, `null_class`, means "no class".
        seq_len: L, image tokens of one image (h * w).
        embed_dim: width of the token embedding (--embed_dim_t).
        hidden_dim: D, width of the blocks; a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads of each block.
        mlp_dim: width of each block's MLP.
        dropout: rate at the embeddings and at the outputs of attention and MLP (--dropout_t).
    """

    codebook_size: int
    num_classes: int
    seq_len: int
    embed_dim: int = 64
    hidden_dim: int = 128
    depth: int = 10
    heads: int = 8
    mlp_dim: int = 384
    dropout: float = 0.1

    @property
    def mask_token(self) -> int:
        """Id of the token that stands for "hidden"."""
        return self.codebook_size

    @property
    def null_class(self) -> int:
        """Label that means "no class", the unconditional input of guidance."""
        return self.num_classes

    @property
    def vocabulary_size(self) -> int:
        """V: image tokens, mask token, classes, "no class"."""
        return self.codebook_size + 1 + self.num_classes + 1

    def validate(self) -> None:
        """Raise ValueError, naming the value, if the numbers do not fit together."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "dropout" and value < 1:
                raise ValueError(f"{field.name} {value}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout_t {self.dropout}: must be at least 0 and below 1")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"--depth {self.depth}: must be at most {MAX_DEPTH}")
        if self.hidden_dim % self.heads:
            raise ValueError(
                f"--hidden_dim {self.hidden_dim} is not divisible by --heads {self.heads}"
            )


@dataclass(frozen=True)
class TrainingConfig:
    """How stage 2 learns.

    Attributes:
        epochs: passes over the training tokens (--n_epochs).
        batch_size: images of one optimiser step, over all processes.
        lr: peak learning rate of AdamW.
        betas: of AdamW.
        weight_decay: of AdamW, on the weights of linear layers alone.
        warmup_epochs: linear warm-up (--warmup), at most a tenth of the run.
        label_drop: share of the images trained without their class (--drop-label).
        schedule: mask ratio as a function of a uniform draw (--sched_mode).
        label_smoothing: of the cross-entropy.
        grad_clip: largest norm of the whole gradient; 0 turns clipping off.
        grad_accum: parts in which a batch is computed, one after the other.
        ema_decay: of the averaged weights; 0 makes them equal to the raw ones.
        seed: of everything random.
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    warmup_epochs: int = 10
    label_drop: float = 0.1
    schedule: str = "arccos"
    label_smoothing: float = 0.1
    grad_clip: float = 1.0
    grad_accum: int = 1
    ema_decay: float = 0.999
    seed: int = 0


@dataclass(frozen=True)
class SamplingConfig:
    """How images are decoded.

    Attributes:
        num_steps: decoding steps T (--step), at most the number of hidden tokens.
        schedule: shape of the plan (--sched_mode).
        sampler: which hidden positions get their token first.
        guidance: classifier-free guidance w at the last step (--cfg_w).
        guidance_schedule: "linear" ramps it up from 0, "constant" has it at every step
            (--cfg_schedule).
        choice_temperature: Gumbel noise on the confidence at the first step, ramped down to 0
            (--r_temp); the halton and random samplers have none.
        logit_scale: factor on the logits before the softmax; above 1 sharpens (--sm_temp).
        start_token: what stands at a hidden position at the start (--mask-value): None for the mask
            token, an id for that token, a negative number for random image tokens.
    """

    num_steps: int = 8
    schedule: str = "arccos"
    sampler: str = "confidence"
    guidance: float = 3.0
    guidance_schedule: str = "linear"
    choice_temperature: float = 4.5
    logit_scale: float = 1.0
    start_token: int | None = None
