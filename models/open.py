"""Opens checkpoints: load_model, load_tokenizer, and the steps that they consist of."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from models.families.tables import (
    FIRST_TOKENIZER,
    FIRST_TRANSFORMER,
    family_named,
    read_network,
)
from models.family import Expected, TokenizerNetwork, built
from models.foreign_file import ForeignFile
from models.model import BEST_SETTINGS, LOOK_ENTRY, MADE_FOR, Model, read_best_settings
from models.sampling import SamplingConfig
from models.shapes import Given, refuse_contradictions
from models.tokenizer import Tokenizer
from utils.checkpoint import contents_of, is_own_format, read_checkpoint
from utils.device import choose_device, choose_precision, in_usual_torch
from utils.errors import FieldError, UserError, check_whole, one_line
from utils.hub import local_file
from utils.plain import from_plain
from utils.size import Size, Written, size_of
from utils.torch_file import opening

BUNDLED = Path(__file__).parent / "pretrained"
BUNDLED_FOR_COLOR = BUNDLED / "VQGAN_color.pt"
NOTHING_GIVEN = Given()
MODEL_ENTRIES = frozenset({"config", "ema", "tokenizer", "dataset", "class_names"})
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
        tokenizer: the tokenizer for a transformer of another program, whose file does not hold it.
        num_classes: the number of classes of such a transformer; rarely needed.
        device: "auto", "cpu", "cuda", "cuda:<i>" or "mps", or a device of torch.
        precision: dtype of matrix products: "auto", "fp32" or "bf16", or a dtype of torch.

    Raises:
        UserError: if the file is missing, damaged or not a model, or needs a `tokenizer`; or if
            another argument has a wrong value.
    """
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    if num_classes is not None:
        check_whole("num_classes", num_classes, 1)
    path = local_file(Path(path).expanduser())
    stored = read_checkpoint(path)
    if is_own_format(stored):
        model = own_model(stored, path)
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
    image_size: Written = 32,
    channels: int | None = None,
    given: Mapping[str, Any] | None = None,
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
    path = local_file(Path(path).expanduser())
    stored = read_checkpoint(path)
    with opening(path):
        tokenizer = _tokenizer_in(stored, path, size_of(image_size), given or {}, family)
    if channels not in (None, tokenizer.channels):
        raise UserError(
            f"{path} is for images of {tokenizer.channels} channel(s); those of the dataset have "
            f"{channels}"
        )
    return tokenizer


# --- Steps of opening a file, also for commands/ ---


def own_model(stored: Any, path: Path, given: Given = NOTHING_GIVEN) -> Model:
    """Build the model in a checkpoint of this program, with the averaged weights, on the CPU.

    Args:
        stored: what `read_checkpoint` returned.

    Raises:
        UserError: if the contents do not fit together, a weight is not finite, or the file
            contradicts a given field.
    """
    with opening(path):
        # The transformer.
        contents = contents_of(stored, path, "maskgit", KINDS)
        missing = MODEL_ENTRIES.difference(contents)
        if missing:
            raise UserError(f"{path} is damaged: it has no {min(missing)}")
        try:
            family = family_named("transformer", contents.get("family", FIRST_TRANSFORMER))
            config = from_plain(family.config, contents["config"])
            transformer = built(family.network, config, contents["ema"])
            names, dataset = contents["class_names"], contents["dataset"]
            if len(names) != config.num_classes or not all(isinstance(n, str) for n in names):
                raise ValueError(f"it does not name its {config.num_classes} classes")
            if not isinstance(dataset, str):
                raise ValueError("it does not name its dataset")
            best = made_for = None
            if BEST_SETTINGS in contents:
                best = read_best_settings(contents[BEST_SETTINGS])
                best.sampling.validate_for(config)
            if MADE_FOR in contents:
                made_for = from_plain(SamplingConfig, contents[MADE_FOR])
                made_for.validate_for(config)
            look = contents.get(LOOK_ENTRY, {})
            if not isinstance(look, Mapping) or not all(type(v) is str for v in look.values()):
                raise ValueError("it does not say how its images were shown")
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {one_line(error)}") from error
        # The tokenizer, and whether it fits the transformer and the given fields.
        tokenizer = tokenizer_of(contents["tokenizer"], path)
        shape = (tokenizer.codebook_size, tokenizer.config.seq_len)
        if (config.codebook_size, config.seq_len) != shape:
            raise UserError(f"{path} is damaged: its transformer is not for its tokenizer")
        refuse_contradictions(config, given.transformer, path)
        refuse_contradictions(tokenizer.config, given.tokenizer, path)
        names = tuple(names)
        return Model(
            transformer, tokenizer, dataset, names, best=best, made_for=made_for, look=look
        )


def foreign_model(
    stored: Any,
    path: Path,
    tokenizer: Tokenizer,
    dataset: str = "",
    class_names: tuple[str, ...] = (),
    num_classes: int | None = None,
    given: Mapping[str, Any] = MappingProxyType({}),
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
        tokenizer = Tokenizer(_adapted(tokenizer.network, path, {"splits": config.splits}))
    if config.seq_len != tokenizer.config.seq_len:
        raise UserError(
            f"{path} needs images of {config.seq_len} tokens, but the tokenizer makes "
            f"{tokenizer.config.seq_len}; check `checkpoint_vae` and `image_size`"
        )
    if num_classes not in (None, config.num_classes):
        raise UserError(
            f"{path} is for {config.num_classes} classes if the tokenizer has "
            f"{tokenizer.codebook_size} codes, and not for {num_classes}: if it was trained with "
            f"`n_classes` {config.num_classes}, give that too; if not, check `checkpoint_vae`, "
            "`image_size` and `dataset`"
        )
    names = [*class_names[: config.num_classes]]
    names += [str(label) for label in range(len(names), config.num_classes)]
    return Model(transformer, tokenizer, dataset, tuple(names))


def tokenizer_of(entry: Any, source: Path | str = "this checkpoint") -> Tokenizer:
    """Build the tokenizer from `Tokenizer.entry` in the checkpoint `source`, on the CPU.

    Raises:
        UserError: if a weight is not finite, or the weights do not fit config or fingerprint.
    """
    tokenizer = Tokenizer(_tokenizer_network(entry, source))
    fingerprint = entry.get("fingerprint")
    if type(fingerprint) is not str or tokenizer.fingerprint != fingerprint:
        raise UserError(
            f"the tokenizer in {source} is damaged: its fingerprint is not {tokenizer.fingerprint}"
        )
    return tokenizer


def _tokenizer_in(
    stored: Any, path: Path, image_size: Size, given: Mapping[str, Any], named: str | None
) -> Tokenizer:
    """Build the tokenizer in any file that has one; errors as in `load_tokenizer`, or any other."""
    if is_own_format(stored):
        kind = "maskgit" if stored.get("kind") == "maskgit" else "vqgan"
        contents = contents_of(stored, path, kind, KINDS)
        network = _tokenizer_network(contents.get("tokenizer", {}), path)
        family = network.config.family
        if named not in (None, family):
            raise FieldError("tokenizer", named, f"that in {path} is of the family {family}")
    else:
        file = ForeignFile(stored, path)
        network = read_network("tokenizer", file, image_size, given, named=named)
    return Tokenizer(_adapted(network, path, given))


def _adapted(network: TokenizerNetwork, path: Path, given: Mapping[str, Any]) -> TokenizerNetwork:
    """Check a network against the given fields, or rebuild it with those that it can take."""
    config = network.config.adapted(given, path)
    refuse_contradictions(config, given, path)
    if config == network.config:
        return network
    return built(type(network), config, network.weights_for(config))


def _tokenizer_network(entry: Any, source: Path | str) -> TokenizerNetwork:
    """Build the network of `Tokenizer.entry`; errors as in `tokenizer_of`.

    Weights may be stored in half precision (scripts/half_weights.py); they are computed in float32.
    """
    try:
        family = family_named("tokenizer", entry.get("family", FIRST_TOKENIZER))
        config = from_plain(family.config, entry["config"])
        weights = {
            name: value.float() if value.dtype == torch.float16 else value
            for name, value in entry["weights"].items()
        }
        return built(family.network, config, weights)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the tokenizer in {source} is damaged: {one_line(error)}") from error
