"""Opens checkpoints: load_model, load_tokenizer, and the steps that they consist of.

A checkpoint of this program names its families (models/registry.py). A file of another program is
recognized by its contents.
"""

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.family import Expected, Family, Transformer, refuse_contradictions
from models.foreign_file import ForeignFile
from models.model import Model, read_settings
from models.registry import FAMILIES
from models.shapes import NetworkShape, TransformerShape
from models.tokenizer import Tokenizer
from utils.checkpoint import build_with_weights, contents_of, is_own_format, read_checkpoint
from utils.device import check_works, choose_device, choose_precision, in_usual_torch
from utils.errors import FieldError, UserError, check_whole, counted, one_line, reading
from utils.hub import local_file
from utils.plain import NOTHING, from_plain
from utils.size import WrittenSize, size_of
from utils.torch_file import pickled_network

log = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)

BUNDLED = Path(__file__).parent / "pretrained"
BUNDLED_FOR_COLOR = BUNDLED / "VQGAN_color.pt"
# Files of format version 1 do not name their families.
FIRST_FAMILIES = {"tokenizer": "vqgan", "transformer": "maskgit"}
RESUMED = "the state of a training (`resume` continues it)"
KINDS = {"maskgit": "a trained transformer", "vqgan": "a trained VQ-GAN (`checkpoint_vae`)"}
KINDS |= dict.fromkeys(("maskgit-resume", "vqgan-resume", "student-resume"), RESUMED)


# --- Public functions, for notebooks and programs ---


@in_usual_torch
def load_model(
    path: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    num_classes: int | None = None,
    device: str | torch.device = "auto",
    precision: str | torch.dtype = "auto",
) -> Model:
    """Open a trained model with its tokenizer.

    Args:
        path: a MaskGIT_*.pt of this program, or a transformer of another program; or the folder
            where it is the only checkpoint, or `hf:owner/name[/file][@revision]` on the hub.
        tokenizer: the tokenizer for a transformer of another program, whose file does not hold it;
            for other files it is refused.
        num_classes: the number of classes of the transformer; only files of other programs need it.
        device: "auto", "cpu", "cuda", "cuda:<i>" or "mps", or a device of torch.
        precision: dtype of matrix products: "auto", "fp32" or "bf16", or a dtype of torch.

    Raises:
        UserError: if the file is missing, damaged or not a model, or needs a `tokenizer`; or if
            another argument has a wrong value.
    """
    where = choose_device(device)
    check_works(where)
    dtype = choose_precision(precision, where)
    if num_classes is not None:
        check_whole("num_classes", num_classes, 1)
    given = {} if num_classes is None else {"num_classes": num_classes}
    path = local_file(path)
    stored = read_checkpoint(path)
    if is_own_format(stored):
        if tokenizer is not None:
            raise UserError(f"{path} holds its tokenizer: leave `tokenizer` out")
        model = own_model(stored, path, {"transformer": given})
    elif isinstance(tokenizer, Tokenizer):
        model = foreign_model(stored, path, tokenizer, num_classes=num_classes)
    else:
        raise UserError(
            f"{path} does not hold its tokenizer: give what `load_tokenizer` returns as `tokenizer`"
        )
    return model.to(where, dtype)


@in_usual_torch
def load_tokenizer(
    path: str | Path,
    image_size: WrittenSize = 32,
    channels: int | None = None,
    given: Mapping[str, Any] = NOTHING,
    family: str | None = None,
) -> Tokenizer:
    """Open a tokenizer, on the CPU.

    Args:
        path: a VQGAN_*.pt or MaskGIT_*.pt of this program, or a file of another program; folders
            and files on the hub as in `load_model`.
        image_size: height and width of its images in pixels, one number for a square; only for
            files of other programs, which do not hold it.
        channels: channels of the images to tokenize; None accepts any.
        given: fields of its config that the user set. A "remap", the path of an .npy file, is
            applied to a VQ-GAN that has none. An "image_size" is applied to one without attention.
        family: its family, for a file that several could read; None recognizes it.

    Raises:
        UserError: if the file is missing, damaged or not a tokenizer, or contradicts `channels`,
            `family` or a given field; the message names both values.
    """
    if channels is not None:
        check_whole("channels", channels, 1)
    try:
        size = size_of(image_size)
    except ValueError as error:
        raise FieldError("image_size", repr(image_size), one_line(error)) from error
    for side in size:
        check_whole("image_size", side, 1)
    path = local_file(path)
    stored = read_checkpoint(path)
    with reading(path, "the checkpoint"):
        if is_own_format(stored):
            kind = "maskgit" if stored.get("kind") == "maskgit" else "vqgan"
            contents = contents_of(stored, path, kind, KINDS)
            tokenizer = tokenizer_of(contents.get("tokenizer", {}), path)
            own = tokenizer.config.family
            if family not in (None, own):
                raise FieldError("tokenizer", family, f"that in {path} is of the family {own}")
        else:
            file = ForeignFile(stored, path)
            tokenizer = Tokenizer(read_network("tokenizer", file, size, given, named=family))
        tokenizer = _adapted(tokenizer, path, given)
    if channels not in (None, tokenizer.channels):
        raise UserError(
            f"{path} is for images of {counted(tokenizer.channels, 'channel')}; those of the "
            f"dataset have {channels}"
        )
    return tokenizer


# --- Families ---


def families_of(kind: str) -> list[Family]:
    """Import the rows of all families of a kind, a key of FAMILIES, in the order of asking them."""
    return [family_named(kind, name) for name in FAMILIES[kind]]


def family_named(kind: str, name: Any) -> Family:
    """Find a family by its name.

    Args:
        kind: a key of FAMILIES.
        name: from a file or a user; any type.

    Raises:
        ValueError: if this program does not have it.
    """
    if isinstance(name, str) and name in FAMILIES[kind]:
        module, _, row = FAMILIES[kind][name].partition(":")
        family: Family = getattr(importlib.import_module(module, __package__), row)
        return family
    shown = repr(name[:40]) if isinstance(name, str) else f"of type {type(name).__name__}"
    known = ", ".join(FAMILIES[kind])
    raise ValueError(f"unknown {kind} family {shown}; this program has {known}")


def family_asked_for(kind: str, name: str) -> Family:
    """Find the family that the user named; FieldError if there is none of this name."""
    try:
        return family_named(kind, name)
    except ValueError as error:
        raise FieldError(kind, name, one_line(error)) from error


def family_of(config: NetworkShape) -> Family:
    """Find the family that a config belongs to."""
    return family_named(config.kind, config.family)


def new_transformer(config: TransformerShape) -> Transformer:
    """Build a transformer with random weights from torch's global generator."""
    return family_of(config).network(config)


def family_of_file(kind: str, file: ForeignFile, named: str | None = None) -> Family:
    """Find the family that recognizes a file of another program.

    Args:
        kind: a key of FAMILIES.
        named: the family that the user named; None tries all of them.

    Raises:
        UserError: if no family does; it names the known layouts.
    """
    path = file.path
    families = families_of(kind) if named is None else [family_asked_for(kind, named)]
    with reading(path, "the checkpoint"):
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
        reason = f"{path} holds no {known}" if known else "is for files of this program only"
        raise FieldError(kind, named, reason)
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
    with reading(file.path, "the checkpoint"):
        try:
            config, weights = family.read(file, *said)
            network = _built(family.network, config, weights)
        except ValueError as error:
            reason = one_line(error)
            raise UserError(f"the weights in {file.path} do not make a {kind}: {reason}") from error
    if family.license:
        log.info("%s: %s, published under %s", file.path, family.name, family.license)
    return network


# --- Steps of opening a file, also for commands/ ---


def own_model(stored: Any, path: Path, given: Mapping[str, Mapping[str, Any]] = NOTHING) -> Model:
    """Build the model in a checkpoint of this program, with the averaged weights, on the CPU.

    Args:
        stored: what `read_checkpoint` returned.
        given: the fields that the user set in the config of each kind of network.

    Raises:
        UserError: if the contents do not fit together, a weight is not finite, or the file
            contradicts a given field.
    """
    with reading(path, "the checkpoint"):
        # The transformer.
        contents = contents_of(stored, path, "maskgit", KINDS)
        try:
            entry = contents["tokenizer"]
            transformer = _stored_network("transformer", contents, contents["ema"], path)
            config = transformer.config
            names, dataset = contents["class_names"], contents["dataset"]
            if len(names) != config.num_classes or not all(isinstance(n, str) for n in names):
                raise ValueError(f"it does not name its {counted(config.num_classes, 'class')}")
            if not isinstance(dataset, str):
                raise ValueError("it does not name its dataset")
            settings = read_settings(contents, config)
        except KeyError as error:
            raise UserError(f"{path} is damaged: it has no {error.args[0]}") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {one_line(error)}") from error
        # The tokenizer, and whether it fits the transformer and the given fields.
        tokenizer = tokenizer_of(entry, path)
        shape = (tokenizer.codebook_size, tokenizer.config.seq_len)
        if (config.codebook_size, config.seq_len) != shape:
            raise UserError(f"{path} is damaged: its transformer is not for its tokenizer")
        for one in (config, tokenizer.config):
            refuse_contradictions(one, given.get(one.kind, {}), path)
        return Model(transformer, tokenizer, dataset, tuple(names), **settings)


def foreign_model(
    stored: Any,
    path: Path,
    tokenizer: Tokenizer,
    dataset: str = "",
    class_names: tuple[str, ...] = (),
    num_classes: int | None = None,
    given: Mapping[str, Any] = NOTHING,
) -> Model:
    """Build a model from the transformer in a file of another program, on the CPU.

    Args:
        stored: what `read_checkpoint` returned.
        class_names: names in the order of the labels. The model may have fewer classes, or more;
            the additional ones are named by number.
        num_classes: the number of classes that it must have; None accepts any.

    Raises:
        UserError: if the file holds none, or it does not fit the tokenizer, the number of classes
            or a given field.
    """
    expected = Expected(tokenizer.config, num_classes, given)
    transformer = read_network("transformer", ForeignFile(stored, path), expected)
    refuse_contradictions(transformer.config, given, path)
    config = transformer.config
    if config.splits != tokenizer.config.splits:
        tokenizer = _adapted(tokenizer, path, {"splits": config.splits})
    if config.seq_len != tokenizer.config.seq_len:
        raise UserError(
            f"{path} needs images of {config.seq_len} tokens, but the tokenizer makes "
            f"{tokenizer.config.seq_len}; check `checkpoint_vae` and `image_size`"
        )
    if num_classes not in (None, config.num_classes):
        raise UserError(
            f"{path} is for {counted(config.num_classes, 'class')} if the tokenizer has "
            f"{tokenizer.codebook_size} codes, and not for {num_classes}: if it was trained with "
            f"`n_classes` {config.num_classes}, give that too; if not, check `checkpoint_vae`, "
            "`image_size` and `dataset`"
        )
    names = [*class_names[: config.num_classes]]
    names += [str(label) for label in range(len(names), config.num_classes)]
    return Model(transformer, tokenizer, dataset, tuple(names))


def tokenizer_of(entry: Any, source: Path | str) -> Tokenizer:
    """Build the tokenizer from `Tokenizer.entry` in the checkpoint `source`, on the CPU.

    Weights may be stored in half precision (scripts/half_weights.py); they are computed in float32.

    Raises:
        UserError: if a weight is not finite, or the weights do not fit config or fingerprint.
    """
    try:
        weights = {
            name: value.float() if value.dtype == torch.float16 else value
            for name, value in entry["weights"].items()
        }
        tokenizer = Tokenizer(_stored_network("tokenizer", entry, weights, source))
        if entry.get("fingerprint") != tokenizer.fingerprint:
            raise ValueError(f"its fingerprint is not {tokenizer.fingerprint}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the tokenizer in {source} is damaged: {one_line(error)}") from error
    return tokenizer


def _adapted(tokenizer: Tokenizer, path: Path, given: Mapping[str, Any]) -> Tokenizer:
    """Check a tokenizer against the given fields, or rebuild it with those that it can take."""
    network, config = tokenizer.network, tokenizer.config.adapted(given, path)
    refuse_contradictions(config, given, path)
    if config == network.config:
        return tokenizer
    return Tokenizer(_built(type(network), config, network.weights_for(config)))


def _stored_network(
    kind: str, entry: Mapping[str, Any], weights: Mapping[str, Tensor], source: Path | str
) -> Any:
    """Build the network of a kind that an entry of a checkpoint describes; raises any exception.

    Raises:
        UserError: if this program does not have its family, as that of a newer version.
    """
    try:
        family = family_named(kind, entry.get("family", FIRST_FAMILIES[kind]))
    except ValueError as error:
        raise UserError(f"{source} cannot be opened: {one_line(error)}") from error
    return _built(family.network, from_plain(family.config, entry["config"]), weights)


def _built(
    network: Callable[[Any], Network], config: NetworkShape, weights: Mapping[str, Tensor]
) -> Network:
    """Check a config and build its network; the rest as in `build_with_weights`."""
    config.validate()
    return build_with_weights(lambda: network(config), weights)
