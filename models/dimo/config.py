"""The config of Di[M]O's student; imports nothing slow, as models/maskgit/config.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.maskgit.config import TransformerConfig


@dataclass(frozen=True)
class DimoConfig(TransformerConfig):
    """Shape of Di[M]O's student: that of its teacher, with noise on the embeddings of tokens.

    Attributes:
        noise: weight n of the noise, from 0 to 1; that of an embedding is sqrt(1 - n^2).
    """

    family: ClassVar[str] = "dimo"
    # One step from 60 % mask tokens and 40 % random ones, without guidance.
    usual: ClassVar[Mapping[str, Any]] = {
        "num_steps": 1,
        "guidance": 0.0,
        "start_token": -1,
        "start_share": 0.4,
    }

    noise: float = 0.1
