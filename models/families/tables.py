"""The tables of the families of networks, and how the family of a file or a config is found.

To add a family, write its folder (config, network, reader of other programs' files) and add a row
to TOKENIZERS or TRANSFORMERS. A checkpoint of this program names its families. A file of another
program is recognized by its contents.
"""

from pathlib import Path
from typing import Any

from models.amused import foreign as amused_files
from models.amused.config import AmusedConfig
from models.amused.network import AmusedModel
from models.dimo import foreign as dimo_files
from models.dimo.config import DimoConfig
from models.dimo.network import DimoTransformer
from models.family import Family, TokenizerFamily, Transformer, TransformerFamily
from models.foreign_file import ForeignFile
from models.google import foreign as google_files
from models.google import transformer as google
from models.google.config import BertConfig
from models.halton import foreign as halton_files
from models.halton import transformer as halton
from models.halton.config import HaltonConfig
from models.ibq import foreign as ibq_files
from models.ibq.config import IBQConfig
from models.ibq.network import IBQModel
from models.llamagen import foreign as llamagen_files
from models.llamagen.config import LlamaGenConfig
from models.llamagen.network import LlamaGenModel
from models.maskbit import foreign as maskbit_files
from models.maskbit import transformer as maskbit
from models.maskbit.config import BitTokenizerConfig, BitTransformerConfig
from models.maskbit.tokenizer import BitTokenizer
from models.maskgit import foreign as maskgit_files
from models.maskgit import transformer as maskgit
from models.maskgit.config import TransformerConfig
from models.maskgit_vqgan import foreign as maskgit_vqgan_files
from models.maskgit_vqgan.config import MaskgitVQGANConfig
from models.maskgit_vqgan.network import MaskgitVQModel
from models.modern import transformer as modern
from models.modern.config import ModernConfig
from models.shapes import TokenizerShape, TransformerShape
from models.titok import foreign as titok_files
from models.titok import generators as titok_generators
from models.titok.config import TitokConfig, TitokTransformerConfig
from models.titok.network import TitokModel
from models.titok.transformer import TitokTransformer
from models.tokenizer import Tokenizer
from models.vqgan import foreign as vqgan_files
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from utils.errors import FieldError, UserError, one_line
from utils.torch_file import opening, pickled_network

TOKENIZERS = (
    TokenizerFamily(
        config=TitokConfig,
        network=TitokModel,
        layout=titok_files.LAYOUT,
        license="Apache-2.0 (bytedance/1d-tokenizer)",
        recognizes=titok_files.recognizes,
        read=titok_files.read,
        adapt=vqgan_files.adapt,
    ),
    TokenizerFamily(
        config=LlamaGenConfig,
        network=LlamaGenModel,
        layout=llamagen_files.LAYOUT,
        license="MIT (FoundationVision/LlamaGen)",
        recognizes=llamagen_files.recognizes,
        read=llamagen_files.read,
        adapt=vqgan_files.adapt,
    ),
    TokenizerFamily(
        config=MaskgitVQGANConfig,
        network=MaskgitVQModel,
        layout=maskgit_vqgan_files.LAYOUT,
        license="Apache-2.0 (google-research/maskgit, markweberdev/maskbit); MAGE states none",
        recognizes=maskgit_vqgan_files.recognizes,
        read=maskgit_vqgan_files.read,
        adapt=vqgan_files.adapt,
    ),
    TokenizerFamily(
        config=BitTokenizerConfig,
        network=BitTokenizer,
        layout=maskbit_files.TOKENIZER_LAYOUT,
        license="Apache-2.0 (markweberdev/maskbit)",
        recognizes=maskbit_files.recognizes_tokenizer,
        read=maskbit_files.read_tokenizer,
        adapt=maskbit_files.adapt,
    ),
    TokenizerFamily(
        config=IBQConfig,
        network=IBQModel,
        layout=ibq_files.LAYOUT,
        license="Apache-2.0 (TencentARC/SEED-Voken)",
        recognizes=ibq_files.recognizes,
        accepts=vqgan_files.is_complete,
        read=ibq_files.read,
        adapt=vqgan_files.adapt,
    ),
    TokenizerFamily(
        config=AmusedConfig,
        network=AmusedModel,
        layout=amused_files.LAYOUT,
        license="openrail++ (amused/amused-512), or what the file's own page says",
        recognizes=amused_files.recognizes,
        accepts=lambda file: amused_files.recognizes(file) or vqgan_files.is_complete(file),
        read=amused_files.read,
        adapt=vqgan_files.adapt,
    ),
    TokenizerFamily(
        config=VQGANConfig,
        network=VQModel,
        layout=vqgan_files.LAYOUT,
        recognizes=vqgan_files.recognizes,
        read=vqgan_files.read,
        adapt=vqgan_files.adapt,
    ),
)
TRANSFORMERS = (
    TransformerFamily(
        config=HaltonConfig,
        network=halton.HaltonTransformer,
        layout=halton_files.LAYOUT,
        license="MIT (valeoai/Halton-MaskGIT)",
        recognizes=halton_files.recognizes,
        read=halton_files.read,
        write=halton_files.to_foreign,
        carry=halton.carry,
    ),
    TransformerFamily(
        config=BitTransformerConfig,
        network=maskbit.BitTransformer,
        layout=maskbit_files.LAYOUT,
        license="Apache-2.0 (markweberdev/maskbit)",
        recognizes=maskbit_files.recognizes,
        read=maskbit_files.read,
        write=maskbit_files.to_foreign,
        joined=maskgit.JOINED,
        carry=maskbit.carry,
    ),
    TransformerFamily(
        config=BertConfig,
        network=google.BertTransformer,
        layout=google_files.LAYOUT,
        license="Apache-2.0 (google-research/maskgit)",
        recognizes=google_files.recognizes,
        read=google_files.read,
        joined=maskgit.JOINED,
        carry=google.carry,
    ),
    TransformerFamily(
        config=TitokTransformerConfig,
        network=TitokTransformer,
        layout=titok_generators.LAYOUT,
        license="Apache-2.0 (bytedance/1d-tokenizer)",
        recognizes=titok_generators.recognizes,
        read=titok_generators.read,
        write=titok_generators.to_foreign,
        joined=maskgit.JOINED,
        carry=maskgit.carry,
    ),
    TransformerFamily(
        config=DimoConfig,
        network=DimoTransformer,
        layout=dimo_files.LAYOUT,
        recognizes=dimo_files.recognizes,
        read=dimo_files.read,
        write=maskgit_files.to_foreign,
        joined=maskgit.JOINED,
        carry=maskgit.carry,
    ),
    TransformerFamily(
        config=TransformerConfig,
        network=maskgit.MaskedTransformer,
        layout=maskgit_files.LAYOUT,
        recognizes=maskgit_files.recognizes,
        read=maskgit_files.read,
        write=maskgit_files.to_foreign,
        joined=maskgit.JOINED,
        carry=maskgit.carry,
    ),
    TransformerFamily(
        config=ModernConfig,
        network=modern.ModernTransformer,
        joined=modern.JOINED,
        carry=modern.carry,
    ),
)
# Files of format version 1 do not name their families.
FIRST_TOKENIZER, FIRST_TRANSFORMER = VQGANConfig.family, TransformerConfig.family


def family_named(kind: str, name: Any) -> Any:
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
    return Tokenizer(family_named("tokenizer", config.family).network(config))


def new_transformer(config: TransformerShape) -> Transformer:
    """Build a transformer with random weights from torch's global generator."""
    return transformer_family(config).network(config)


def transformer_family(config: TransformerShape) -> TransformerFamily:
    """Find the family that a config belongs to."""
    return family_named("transformer", config.family)


def family_of_file(kind: str, stored: Any, path: Path, named: str | None = None) -> Any:
    """Find the family that recognizes a file of another program.

    Args:
        kind: "tokenizer" or "transformer".
        stored: what `read_checkpoint` returned.
        path: the file.
        named: the family that the user named; None tries all of them.

    Raises:
        UserError: if no family does; it names the known layouts.
    """
    families = _families(kind) if named is None else (_family_asked_for(kind, named, path),)
    file = ForeignFile(stored, path)
    with opening(path):
        for family in families:
            accepts = family.accepts if named and family.accepts else family.recognizes
            if accepts(file):
                return family
    network = pickled_network(stored)
    if network:
        raise UserError(
            f"{path} holds a whole pickled network ({one_line(ValueError(network), 80)}), which "
            "only the program that made it can open: load it there and save its state_dict()"
        )
    known = ", no ".join(family.layout for family in families if family.layout)
    if named is not None:
        raise FieldError(kind, named, f"{path} holds no {known}")
    raise UserError(f"{path} is not a checkpoint of this program, and holds no {known}")


def _families(kind: str) -> tuple[Family, ...]:
    """Return the table of a kind of networks, "tokenizer" or "transformer"."""
    return TOKENIZERS if kind == "tokenizer" else TRANSFORMERS


def _family_asked_for(kind: str, name: str, path: Path) -> Any:
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
