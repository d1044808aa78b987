"""Opens checkpoints: the tables of the families of networks, load_model and load_tokenizer.

To add a family, write its folder (config, network, names of other programs' files) and add a row to
TOKENIZERS or TRANSFORMERS. A checkpoint of this program names its families. A file of another
program is recognised by its contents.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import nn

from models.given import refuse_contradictions
from models.interfaces import Transformer, TransformerShape
from models.maskgit import foreign as maskgit_files
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer, training_bytes
from models.model import Model
from models.tokenizer import Tokenizer
from models.vqgan import foreign as vqgan_files
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from utils.checkpoint import contents_of, is_own_format, read_torch_file
from utils.device import choose_device, choose_precision
from utils.errors import UserError, one_line
from utils.plain import from_plain
from utils.weights import build_with_weights

MODEL_ENTRIES = frozenset({"config", "ema", "tokenizer", "dataset", "class_names"})


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
        read: (what `read_torch_file` returned, path, codebook size, given fields) -> network on
            the CPU, from a file of another program.
        write: network -> its weights in the layout of another program; None if no program has one.
        training_bytes: (config, number of parameters, batch size, type of device) -> rough memory
            of a training step in bytes.
    """

    config: Any
    network: Callable[[Any], nn.Module]
    layout: str
    recognises: Callable[[Any], bool]
    read: Callable[[Any, Path, int, Mapping[str, Any]], nn.Module]
    write: Callable[[Any], dict[str, Any]] | None
    training_bytes: Callable[[Any, int, int, str], int]

    @property
    def name(self) -> str:
        """The name of the family in checkpoints."""
        return self.config.family


TOKENIZERS = (
    TokenizerFamily(
        VQGANConfig,
        VQModel,
        vqgan_files.LAYOUT,
        vqgan_files.recognises,
        vqgan_files.read,
        vqgan_files.adapt,
    ),
)
TRANSFORMERS = (
    TransformerFamily(
        TransformerConfig,
        MaskedTransformer,
        maskgit_files.LAYOUT,
        maskgit_files.recognises,
        maskgit_files.read,
        maskgit_files.to_foreign,
        training_bytes,
    ),
)
Family = TypeVar("Family", TokenizerFamily, TransformerFamily)


# --- Public functions, for notebooks and programs ---


def load_model(
    path: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Model:
    """Open a trained model with its tokenizer.

    Args:
        path: a MaskGIT_*.pt of this program, or a transformer of another program.
        tokenizer: the tokenizer for a transformer of another program, whose file does not hold it.
        device: "auto", "cpu", "cuda", "cuda:<i>" or "mps".
        precision: dtype of matrix products: "auto", "fp32" or "bf16".

    Raises:
        UserError: if the file is missing, damaged or not a model, or needs a `tokenizer`.
    """
    path = Path(path).expanduser()
    stored = read_torch_file(path)
    if is_own_format(stored):
        model = own_model(stored, path)
    elif tokenizer is not None:
        model = foreign_model(stored, path, tokenizer)
    else:
        raise UserError(f"{path} does not hold its tokenizer: give it as `tokenizer`")
    where = choose_device(device)
    return model.to(where, choose_precision(precision, where))


def load_tokenizer(
    path: str | Path,
    image_size: int = 32,
    channels: int | None = None,
    given: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """Open a tokenizer, on the CPU.

    Args:
        path: a VQGAN_*.pt or MaskGIT_*.pt of this program, or a file of another program.
        image_size: height and width of its images in pixels; used for files of other programs,
            which do not hold it.
        channels: channels of the images that it is needed for; None accepts any.
        given: fields of its config that the user set. They must agree with the file. A "remap", the
            path of an .npy file, is applied to a VQ-GAN that has none.

    Raises:
        UserError: if the file is missing, damaged or not a tokenizer, or contradicts `channels` or
            a given field; the message names both values.
    """
    path = Path(path).expanduser()
    stored, given = read_torch_file(path), given or {}
    if is_own_format(stored):
        kind = "maskgit" if stored.get("kind") == "maskgit" else "vqgan"
        network = _tokenizer_network(contents_of(stored, path, kind).get("tokenizer", {}))
        family = next(row for row in TOKENIZERS if row.name == network.config.family)
    else:
        family = _family_of_file(TOKENIZERS, stored, path)
        network = family.read(stored, path, image_size, given)
    tokenizer = Tokenizer(family.adapt(network, path, given))
    if channels not in (None, tokenizer.channels):
        raise UserError(
            f"{path} is for images of {tokenizer.channels} channel(s); those of the dataset have "
            f"{channels}"
        )
    return tokenizer


# --- Steps of opening a file, also for commands/ ---


def own_model(
    stored: Any, path: Path, given: Mapping[Any, Mapping[str, Any]] | None = None
) -> Model:
    """Build the model in a checkpoint of this program, with the averaged weights, on the CPU.

    Args:
        stored: what `read_torch_file` returned.
        path: the file, for messages.
        given: fields that the user set, by config class; they must agree with the file.

    Raises:
        UserError: if the contents do not fit together, a weight is not finite, or the file
            contradicts a given field.
    """
    # The transformer.
    contents = contents_of(stored, path, "maskgit")
    missing = MODEL_ENTRIES.difference(contents)
    if missing:
        raise UserError(f"{path} is damaged: it has no {min(missing)}")
    try:
        family = _family_named(TRANSFORMERS, contents.get("family"))
        config = from_plain(family.config, contents["config"])
        config.validate()
        names = contents["class_names"]
        if len(names) != config.num_classes or not all(isinstance(name, str) for name in names):
            raise ValueError(f"it does not name its {config.num_classes} classes")
        transformer = build_with_weights(lambda: family.network(config), contents["ema"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {one_line(error)}") from error
    # The tokenizer, and whether both fit together and what the user says.
    tokenizer = tokenizer_of(contents["tokenizer"])
    if (config.codebook_size, config.seq_len) != (tokenizer.codebook_size, tokenizer.grid_size**2):
        raise UserError(f"{path} is damaged: its transformer is not for its tokenizer")
    for known in (config, tokenizer.config):
        refuse_contradictions(known, (given or {}).get(type(known), {}), path)
    return Model(as_transformer(transformer), tokenizer, contents["dataset"], tuple(names))


def foreign_model(
    stored: Any,
    path: Path,
    tokenizer: Tokenizer,
    dataset: str = "",
    class_names: tuple[str, ...] = (),
    given: Mapping[str, Any] | None = None,
) -> Model:
    """Build a model with the transformer in a file of another program, on the CPU.

    Args:
        stored: what `read_torch_file` returned.
        path: the file, for messages.
        tokenizer: the tokenizer that it was trained with.
        dataset: name of the dataset that it was trained on.
        class_names: names in the order of the labels; if empty, the classes are named by number.
        given: fields of its config that the user set; they must agree with the file.

    Raises:
        UserError: if the file holds none, or it does not fit the tokenizer or a given field.
    """
    family = foreign_family(stored, path)
    transformer = as_transformer(family.read(stored, path, tokenizer.codebook_size, given or {}))
    config = transformer.config
    if config.seq_len != tokenizer.grid_size**2:
        raise UserError(
            f"{path} is for images of {config.seq_len} tokens, and the tokenizer makes "
            f"{tokenizer.grid_size**2}; check `checkpoint_vae` and `image_size`"
        )
    names = class_names or tuple(str(label) for label in range(config.num_classes))
    return Model(transformer, tokenizer, dataset, names)


def foreign_family(stored: Any, path: Path) -> TransformerFamily:
    """Find the family of the transformer in a file of another program.

    Raises:
        UserError: if no family recognises the file.
    """
    return _family_of_file(TRANSFORMERS, stored, path)


def tokenizer_of(entry: Any) -> Tokenizer:
    """Build the tokenizer that a checkpoint holds as an entry (`Tokenizer.entry`), on the CPU.

    Raises:
        UserError: if a weight is not finite, or the weights do not fit config or fingerprint.
    """
    tokenizer = Tokenizer(_tokenizer_network(entry))
    if tokenizer.fingerprint != entry.get("fingerprint"):
        raise UserError(
            f"the tokenizer in this checkpoint is damaged: its fingerprint is "
            f"{tokenizer.fingerprint}, not {entry.get('fingerprint')}"
        )
    return tokenizer


def new_transformer(config: TransformerShape) -> nn.Module:
    """Build a transformer with new weights, drawn from torch's global generator."""
    return transformer_family(config).network(config)


def transformer_family(config: TransformerShape) -> TransformerFamily:
    """Find the family that a config belongs to."""
    return next(row for row in TRANSFORMERS if row.config is type(config))


def as_transformer(module: nn.Module) -> Transformer:
    """Return the module itself, typed as a `Transformer`."""
    return module


def _tokenizer_network(entry: Any) -> Any:
    """Build the network of a tokenizer's entry; errors as in `tokenizer_of`."""
    try:
        family = _family_named(TOKENIZERS, entry.get("family"))
        config = from_plain(family.config, entry["config"])
        config.validate()
        return build_with_weights(lambda: family.network(config), entry["weights"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the tokenizer in this checkpoint is damaged: {one_line(error)}"
        ) from error


def _family_named(families: tuple[Family, ...], name: Any) -> Family:
    """Find the family with a name.

    Raises:
        ValueError: if this program does not have it.
    """
    for family in families:
        if family.name == name:
            return family
    raise ValueError(f"its family {name!r} is unknown to this program")


def _family_of_file(families: tuple[Family, ...], stored: Any, path: Path) -> Family:
    """Find the family that recognises a file of another program.

    Raises:
        UserError: if there is none; names the known layouts.
    """
    for family in families:
        if family.recognises(stored):
            return family
    known = ", no ".join(family.layout for family in families)
    raise UserError(f"{path} is not a checkpoint of this program, and holds no {known}")
