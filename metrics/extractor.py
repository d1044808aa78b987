"""Feature extractors: the Inception network of published FIDs, or the user's own network.

The input of an extractor is uint8; it does its own scaling.

Axes: B images of a batch, H W pixels, C channels of the images, D width of a feature, S width of a
spatial feature, K classes.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from utils.device import copy_to_host, send
from utils.errors import UserError, counted, is_out_of_memory, one_line
from utils.files import file_digest, read_with_digest

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"
"""The start of the file's SHA-256, as in its name."""
SPATIAL_CHANNELS = 7  # of sFID


class Features(NamedTuple):
    """The result of an extractor for a batch of images.

    Attributes:
        features: float (B, D).
        logits: float (B, K); None if the network has none.
        spatial: float (B, S), which see where things are; None if the network has none.
    """

    features: Tensor
    logits: Tensor | None = None
    spatial: Tensor | None = None


@dataclass(frozen=True)
class Extractor:
    """A fixed network from images to features.

    Attributes:
        name: name in messages and protocols.
        digest: first 16 digits of the SHA-256 of the network's file.
        net: uint8 (B, C, H, W) -> features (B, D), or a tuple of features, logits (B, K) and
            perhaps spatial features (B, S).
        needs_color: whether gray images need three equal channels.
        variant: what the features depend on, beside the images and the file.
        distance: name of the Frechet distance of these features.
    """

    name: str
    digest: str
    net: Callable[[Tensor], Any]
    device: torch.device
    needs_color: bool
    variant: str = ""
    distance: str = "fid"

    def __call__(self, images: np.ndarray) -> Features:
        """Extract features; as `start`, without anything in between."""
        return self.start(images)()

    @torch.no_grad()
    def start(self, images: np.ndarray) -> Callable[[], Features]:
        """Begin to extract features.

        On CUDA the network runs while the program makes the next images, until it asks for the
        result.

        Args:
            images: uint8 (B, H, W, C).

        Returns:
            A function that returns what the network does, on the host. It raises a UserError if a
            value is not finite.

        Raises:
            UserError: if the network cannot take the images or returns something else.
        """
        pixels = send(images.transpose(0, 3, 1, 2).copy(), self.device)
        if self.needs_color and pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        try:
            result = self.net(pixels)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).strip().splitlines()[-1][:200]
            raise UserError(
                f"{self.name} fails on images uint8 {tuple(pixels.shape)}: {reason}"
            ) from error
        found = Features(*result[:3]) if isinstance(result, tuple | list) else Features(result)
        for tensor in found:
            self._check_shape(tensor, len(images))
        copies = [None if tensor is None else copy_to_host(tensor) for tensor in found]

        def read() -> Features:
            on_host = Features._make(None if wait is None else wait() for wait in copies)
            if not all(tensor is None or tensor.isfinite().all() for tensor in on_host):
                raise UserError(f"{self.name} returns values that are not finite")
            return on_host

        return read

    def _check_shape(self, tensor: Any, count: int) -> None:
        """Refuse a result that is neither None nor of shape (count, any width)."""
        if tensor is None:
            return
        if not isinstance(tensor, Tensor) or tensor.ndim != 2 or len(tensor) != count:
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UserError(
                f"{self.name} returns {shape} for {counted(count, 'image')}; it must return "
                "features (B, D), or a tuple of features, logits (B, K) and perhaps spatial "
                "features (B, S)"
            )


def load_feature_net(path: Path, device: torch.device) -> Extractor:
    """Load the user's own network. This runs the code in the file.

    Args:
        path: a TorchScript file.

    Raises:
        UserError: if it is not TorchScript.
    """

    def read(path: Path) -> Any:
        with warnings.catch_warnings():
            # torch recommends torch.export instead, but its files need one version of torch.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path, map_location=device).eval()

    try:
        net, digest = read_with_digest(path, read)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"`features` {path} is not a TorchScript file; write one with "
            "torch.jit.script(net).save(file)"
        ) from error
    return Extractor(f"feature net {path.name}", digest[:16], net, device, False)


def load_inception(
    path: Path | None,
    device: torch.device,
    with_spatial: bool = False,
    resize: str = "tensorflow",
) -> Extractor:
    """Load the Inception network that published FIDs use, in torch-fidelity's form.

    It resizes images to 299 x 299 pixels, by default as the original TensorFlow graph does.
    Features are its 2048 pooled activations. Logits are taken without the bias, as for published
    Inception Scores.

    Args:
        path: torch-fidelity's weights; None uses torch's cache, or downloads them.
        with_spatial: whether it also returns the 2023 spatial features of sFID (`WithSpatial`).
        resize: "tensorflow" or "clean" (`CleanInception`).

    Raises:
        UserError: if they cannot be downloaded, or the file is another one; the message says where
            to find them.
    """
    wanted = f"{INCEPTION_FILE} (91 MB, {URL_INCEPTION_V3})"
    if path is None:
        path = downloaded(URL_INCEPTION_V3, INCEPTION_FILE, wanted, INCEPTION_SHA256)
    net, digest = read_with_digest(path, lambda path: _inception(path, wanted))
    net = net.to(device)
    if resize == "clean":
        return Extractor("Inception v3", digest[:16], CleanInception(net), device, True, resize)
    run, variant = (WithSpatial(net), "spatial") if with_spatial else (net, "")
    return Extractor("Inception v3", digest[:16], run, device, True, variant)


class CleanInception:
    """Inception with images resized as clean-fid does (Parmar et al. 2022).

    PIL resizes each channel as floats with an antialiased bicubic filter, and values outside [0,
    255] stay.
    """

    def __init__(self, net: FeatureExtractorInceptionV3) -> None:
        *layers, self._head = net.children()  # in the order in which the network runs them
        self._layers = torch.nn.Sequential(*layers)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 (B, 3, H, W) to features (B, D) and logits (B, K)."""
        sides = (FeatureExtractorInceptionV3.INPUT_IMAGE_SIZE,) * 2
        planes = [
            np.asarray(Image.fromarray(plane).resize(sides, Image.Resampling.BICUBIC))
            for plane in pixels.flatten(0, 1).cpu().numpy().astype(np.float32)
        ]
        resized = torch.from_numpy(np.stack(planes)).view(len(pixels), -1, *sides)
        features = self._layers((resized.to(pixels.device) - 128) / 128).flatten(1)
        return features, features @ self._head.weight.T


class WithSpatial:
    """Inception with its spatial features, as sFID takes them (Nash et al. 2021).

    These are the first 7 channels of the TensorFlow graph's mixed_6/conv, 17 x 17 x 7 numbers in
    the order H, W, C. In torch-fidelity's network it is Mixed_6d.branch1x1.
    """

    def __init__(self, net: FeatureExtractorInceptionV3) -> None:
        self._net = net
        net.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map uint8 (B, 3, H, W) to features (B, D), logits (B, K) and spatial (B, 2023)."""
        features, logits = self._net(pixels)
        return features, logits, self._maps[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)

    def _keep(self, layer: torch.nn.Module, inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        """Keep the maps (B, 192, 17, 17) of the layer."""
        self._maps = maps


def _inception(path: Path, wanted: str) -> FeatureExtractorInceptionV3:
    """Make the network from its file; arguments and errors as in `load_inception`."""
    start = file_digest(path)[: len(INCEPTION_SHA256)]
    if start != INCEPTION_SHA256:
        raise UserError(f"{path} is not {wanted}: its SHA-256 starts with {start}")
    # The library would run code that is in the file, so it must first pass a reader that does not.
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise almost any kind
        raise UserError(f"{path} does not hold weights: {one_line(error)}") from error
    return FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )


def downloaded(url: str, name: str, wanted: str, digest: str | None = None) -> Path:
    """Find the weights of a network in torch's cache, or download them to it.

    Args:
        url: where they are.
        name: name of the file.
        wanted: description of the file for error messages.
        digest: start of the file's SHA-256; None if it is not known.

    Raises:
        UserError: if they cannot be downloaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest)
    except (OSError, RuntimeError) as error:
        # URLError is an OSError; a download with a wrong hash is a RuntimeError.
        reason = one_line(error)
        raise UserError(
            f"the weights of the feature network cannot be downloaded ({reason}): fetch {wanted} "
            "elsewhere and name it with `feature_weights` FILE, or measure with your own network, "
            "`features` FILE"
        ) from error
    return path
