"""The tables of the families of networks, and how the family of a file or a config is found.

To add a family, write its folder (config, network, reader of other programs' files, row) and name
its row in TOKENIZERS or TRANSFORMERS. A checkpoint of this program names its families. A file of
another program is recognized by its contents.
"""

import logging
from pathlib import Path
from typing import Any

from models.amused import foreign as amused
from models.dimo import foreign as dimo
from models.family import Family, Transformer
from models.foreign_file import ForeignFile
from models.google import foreign as google
from models.halton import foreign as halton
from models.ibq import foreign as ibq
from models.llamagen import foreign as llamagen
from models.maskbit import foreign as maskbit
from models.maskgit import foreign as maskgit
from models.maskgit_vqgan import foreign as maskgit_vqgan
from models.modern.config import ModernConfig
from models.modern.transformer import ModernTransformer
from models.shapes import NetworkShape, TokenizerShape, TransformerShape
from models.titok import foreign as titok
from models.titok import generators as titok_generators
from models.tokenizer import Tokenizer
from models.vqgan import foreign as vqgan
from utils.errors import FieldError, UserError, one_line
from utils.torch_file import opening, pickled_network

log = logging.getLogger(__name__)

TOKENIZERS: tuple[Family, ...] = (
    titok.FAMILY,
    llamagen.FAMILY,
    maskgit_vqgan.FAMILY,
    maskbit.TOKENIZER,
    ibq.FAMILY,
    amused.FAMILY,
    vqgan.FAMILY,
)
TRANSFORMERS: tuple[Family, ...] = (
    halton.FAMILY,
    maskbit.TRANSFORMER,
    google.FAMILY,
    titok_generators.FAMILY,
    dimo.FAMILY,
    maskgit.FAMILY,
    Family(config=ModernConfig, network=ModernTransformer),
)
# Files of format version 1 do not name their families.
FIRST_TOKENIZER, FIRST_TRANSFORMER = vqgan.FAMILY.name, maskgit.FAMILY.name


def family_named(kind: str, name: Any) -> Family:
    """Find a family by its name.

    Args:
        kind: "tokenizer" or "transformer".
        name: from a file or a user; any type.

    Raises:
        ValueError: if this program does not have it.
    """
    for family in _families(kind):
        if isinstance(name, str) and family.name == name:
            return family
    shown = repr(name[:40]) if isinstance(name, str) else f"of type {type(name).__name__}"
    known = ", ".join(family.name for family in _families(kind))
    raise ValueError(f"unknown {kind} family {shown}; this program has {known}")


def new_tokenizer(config: TokenizerShape) -> Tokenizer:
    """Build an untrained tokenizer of a family on the CPU."""
    return Tokenizer(family_of(config).network(config))


def new_transformer(config: TransformerShape) -> Transformer:
    """Build a transformer with random weights from torch's global generator."""
    return family_of(config).network(config)


def family_of(config: NetworkShape) -> Family:
    """Find the family that a config belongs to."""
    return family_named(config.kind, config.family)


def family_of_file(kind: str, file: ForeignFile, named: str | None = None) -> Family:
    """Find the family that recognizes a file of another program.

    Args:
        kind: "tokenizer" or "transformer".
        named: the family that the user named; None tries all of them.

    Raises:
        UserError: if no family does; it names the known layouts.
    """
    path = file.path
    families = _families(kind) if named is None else (_family_asked_for(kind, named, path),)
    with opening(path):
        for family in families:
            accepts = family.accepts if named and family.accepts else family.recognizes
            if accepts(file):
                return family
    network = pickled_network(file.stored)
    if network:
        raise UserError(
            f"{path} holds a whole pickled network ({one_line(ValueError(network), 80)}), which "
            "only the program that made it can open: load it there and save its state_dict()"
        )
    known = ", no ".join(family.layout for family in families if family.layout)
    if named is not None:
        raise FieldError(kind, named, f"{path} holds no {known}")
    raise UserError(f"{path} is not a checkpoint of this program, and holds no {known}")


def read_network(kind: str, file: ForeignFile, *said: Any, named: str | None = None) -> Any:
    """Build the network in a file of another program, on the CPU.

    Args:
        kind: as in `family_of_file`; so is `named`.
        *said: the other arguments of `Family.read`: what the user says about the network.

    Raises:
        UserError: as `family_of_file`; or if the network cannot be built.
    """
    family = family_of_file(kind, file, named)
    assert family.read is not None, "it recognizes a file"
    with opening(file.path):
        try:
            network = family.read(file, *said)
        except ValueError as error:
            reason = one_line(error)
            raise UserError(f"the weights in {file.path} do not make a {kind}: {reason}") from error
    if family.license:
        log.info("%s: %s, published under %s", file.path, family.name, family.license)
    return network


def _families(kind: str) -> tuple[Family, ...]:
    """Return the table of a kind of networks, "tokenizer" or "transformer"."""
    return TOKENIZERS if kind == "tokenizer" else TRANSFORMERS


def _family_asked_for(kind: str, name: str, path: Path) -> Family:
    """Find the family that the user named for a file of another program.

    Raises:
        FieldError: if there is none of this name, or it reads no files of other programs.
    """
    try:
        family = family_named(kind, name)
    except ValueError as error:
        raise FieldError(kind, name, one_line(error)) from error
    if family.read is None:
        raise FieldError(kind, name, f"is a family of this program only, unlike {path}")
    return family
