"""The config of the VQ-GAN; its defaults are also those of the command line.

This file imports nothing slow, because the command line reads it before it shows its help.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from models.shapes import TokenizerShape
from utils.errors import FieldError, UserError, counted, one_line, value_text
from utils.plain import ADDED_LATER, written_by
from utils.size import Size, size_of, size_text

MAX_CODES = 2**32  # tokens are stored as 16 or 32 bits
MAX_LEVELS = 32  # an image cannot be halved more often
MAX_BLOCKS = 1000  # at all resolutions; a damaged file must not build modules for hours


@dataclass(frozen=True)
class VQGANConfig(TokenizerShape):
    """Shape of the VQ-GAN, which is taming-transformers' VQModel; a checkpoint holds it.

    Attributes:
        image_size: height and width of an image in pixels; a number stands for a square.
        image_channels: channels of an image C, 1 for gray and 3 for color.
        channels: channels of the layers at full resolution.
        z_channels: channels of the encoder's output, before the 1x1 convolution to `embed_dim`.
        ch_mult: channels at each resolution, in multiples of `channels`. Each resolution is half of
            the previous one.
        num_res_blocks: residual blocks at each resolution (the decoder has one more).
        attn_resolutions: resolutions, as the shorter side in pixels, at which attention follows
            each residual block.
        double_z: whether the encoder returns 2 * z_channels channels.
        n_embed: number of codes in the codebook.
        remap: rows of the codebook in use: token i means row remap[i]. None uses all rows.
        sane_index_shape: whether the quantizer returns tokens as (B, h, w), not flat.
        colorize_nlabels: number of channels if the channels of the images are labels, not colors.
            Such images are shown in fixed random colors. None for other images.
        middle_attention: whether there is attention at the resolution of the tokens, between the
            two middle blocks.
        norm_groups: groups of every GroupNorm; all widths are multiples of it. With one channel in
            a group, each channel loses its mean, and with it the color of a flat image.
    """

    family: ClassVar[str] = "vqgan"
    # The end of the message of `models.family.refuse_contradictions`.
    contradiction_hint: ClassVar[str] = ", or train another tokenizer with `train_vae`"

    image_size: Size = field(default=(32, 32), metadata=written_by(size_text, size_of))
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
    middle_attention: bool = field(default=True, metadata=ADDED_LATER)
    norm_groups: int = field(default=32, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", size_of(self.image_size))

    @property
    def factor(self) -> int:
        """Pixels per token along one side."""
        return int(2 ** (len(self.ch_mult) - 1))

    @property
    def grid(self) -> tuple[int, ...]:
        """Rows and columns of tokens, (h, w)."""
        return tuple(side // self.factor for side in self.image_size)

    @property
    def codebook_size(self) -> int:
        """The number of tokens K; their ids are 0 .. K-1."""
        return self.n_embed if self.remap is None else len(self.remap)

    @property
    def all_codes(self) -> int:
        """The number of codes, including those that a remap leaves unused."""
        return self.n_embed

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Shorter sides of the feature maps in pixels, from the image down to the token grid."""
        return tuple(min(self.image_size) // 2**level for level in range(len(self.ch_mult)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each of `resolutions`."""
        return tuple(self.channels * multiplier for multiplier in self.ch_mult)

    def for_images_of(self, image_size: Size) -> "VQGANConfig":
        """Return the config for images of another size; this one if the network has attention.

        Convolutions work at any multiple of `factor`, with the same weights.
        """
        other = replace(self, image_size=image_size)
        attention = {*self.attn_resolutions} & {*self.resolutions, *other.resolutions}
        return self if attention or self.middle_attention else other

    def adapted(self, given: Mapping[str, Any], source: Path | str) -> "VQGANConfig":
        """Take over an image size, and a remap, the path of an .npy file; errors as in the base."""
        resized = self.for_images_of(size_of(given.get("image_size", self.image_size)))
        if given.get("remap") is None:
            return resized
        remap = read_remap(Path(given["remap"]), self.n_embed)
        if self.remap not in (None, remap):
            raise UserError(
                f"`remap` {given['remap']} names other codes than the {self.codebook_size} in use "
                f"in {source}; leave it out"
            )
        return replace(resized, remap=remap)

    def unused_attn_resolutions(self) -> tuple[int, ...]:
        """Return the attention resolutions that do not occur; they have no effect."""
        return tuple(size for size in self.attn_resolutions if size not in self.resolutions)

    def validate(self) -> None:
        """Check that the numbers fit together.

        Raises:
            FieldError: naming the first field with a wrong value, and what would work.
            ValueError: if `remap` is empty or has a wrong or repeated code.
        """
        levels = len(self.ch_mult)
        self.need(min(self.image_size) >= 1, "image_size", "must be at least 1")
        for name in ("image_channels", "channels", "z_channels", "num_res_blocks", "n_embed",
                     "embed_dim", "norm_groups"):  # fmt: skip
            self.need(getattr(self, name) >= 1, f"VQGANConfig.{name}", "must be at least 1")
        are_positive = 1 <= levels <= MAX_LEVELS and min(self.ch_mult) >= 1
        self.need(are_positive, "ch_mult", f"needs 1 to {MAX_LEVELS} numbers, each from 1 up")
        most = MAX_BLOCKS // levels
        reason = f"must be at most {most} with {counted(levels, 'resolution')}"
        self.need(self.num_res_blocks <= most, "num_res_blocks", reason)
        in_range = 0 <= self.dropout < 1
        self.need(in_range, "VQGANConfig.dropout", "must be at least 0 and below 1")
        self.need(
            self.colorize_nlabels in (None, self.image_channels),
            "colorize_nlabels",
            f"the images have {counted(self.image_channels, 'channel')}, and each label is one",
        )
        self._validate_sizes(f"`ch_mult` {value_text(self.ch_mult)}")
        fits = self.codebook_size <= MAX_CODES
        self.need(fits, "n_embed", f"at most {MAX_CODES} codes can be used")
        if self.remap is not None:
            _check_remap(self.remap, self.n_embed)

    def agrees(self, field: str, value: object) -> bool:
        """Return whether a value that the user gave is the value of the field.

        Lists count as tuples.
        """
        if field == "remap":  # given as a path; `adapted` compares the contents of the file
            return True
        own = getattr(self, field)
        if field == "attn_resolutions" and isinstance(value, tuple | list):
            # Weights of another program do not show resolutions that never occur.
            occurring = set(self.resolutions)
            return set(value) & occurring == set(own) & occurring
        return super().agrees(field, value)

    def _validate_sizes(self, widths: str) -> None:
        """Check that GroupNorm divides all widths and the image can be halved often enough."""
        for width in (self.channels, *self.widths):
            self.need(
                width % self.norm_groups == 0,
                "channels",
                f"with {widths} there are layers of {width} channels, which GroupNorm's "
                f"{self.norm_groups} groups do not divide; use multiples of {self.norm_groups}",
            )
        for side in self.image_size:
            below = side // self.factor * self.factor
            fits = f"{below} or {below + self.factor}" if below else f"{self.factor}"
            self.need(
                side == below,
                "image_size",
                f"{len(self.ch_mult)} resolutions ({widths}) halve it "
                f"{counted(len(self.ch_mult) - 1, 'time')}, so it must be a multiple of "
                f"{self.factor}, e.g. {fits}",
            )


def _check_remap(remap: tuple[int, ...], n_embed: int) -> None:
    """Raise a ValueError unless these are different codes of the codebook."""
    if not remap:
        raise ValueError("the list of used codes is empty")
    wrong = [code for code in remap if not 0 <= code < n_embed]
    if wrong:
        raise ValueError(f"code {wrong[0]} is not in the codebook (0..{n_embed - 1})")
    code, times = Counter(remap).most_common(1)[0]
    if times > 1:
        raise ValueError(f"code {code} occurs more than once")


def read_remap(path: Path, n_embed: int) -> tuple[int, ...]:
    """Read the numbers of the used codes from an .npy file.

    Raises:
        FieldError: if it is missing, or is not a list of different codes in [0, n_embed).
    """
    try:
        codes = np.load(path, allow_pickle=False)
    except OSError as error:
        raise FieldError("remap", path, error.strerror or one_line(error)) from error
    except Exception as error:
        # numpy parses the header as Python, so damage can raise any exception.
        raise FieldError("remap", path, "is not a complete .npy file of numbers") from error
    if not isinstance(codes, np.ndarray) or codes.ndim != 1 or codes.dtype.kind not in "iu":
        raise FieldError("remap", path, "must hold one array of whole numbers, the used codes")
    remap = tuple(codes.tolist())
    try:
        _check_remap(remap, n_embed)
    except ValueError as error:
        raise FieldError("remap", path, str(error)) from error
    return remap
