"""The description of a family of networks: a row in a table of models/open.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.given import checked
from models.interfaces import TokenizerNetwork, Transformer
from models.shapes import TokenizerShape
from utils.size import Size

ReadTransformer = Callable[[Any, Path, TokenizerShape, int | None, Mapping[str, Any]], Transformer]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What tokenizer and transformer families share.

    Attributes:
        config: its config dataclass, which also holds the family's name.
        layout: describes the files of other programs that it reads, for messages; empty if none.
        recognizes: tells whether what `read_torch_file` returned is such a file.
    """

    config: Any
    layout: str = ""
    recognizes: Callable[[Any], bool] = lambda stored: False

    @property
    def name(self) -> str:
        """The name of the family in checkpoints."""
        return self.config.family


@dataclass(frozen=True, kw_only=True)
class TokenizerFamily(Family):
    """A kind of tokenizer; its config is a `TokenizerShape`.

    Attributes:
        network: builds the network of a config.
        read: (what `read_torch_file` returned, path, image size, given fields) -> network on the
            CPU, from a file of another program. It must refuse a file with an entry that the
            network does not use, unless the entry is known to have no effect.
        adapt: (network, path, given fields) -> network. Checks the given fields against the config,
            and applies those that change the network.
    """

    network: Callable[[Any], TokenizerNetwork]
    read: Callable[[Any, Path, Size, Mapping[str, Any]], TokenizerNetwork] | None = None
    adapt: Callable[[Any, Path, Mapping[str, Any]], TokenizerNetwork] = checked


@dataclass(frozen=True, kw_only=True)
class TransformerFamily(Family):
    """A kind of transformer; its config is a `TransformerShape`.

    The config of a new transformer gets codebook_size, num_classes and seq_len, and every other
    field that an option fills.

    Attributes:
        network: builds the network of a config.
        training_bytes: (config, number of parameters, batch size, type of device) -> rough memory
            of a training step in bytes.
        read: (what `read_torch_file` returned, path, config of the tokenizer, number of classes or
            None if it is unknown, given fields) -> network on the CPU, from a file of another
            program. It must refuse unused entries, as for tokenizers.
        write: network -> its weights in the layout of another program; None if no program has one.
        joined: number of matrices in a linear layer that computes several maps of its input, by the
            last part of the layer's name. Muon treats these matrices one by one.
    """

    network: Callable[[Any], Transformer]
    training_bytes: Callable[[Any, int, int, str], int]
    read: ReadTransformer | None = None
    write: Callable[[Any], dict[str, Any]] | None = None
    joined: Mapping[str, int] = field(default_factory=dict)
