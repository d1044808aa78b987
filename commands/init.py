"""--init: a new run that starts from the weights of a trained network."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from commands.flags import given_fields, option_values, options_of
from commands.parser import CommandLine
from commands.request import Request
from commands.stages import with_defaults
from commands.tokenizer_source import TokenizerSource, read_origin
from models.family import Expected
from models.fine_tuning import Change, same_classes, start_from
from models.foreign_file import ForeignFile
from models.model import Model
from models.open import family_of_file, own_model, read_network
from models.shapes import NetworkShape, TransformerShape
from training.run_record import MADE_FROM
from utils.checkpoint import is_own_format
from utils.errors import UserError, named, value_text
from utils.plain import from_plain, to_plain

log = logging.getLogger(__name__)

Config = TypeVar("Config")

ORIGIN, SHAPE, ENCODER = "init", "shape", "codes"  # keys in `RunRecord.made_from`
LEAST_SHARE = 0.5  # of the new network's numbers, must come from the trained one


@dataclass(frozen=True)
class Origin:
    """The trained network that a new run starts from.

    Attributes:
        digest: of the file, 16 hexadecimal digits.
        network: a `Transformer` or `TokenizerNetwork`, with the averaged weights.
        class_names: names of its classes; empty if they are unknown.
        grid: the token grid of a transformer's images; None if its file does not say it.
    """

    path: Path
    digest: str
    network: Any
    class_names: tuple[str, ...] = ()
    grid: tuple[int, ...] | None = None

    def made_from(self, config: NetworkShape) -> dict[str, Any]:
        """Return what `RunRecord.made_from` keeps about it and about the new network."""
        return {ORIGIN: self.digest, SHAPE: to_plain(config)}

    def start(
        self,
        network: nn.Module,
        config: NetworkShape,
        carry: Callable[[str, Tensor], Tensor] = lambda _name, weight: weight,
    ) -> Mapping[str, Tensor]:
        """Choose the weights for the new network, and log a table of them.

        Args:
            network: the new network, on any device.
            carry: as in `start_from`.

        Raises:
            UserError: if most of the new network would start at random.
        """
        start = start_from(self.network.state_dict(), network.state_dict(), carry)
        if start.share < LEAST_SHARE:
            raise UserError(
                f"{self.path} has only {start.share:.0%} of the new {config.kind}'s weights"
                f"{self._differences(config)}; leave these options out, or train without --init"
            )
        log.info("starting from %s\n%s", self.path, start.table())
        return start.weights

    def _differences(self, config: NetworkShape) -> str:
        """Say in which options the two networks differ."""
        old, new = option_values(self.network.config), option_values(config)
        old |= {config.kind: self.network.config.family}
        new |= {config.kind: config.family}
        differing = [
            f"--{name} {value_text(new[name])}, there {value_text(old[name])}"
            for name in new
            if name in old and old[name] != new[name]
        ]
        return f" ({'; '.join(differing)})" if differing else ""


def shaped_as(line: CommandLine, config: NetworkShape) -> CommandLine:
    """Fill in the family and shape of a network where the user gave no other."""
    if config.kind not in line.given and getattr(line, config.kind) != config.family:
        line = with_defaults(line.replace(**{config.kind: config.family}))
    return line.fill(option_values(config))


def family_of_origin(request: Request) -> str:
    """Return the family of the transformer in the file of --init; errors as in its opening."""
    path, stored, _ = read_origin(request, request.line.init)
    if is_own_format(stored):
        return _model_in(request, stored, path).transformer.config.family
    return family_of_file("transformer", ForeignFile(stored, path)).config.family


def _model_in(request: Request, stored: Any, path: Path) -> Model:
    """Open the model in this program's file of --init once."""
    if (path, "model") not in request.opened:
        request.opened[path, "model"] = own_model(stored, path)
    return request.opened[path, "model"]


def transformer_origin(request: Request, tokenizer: TokenizerSource) -> Origin | None:
    """Open the transformer of --init; None without one, or if the run continues.

    A file of another program does not name its classes. If a dataset with fixed classes has as
    many, they are taken to be these.

    Raises:
        UserError: if the file holds no transformer, or one that learned other tokens.
    """
    line = request.line
    if line.init is None or "maskgit" in request.continued:
        return None
    path, stored, digest = read_origin(request, line.init)
    if is_own_format(stored):
        model = _model_in(request, stored, path)
        if tokenizer.encoder_fingerprint is None:
            raise UserError(
                f"--train_vae makes new tokens, which mean nothing to the transformer in {path}: "
                "leave --init out, or keep the tokens with --init_vae FILE --freeze_vae "
                "encoder.*,quant_conv.*,quantize.*"
            )
        if model.tokenizer.encoder_fingerprint != tokenizer.encoder_fingerprint:
            raise UserError(
                f"the transformer in {path} learned the tokens of another tokenizer, so the same "
                "numbers mean other things to it: use its own with "
                f"--checkpoint_vae {path}, or train without --init"
            )
        return Origin(path, digest, model.transformer, model.class_names, model.tokenizer.grid)
    expected = Expected(tokenizer.shape, None, given_fields("transformer", line))
    network = read_network("transformer", ForeignFile(stored, path), expected)
    spec = request.data().spec
    known = spec.num_classes == network.config.num_classes
    return Origin(path, digest, network, spec.classes if known else ())


def carry_of(
    origin: Origin, config: TransformerShape, class_names: tuple[str, ...], grid: tuple[int, ...]
) -> Callable[[str, Tensor], Tensor]:
    """Return the function that fits a weight to the classes and the grid of a new transformer."""
    old: Any = origin.network.config
    # A file of another program says only the number of tokens.
    guessed = grid if old.seq_len == config.seq_len else _square(old.seq_len)
    change = Change(
        old=old,
        new=config,
        labels=same_classes(origin.class_names, class_names),
        grids=(origin.grid or guessed, grid),
    )
    if old.family != config.family:
        return lambda _name, weight: weight
    new = [name for name, label in zip(class_names, change.labels, strict=True) if label is None]
    if new:
        log.info("classes that start from the mean of the old ones: %s", named(new))
    return lambda name, weight: origin.network.carry(name, weight, change)


def _square(seq_len: int) -> tuple[int, ...]:
    """Return the square grid of this many tokens, or one row if there is none."""
    side = round(seq_len**0.5)
    return (side, side) if side**2 == seq_len else (seq_len,)


def kept_origin(request: Request, stage: str) -> dict[str, Any]:
    """Return what a run that continues keeps about the network that it started from."""
    known = request.continued.get(stage, {}).get(MADE_FROM, {})
    return {name: known[name] for name in (ORIGIN, SHAPE, ENCODER) if name in known}


def fields_without_option(
    request: Request, stage: str, config: type[Config], origin: Origin | None
) -> dict[str, Any]:
    """Return the fields of a new network's config that only the network of --init decides.

    Raises:
        UserError: if config.json of a run that continues was edited.
    """
    kept = kept_origin(request, stage).get(SHAPE)
    try:
        base = origin.network.config if origin else kept and from_plain(config, kept)
    except ValueError as error:
        raise UserError(f"{request.run().config} is damaged: its shape of the network") from error
    if not base or type(base) is not config:
        return {}
    named = {one.name for one in fields(base)} - options_of(config).keys()  # type: ignore[arg-type]
    return {name: getattr(base, name) for name in named}
