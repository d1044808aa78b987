"""What a VQ-GAN is made of and how it learns.

The defaults of the command line live here. Nothing is imported but the standard library, so that
`--help` does not wait for torch.
"""

from dataclasses import dataclass

GROUPS = 32  # of every GroupNorm: all widths are multiples of it
MAX_CODES = 65536  # tokens are stored as uint16
MAX_BLOCKS = 1000  # a damaged file must not build modules for hours


@dataclass(frozen=True)
class VQGANConfig:
    """Architecture of the VQ-GAN, and with it of its checkpoint; taming-transformers' VQModel.

    Attributes:
        image_size: height and width of an image in pixels.
        image_channels: C, 1 for grey images and 3 for colour.
        channels: width at full resolution.
        z_channels: channels between the convolutions and the quantiser's 1x1 convolutions.
        ch_mult: width of each resolution in multiples of `channels`; the resolution halves from one
            to the next.
        num_res_blocks: residual blocks of each resolution (the decoder has one more).
        attn_resolutions: sizes in pixels at which every residual block is followed by attention.
        dropout: rate inside the residual blocks.
        double_z: the encoder emits twice `z_channels`.
        n_embed: rows of the codebook.
        embed_dim: width of a code.
        remap: the codes in use, as row numbers of the codebook; token i stands for row remap[i].
            None uses all.
        sane_index_shape: the quantiser returns tokens as (B, h, w) and not flat.
        colorize_nlabels: channels of the images where a channel is a label and not a colour; they
            are shown through a fixed random projection to RGB.
    """

    image_size: int = 32
    image_channels: int = 1
    channels: int = 64
    z_channels: int = 64
    ch_mult: tuple[int, ...] = (1, 2, 2)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.0
    double_z: bool = False
    n_embed: int = 128
    embed_dim: int = 64
    remap: tuple[int, ...] | None = None
    sane_index_shape: bool = False
    colorize_nlabels: int | None = None

    @property
    def factor(self) -> int:
        """Pixels per token along one side."""
        return int(2 ** (len(self.ch_mult) - 1))

    @property
    def grid_size(self) -> int:
        """Tokens along one side of an image."""
        return self.image_size // self.factor

    @property
    def codebook_size(self) -> int:
        """K: tokens are 0 .. K-1."""
        return self.n_embed if self.remap is None else len(self.remap)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sizes in pixels at which the networks work, from the image down to the grid."""
        return tuple(self.image_size // 2**level for level in range(len(self.ch_mult)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each of `resolutions`."""
        return tuple(self.channels * multiplier for multiplier in self.ch_mult)

    def unused_attn_resolutions(self) -> tuple[int, ...]:
        """Attention resolutions that never occur; harmless, but not what was meant."""
        return tuple(size for size in self.attn_resolutions if size not in self.resolutions)

    def validate(self) -> None:
        """Check that the numbers fit together.

        Raises:
            ValueError: naming the option, its value and what would work.
        """
        self._validate_counts()
        self._validate_sizes()
        self._validate_codebook()

    def _validate_counts(self) -> None:
        for name in ("image_size", "image_channels", "channels", "z_channels", "num_res_blocks",
                     "n_embed", "embed_dim"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")
        if self.num_res_blocks > MAX_BLOCKS:
            raise ValueError(
                f"--num_res_blocks {self.num_res_blocks}: must be at most {MAX_BLOCKS}"
            )
        if not self.ch_mult or min(self.ch_mult) < 1:
            raise ValueError(f"--ch_mult {list(self.ch_mult)}: needs one or more numbers from 1 up")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout {self.dropout}: must be at least 0 and below 1")
        if self.colorize_nlabels not in (None, self.image_channels):
            raise ValueError(
                f"--colorize_nlabels {self.colorize_nlabels}: the images have "
                f"{self.image_channels} channel(s), and each label is a channel"
            )

    def _validate_sizes(self) -> None:
        for width in (self.channels, *self.widths):
            if width % GROUPS:
                raise ValueError(
                    f"--channels {self.channels} with --ch_mult {list(self.ch_mult)}: GroupNorm's "
                    f"{GROUPS} groups do not divide {width} channels; use multiples of {GROUPS}"
                )
        if self.image_size % self.factor:
            below = self.image_size // self.factor * self.factor
            fits = f"{below} or {below + self.factor}" if below else f"{self.factor}"
            raise ValueError(
                f"--size {self.image_size}: {len(self.ch_mult)} resolutions (--ch_mult "
                f"{list(self.ch_mult)}) halve it {len(self.ch_mult) - 1} times, so it must be a "
                f"multiple of {self.factor}, e.g. {fits}"
            )

    def _validate_codebook(self) -> None:
        if self.codebook_size > MAX_CODES:
            raise ValueError(
                f"--n_embed {self.n_embed}: at most {MAX_CODES} codes can be used, because tokens "
                "are stored as 16-bit numbers"
            )
        if self.remap is None:
            return
        if not self.remap:
            raise ValueError("remap: the list of used codes is empty")
        wrong = [code for code in self.remap if not 0 <= code < self.n_embed]
        if wrong:
            raise ValueError(
                f"remap: code {wrong[0]} is not in the codebook (0..{self.n_embed - 1})"
            )
        if len(set(self.remap)) < len(self.remap):
            twice = next(code for code in self.remap if self.remap.count(code) > 1)
            raise ValueError(f"remap: code {twice} occurs more than once")


@dataclass(frozen=True)
class VQGANTrainingConfig:
    """How stage 1 learns; each is an option of the command line, some with the suffix `_vae`.

    Attributes:
        epochs: passes over the training images.
        batch_size: images of one optimiser step.
        lr: peak learning rate of both optimisers (autoencoder and discriminator).
        betas: of both; taming's.
        warmup_epochs: linear warm-up, at most a tenth of the run, before a cosine decay to 0.
        grad_accum: parts in which a batch is computed, one after the other.
        ema_decay: of the averaged weights, which are what is validated and published.
        codebook_weight: factor on the quantiser's loss.
        perceptual_weight: factor on LPIPS; 0 builds no VGG.
        perceptual_vgg: file with torchvision's VGG16 weights; None downloads them.
        disc_start: step from which the discriminator takes part.
        disc_weight: factor on the adaptive weight of the adversarial loss; 0 builds no
            discriminator.
        disc_channels: width of the discriminator's first layer.
        disc_layers: strided convolutions of the discriminator; None chooses by the image size.
        revive_every: steps between two looks for dead codes; 0 never looks.
        revive_below: a code is dead if it is used less than this share of the average code.
        seed: of everything random.
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 5e-4
    betas: tuple[float, float] = (0.5, 0.9)
    warmup_epochs: float = 1.0
    grad_accum: int = 1
    ema_decay: float = 0.999
    codebook_weight: float = 1.0
    perceptual_weight: float = 1.0
    perceptual_vgg: str | None = None
    disc_start: int = 10_000
    disc_weight: float = 0.8
    disc_channels: int = 64
    disc_layers: int | None = None
    revive_every: int = 100
    revive_below: float = 0.05
    seed: int = 0

    def discriminator_layers(self, image_size: int) -> int:
        """Strided convolutions of the discriminator.

        Its patches are 16, 34 or 70 pixels wide with 1, 2 or 3 of them; by default the most whose
        patch is not much wider than the image, at most taming's 3.
        """
        if self.disc_layers is not None:
            return self.disc_layers
        return 1 if image_size < 32 else 2 if image_size < 64 else 3

    def validate(self, architecture: VQGANConfig) -> None:
        """Check the numbers that can be out of range.

        Raises:
            ValueError: naming the value and what would work.
        """
        for name in ("epochs", "batch_size", "grad_accum", "disc_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("lr", "codebook_weight", "perceptual_weight", "disc_weight", "disc_start"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)}: must not be negative")
        if self.perceptual_weight and architecture.image_channels not in (1, 3):
            raise ValueError(
                f"--perceptual_weight {self.perceptual_weight}: the perceptual loss sees grey or "
                f"colour images, not {architecture.image_channels} channels; use 0"
            )
        layers = self.discriminator_layers(architecture.image_size)
        smallest = 3 * 2**layers
        if self.disc_weight and (layers < 1 or architecture.image_size < smallest):
            raise ValueError(
                f"a discriminator with {layers} strided layer(s) needs images of at least "
                f"{smallest} pixels, not {architecture.image_size}; use --disc_weight 0"
            )
