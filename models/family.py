"""What a row in the tables of families (models/open.py) says about a kind of network."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from models.interfaces import TokenizerShape


class TokenizerFamily(NamedTuple):
    """A kind of tokenizer.

    Attributes:
        config: its config dataclass, which also has the name of the family.
        network: builds the network of a config.
        layout: describes its files of other programs, for messages.
        recognises: tells whether what `read_torch_file` returned is such a file.
        read: (what `read_torch_file` returned, path, image size, given fields) -> network on the
            CPU, from a file of another program.
        adapt: (network, path, given fields) -> network. Checks the given fields against the config,
            and applies those that change the network.
    """

    config: Any
    network: Callable[[Any], nn.Module]
    layout: str
    recognises: Callable[[Any], bool]
    read: Callable[[Any, Path, int, Mapping[str, Any]], nn.Module]
    adapt: Callable[[Any, Path, Mapping[str, Any]], nn.Module]

    @property
    def name(self) -> str:
        """The name of the family in checkpoints."""
        return self.config.family


class TransformerFamily(NamedTuple):
    """A kind of transformer.

    Attributes:
        config: its config dataclass, which also has the name of the family.
        network: builds the network of a config.
        layout: describes its files of other programs, for messages.
        recognises: tells whether what `read_torch_file` returned is such a file.
        read: (what `read_torch_file` returned, path, config of the tokenizer, number of classes or
            None if it is unknown, given fields) -> network on the CPU, from a file of another
            program.
        write: network -> its weights in the layout of another program; None if no program has one.
        training_bytes: (config, number of parameters, batch size, type of device) -> rough memory
            of a training step in bytes.
        joined: for linear layers that compute several maps of their input, which a step of training
            may treat one by one: their number, by the last name of the layer.
    """

    config: Any
    network: Callable[[Any], nn.Module]
    layout: str
    recognises: Callable[[Any], bool]
    read: Callable[[Any, Path, TokenizerShape, int | None, Mapping[str, Any]], nn.Module]
    write: Callable[[Any], dict[str, Any]] | None
    training_bytes: Callable[[Any, int, int, str], int]
    joined: Mapping[str, int] = MappingProxyType({})

    @property
    def name(self) -> str:
        """The name of the family in checkpoints."""
        return self.config.family
