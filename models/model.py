"""A trained model, ready to use: sample images, edit an image, watch the decoding.

Axes: B images, C channels, H W pixels, h w token grid, L tokens of an image.
"""

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.batch_sizes import in_few_sizes
from models.cells import check_cells, check_image, composite, hidden_cells, pixels_of
from models.generator import BLOCK_SIZE, ImageGenerator, ImageSeries, Labels
from models.labels import label_without_class
from models.sampling import SamplingConfig
from models.shapes import TransformerShape
from models.steps import CellChoice, DecodedStep, KnownTokens, check_tokens
from utils.checkpoint import weights_digest
from utils.device import autocast, choose_device, choose_precision, in_usual_torch
from utils.errors import FieldError, UserError, check_whole, counted
from utils.plain import from_plain, to_plain
from utils.size import size_text

# Entries of a checkpoint: the settings that a sweep found, and those that a student was made for;
# how the images of the training were shown.
BEST_SETTINGS, MADE_FOR, LOOK_ENTRY = "best_settings", "made_for", "look"
# When compiled, a block may be filled up to so many times its size to have that of an earlier one.
MOST_FILLING = 1.25
LIKELIEST = 5  # tokens of a cell that `Model.cell_choice` tells about


@dataclass(frozen=True)
class BestSettings:
    """Sampling settings, and how they were measured.

    Attributes:
        protocol: how it was measured, as plain data: number of images, real images, feature
            network, version of the program and more.
    """

    sampling: SamplingConfig
    metric: str
    scores: dict[str, float]
    protocol: dict[str, Any]

    def entry(self) -> dict[str, Any]:
        """Return plain data for a checkpoint; `read_settings` reads it."""
        entry = {**vars(self), "sampling": to_plain(self.sampling)}
        plain: dict[str, Any] = json.loads(json.dumps(entry))  # lists for tuples, at any depth
        return plain

    def summary(self) -> str:
        """Summarize their score in a few words."""
        return f"{self.metric} {self.scores[self.metric]:.4g} on {self.protocol['images']} images"


def image_entries(
    dataset: str, class_names: Sequence[str], look: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a checkpoint says about the images of the training; `look` as in a `Model`."""
    shown = {LOOK_ENTRY: dict(look)} if look else {}
    return {"dataset": dataset, "class_names": list(class_names), **shown}


def read_settings(contents: Mapping[str, Any], shape: TransformerShape) -> dict[str, Any]:
    """Read the entries of `Model.contents` that are optional, as fields of the Model.

    The file may come from anyone, so every value is checked.

    Raises:
        ValueError: if a value is wrong; a FieldError if it is a setting.
    """
    found: dict[str, Any] = {"look": contents.get(LOOK_ENTRY, {})}
    if BEST_SETTINGS in contents:
        found["best"] = _read_best_settings(contents[BEST_SETTINGS])
        found["best"].sampling.validate_for(shape)
    if MADE_FOR in contents:
        found["made_for"] = from_plain(SamplingConfig, contents[MADE_FOR])
        found["made_for"].validate_for(shape)
    look = found["look"]
    if not isinstance(look, Mapping) or not all(type(v) is str for v in look.values()):
        raise ValueError("it does not say how its images were shown")
    return found


def _read_best_settings(entry: Any) -> BestSettings:
    """Read the settings that a sweep found; errors as in `read_settings`."""
    try:
        entry = json.loads(json.dumps(entry))
        sampling = from_plain(SamplingConfig, entry["sampling"])
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("its best settings are not plain data") from error
    found = from_plain(BestSettings, {**entry, "sampling": sampling})
    are_numbers = all(type(v) in (int, float) and math.isfinite(v) for v in found.scores.values())
    if not found.metric.isidentifier() or found.metric not in found.scores or not are_numbers:
        raise ValueError(f"its best settings have no scores, or none called {found.metric[:40]!r}")
    if type(found.protocol.get("images")) is not int:
        raise ValueError("its best settings do not say how many images were measured")
    return found


@dataclass(frozen=True, eq=False)  # compared by identity, so that sets can hold it
class Model(ImageGenerator):
    """A model with the settings that its checkpoint holds; `models.open.load_model` opens one.

    Attributes:
        best: the best settings that a sweep found; None without a sweep.
        made_for: the settings that a student was distilled for; None for other models.
        look: how the images of the training were shown to it, where not as usual: settings by name.
    """

    best: BestSettings | None = None
    made_for: SamplingConfig | None = None
    look: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Say in one line what it is; all layers and settings would fill a page of a notebook."""
        classes = counted(len(self.class_names), "class")
        size = size_text(self.tokenizer.image_size)
        return f"Model({self.transformer.config.family}, {self.dataset}: {classes}, {size} pixels)"

    @property
    def usual(self) -> SamplingConfig:
        """The default settings: `made_for`, or those of the family."""
        return self.made_for or super().usual

    @property
    def best_settings(self) -> dict[str, Any]:
        """The settings in `best`, as arguments of `sample` and `edit`; empty without a sweep."""
        return dict(vars(self.best.sampling)) if self.best else {}

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the transformer's config and weights, 16 hexadecimal digits."""
        return weights_digest(to_plain(self.transformer.config), self.transformer.state_dict())

    def contents(self) -> dict[str, Any]:
        """Return plain data and tensors for a checkpoint; `models.open.own_model` reads them."""
        config = self.transformer.config
        contents = {
            "family": config.family,
            "config": to_plain(config),
            **image_entries(self.dataset, self.class_names, self.look),
            "ema": {name: value.cpu() for name, value in self.transformer.state_dict().items()},
            "tokenizer": self.tokenizer.entry(),
        }
        if self.best is not None:
            contents[BEST_SETTINGS] = self.best.entry()
        if self.made_for is not None:
            contents[MADE_FOR] = to_plain(self.made_for)
        return contents

    def to(self, device: str | torch.device, precision: str | torch.dtype) -> "Model":
        """Move the networks in place, and return the model with this precision.

        Raises:
            UserError: for another device or precision than `load_model` accepts.
        """
        device = choose_device(device)
        precision = choose_precision(precision, device)
        self.transformer.to(device)
        self.tokenizer.to(device)
        # They have copies of the weights, and their places.
        for name in ("_predictor", "cuda_graphs"):
            vars(self).pop(name, None)
        return replace(self, precision=precision)

    @in_usual_torch
    def compile(self) -> None:
        """Run the networks through torch.compile; blocks of images should have few sizes.

        On CUDA a decoding step of the transformer becomes a graph, whose kernels start together.
        """
        self.cuda_graphs.is_on = False  # it would record those of the compiler
        is_cuda = self.tokenizer.device.type == "cuda"
        mode = "reduce-overhead" if is_cuda else "default"
        # A copy with the same weights: `transformer` is also asked for any number of positions.
        predictor = copy.copy(self._predictor)
        compiled = torch.compile(predictor.forward, dynamic=False, mode=mode)
        predictor.forward = in_few_sizes(compiled, MOST_FILLING)  # type: ignore[method-assign]
        vars(self)["_predictor"] = predictor
        self.tokenizer.compile()

    def edit(
        self,
        image: np.ndarray,
        mask: np.ndarray,
        labels: Labels | None = None,
        *,
        grow: int = 0,
        put_back: bool = True,
        seed: int = 0,
        first_image: int = 0,
        block_size: int = BLOCK_SIZE,
        **sampling: Any,
    ) -> np.ndarray:
        """Regenerate the marked part of an image, once per label.

        A token is regenerated if its cell overlaps the marked pixels. All other tokens are kept.
        The arguments that are not described here are those of `sample`.

        Args:
            image: uint8 (H, W, C), of the model's size.
            mask: bool (H, W), True where pixels are regenerated.
            labels: as in `sample`; None for no class.
            grow: tokens by which the marked region grows on every side.
            put_back: whether pixels outside the marked region get their original values back;
                otherwise they are the tokenizer's reconstruction.

        Returns:
            uint8 (B, H, W, C).

        Raises:
            UserError: if the image or the mask does not fit the model; and as in `sample`.
        """
        image = np.asarray(image)
        known, mask = self.known_tokens(image, mask, grow)
        if labels is None:
            config = self.transformer.config
            numbers = [label_without_class(config.num_classes, config.null_class)]
        else:
            numbers = self.label_numbers(labels)
        settings = self.settings(sampling)
        series = ImageSeries(numbers, settings, seed, first_image, block_size, known)
        images = np.concatenate([images for images, _ in self.sample_blocks(series)])
        return composite(image, images, mask) if put_back else images

    def decode_steps(
        self,
        labels: Labels,
        *,
        seed: int = 0,
        first_image: int = 0,
        known: KnownTokens | None = None,
        **sampling: Any,
    ) -> Iterator[DecodedStep]:
        """Decode one image per label, all in one block, and return every step.

        The arguments that are not described here are those of `sample`.

        Args:
            known: tokens that all images have already: those of an image to edit (`known_tokens`),
                or of a step of an earlier decoding, where all images continue. None hides all.

        Returns:
            The tokens before the first step, and then those after each step; `image_of` turns them
            into pixels.

        Raises:
            UserError: as in `sample`; or if `known` does not fit the plan.
        """
        numbers, settings = self.label_numbers(labels), self.settings(sampling)
        if known is not None:
            check_tokens(known, self.transformer.config)
        return self.sample_steps(ImageSeries(numbers, settings, seed, first_image, known=known))

    @in_usual_torch
    def sample_steps(self, series: ImageSeries) -> Iterator[DecodedStep]:
        """Decode a series as `decode_steps`; its block size is not used."""
        series.validate()
        start = self._decoding(series, np.asarray(series.labels))
        hidden, confidence = start.hidden, (~start.hidden).float()  # (B, L)
        yield self._step(start.tokens, hidden, confidence, start.tokens, start.tokens)
        for step in start.steps():
            # A revealed token keeps the probability that it had when it was revealed.
            chosen = step.log_probs.gather(-1, step.proposal.tokens[..., None]).squeeze(-1).exp()
            confidence = torch.where(hidden, chosen, confidence)
            hidden = step.hidden
            surest = step.log_probs.argmax(-1)
            imagined = (
                torch.where(hidden, new, step.tokens) for new in (step.proposal.tokens, surest)
            )
            yield self._step(step.tokens, hidden, confidence, *imagined)

    @in_usual_torch
    @torch.no_grad()
    def cell_choice(self, series: ImageSeries, cell: int) -> CellChoice:
        """Tell how the next step of the first image decides about a cell, one of the L tokens.

        Args:
            series: its `known` tokens say which step is the next one.

        Raises:
            UserError: as in `decode_steps`; or if the cell is known already.
        """
        label = series.labels[0]
        start = self._decoding(series, np.array([label]))
        done = start.first_step
        if done >= start.plan.num_steps or not start.hidden[0, cell]:
            raise UserError(f"nothing is decided about cell {cell} after {counted(done, 'step')}")
        step = next(start.steps())
        # The prediction with and without the class, scaled as in sampling.
        null = self.transformer.config.null_class
        labels = torch.tensor(
            [label] if null is None else [label, null], device=start.tokens.device
        )
        with autocast(start.tokens.device, self.precision):
            logits = self._predictor(start.tokens.expand(len(labels), -1), labels)
        scale = float(start.plan.logit_scales[done])
        unguided = (logits[:, cell].float() * scale).softmax(-1).cpu().numpy()  # (1 or 2, K)
        guided = step.log_probs[0, cell].exp().cpu()  # (K,)
        likeliest = guided.topk(min(LIKELIEST, len(guided))).indices  # (N,)
        # What the image would be with each of them.
        imagined = torch.where(start.hidden, step.proposal.tokens, start.tokens)  # (1, L)
        imagined = imagined.repeat(len(likeliest), 1)
        imagined[:, cell] = likeliest.to(imagined.device)
        # Its place among the hidden cells.
        scores = step.proposal.score[0]
        candidates = scores[start.hidden[0]].sort(descending=True).values
        num_kept = int(start.plan.counts[done])
        return CellChoice(
            tokens=likeliest.numpy(),
            guided=guided[likeliest].numpy(),
            with_class=unguided[0, likeliest],
            without_class=None if null is None else unguided[1, likeliest],
            images=self._pixels(imagined),
            drawn=int(step.proposal.tokens[0, cell]),
            score=float(scores[cell]),
            rank=1 + int((candidates > scores[cell]).sum()),
            line=float(candidates[num_kept - 1]) if num_kept else math.inf,
            num_kept=num_kept,
        )

    @in_usual_torch
    def image_of(self, step: DecodedStep, *, surest: bool = False) -> np.ndarray:
        """Decode the images that the model imagines at a step: uint8 (B, H, W, C).

        After the last step they are the finished images. Before the first one, hidden cells have
        no meaning.

        Args:
            surest: whether hidden tokens are the likeliest ones instead of those that were drawn.

        Raises:
            FieldError: if `step` is something else, such as the tokens of a step.
        """
        if type(step) is not DecodedStep:
            reason = "must be a step of `decode_steps`; `tokenizer.decode` takes tokens"
            raise FieldError("step", f"of type {type(step).__name__}", reason)
        tokens = torch.from_numpy(step.surest if surest else step.proposed)
        return self._pixels(tokens.clamp(max=self.tokenizer.codebook_size - 1))

    @in_usual_torch
    def known_tokens(
        self, image: np.ndarray, mask: np.ndarray, grow: int = 0
    ) -> tuple[KnownTokens, np.ndarray]:
        """Encode an image for editing; arguments and errors as in `edit`.

        Returns:
            Its tokens, those to regenerate hidden; and bool (H, W), the pixels to regenerate.
        """
        image, mask = np.asarray(image), np.asarray(mask)
        check_image(image, mask, self.tokenizer.image_size, self.tokenizer.channels)
        check_whole("grow", grow, 0)
        grid = self.tokenizer.grid
        check_cells(grid, "a part of an image cannot be kept")
        hidden = hidden_cells(mask, grid, grow, self.tokenizer.config.splits)  # (h, w)
        pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)[None]  # (1, C, H, W)
        tokens = self.tokenizer.encode_bytes(pixels)[0]  # (L,)
        region = pixels_of(hidden, self.tokenizer.image_size) if grow else mask
        return KnownTokens(tokens, torch.from_numpy(hidden.flatten())), region

    def _step(self, *of_positions: Tensor) -> DecodedStep:
        """Arrange the fields of a step, each (B, L), on the grid."""
        shape = (-1, *self.tokenizer.grid)
        return DecodedStep(*(values.reshape(shape).cpu().numpy() for values in of_positions))
