"""The sampling settings; their defaults are also those of the command line.

This file imports nothing slow, because the command line reads it before it shows its help.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from models.samplers import SAMPLERS
from models.schedules import CUMULATIVE_SCHEDULES, GUIDANCE_SCHEDULES, MASK_SCHEDULES
from utils.errors import FieldError, check_choice, check_number, check_whole, is_number
from utils.plain import ADDED_LATER

if TYPE_CHECKING:
    from models.shapes import TransformerShape

MAX_STRENGTH = 1000.0  # largest guidance, temperature and factor on the logits
CHOICES = {
    "schedule": (*MASK_SCHEDULES, *CUMULATIVE_SCHEDULES),
    "sampler": tuple(SAMPLERS),
    "guidance_schedule": tuple(GUIDANCE_SCHEDULES),
    "halton_roll": ("on", "off"),
}


@dataclass(frozen=True)
class SamplingConfig:
    """The sampling settings: how images are decoded.

    Attributes:
        num_steps: decoding steps T, at most the number of hidden tokens.
        schedule: shape of the plan; a key of MASK_SCHEDULES or of CUMULATIVE_SCHEDULES.
        sampler: which hidden positions are revealed first; a key of SAMPLERS.
        guidance: weight w of classifier-free guidance, the largest of all steps; 0 turns it off.
        guidance_schedule: how guidance changes over the steps; a key of GUIDANCE_SCHEDULES.
        guidance_interval: lowest and highest share of hidden tokens at which guidance is on. Only
            some schedules use it (`GuidanceSchedule.uses_interval`).
        guidance_power: how late guidance rises over the steps. Only some schedules use it
            (`GuidanceSchedule.uses_power`).
        choice_temperature: weight of the Gumbel noise on the confidence at the first step; it falls
            to 0 at the last. Only some samplers use it (`Sampler.uses_temperature`).
        logit_scale: factor on the logits before the softmax; above 1 makes the prediction sharper.
        first_logit_scale: another factor on the logits of the first step only.
        halton_roll: "on" if each image starts at a random point of the order of the sampler
            `halton`, "off" if all images use the same order.
        start_token: token at hidden positions before the first step: None for the mask token, an id
            for that token, a negative number for random image tokens.
        start_share: share of positions that start from a token sampled from the model's prediction
            of a fully hidden image, or from random image tokens if `start_token` is negative. They
            still count as hidden. Students that sample in few steps need it
            (training/distillation.py, models/dimo). 0 turns it off.
    """

    num_steps: int = 8
    schedule: str = "arccos"
    sampler: str = "confidence"
    guidance: float = 3.0
    guidance_schedule: str = "linear"
    guidance_interval: tuple[float, float] = (0.39, 0.78)
    choice_temperature: float = 4.5
    logit_scale: float = 1.0
    start_token: int | None = None
    start_share: float = field(default=0.0, metadata=ADDED_LATER)
    first_logit_scale: float = field(default=1.0, metadata=ADDED_LATER)
    halton_roll: str = field(default="on", metadata=ADDED_LATER)
    guidance_power: float = field(default=3.0, metadata=ADDED_LATER)

    @classmethod
    def usual_for(cls, shape: TransformerShape) -> SamplingConfig:
        """Return the default settings for a transformer."""
        own = {one.name for one in fields(cls)}
        usual = {name: value for name, value in shape.usual.items() if name in own}
        return cls(**usual) if shape.null_class is not None else cls(**{**usual, "guidance": 0.0})

    @property
    def ignored(self) -> set[str]:
        """The fields that the sampler and the guidance do not use."""
        sampler, schedule = SAMPLERS[self.sampler], GUIDANCE_SCHEDULES[self.guidance_schedule]
        guided = self.guidance > 0
        used = {
            "choice_temperature": sampler.uses_temperature,
            "halton_roll": sampler.uses_order,
            "guidance_schedule": guided,
            "guidance_interval": guided and schedule.uses_interval,
            "guidance_power": guided and schedule.uses_power,
        }
        return {name for name, is_used in used.items() if not is_used}

    def validate(self) -> None:
        """Check every field.

        Raises:
            FieldError: naming the first field with a wrong value, and what would work.
        """
        for name, choices in CHOICES.items():
            check_choice(f"SamplingConfig.{name}", getattr(self, name), choices)
        check_whole("num_steps", self.num_steps, 1)
        for name in ("guidance", "choice_temperature"):
            check_number(name, getattr(self, name), 0, MAX_STRENGTH)
        for name in ("logit_scale", "first_logit_scale", "guidance_power"):
            check_number(name, getattr(self, name), 0, MAX_STRENGTH, above=True)
        check_number("start_share", self.start_share, 0, 1)
        if self.start_token is not None:
            check_whole("start_token", self.start_token)
        if self.start_share and self.start_token is not None and self.start_token >= 0:
            reason = f"`start_share` {self.start_share} already sets the start; leave one out"
            raise FieldError("start_token", self.start_token, reason)
        ends = self.guidance_interval
        are_two = isinstance(ends, tuple | list) and len(ends) == 2 and all(map(is_number, ends))
        if not (are_two and 0 <= ends[0] <= ends[1] <= 1):
            reason = "must be two shares from 0 to 1, the lower one first, as in 0.39,0.78"
            raise FieldError("guidance_interval", ends if are_two else repr(ends), reason)

    def validate_for(self, shape: TransformerShape) -> None:
        """Check every field, also against a transformer.

        Raises:
            FieldError: as `validate`; or if the start token does not exist, or the transformer
                cannot be guided.
        """
        self.validate()
        if self.start_token is not None and self.start_token > shape.mask_token:
            raise FieldError(
                "start_token",
                self.start_token,
                f"the tokens are 0 to {shape.mask_token - 1} and the mask token "
                f"{shape.mask_token}; a negative value starts from random tokens",
            )
        if self.guidance and shape.null_class is None:
            reason = "this transformer has no trained null class, so it cannot be guided; use 0"
            raise FieldError("guidance", self.guidance, reason)
