"""What stage 1 hands to stage 2: the tokens of a dataset's split, and their labels."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.device import send

RESIDENT_SHARE = 0.25  # of a GPU's free memory that tokens may take


@dataclass(frozen=True)
class TokenSet:
    """A tokenised split; the arrays are usually memory-mapped files.

    Attributes:
        tokens: uint16 (views, N, L), every image under every flip that training may see.
        labels: int64 (N,), or uint8 (N, F) where an image has several of F findings or none.
    """

    tokens: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return self.tokens.shape[1]

    @property
    def num_views(self) -> int:
        """Flips that are stored of each image."""
        return self.tokens.shape[0]

    def classes(self, indices: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """One class per image, int64 (B,).

        Of several findings one is drawn anew at each use; an image without any is of class F, which
        stands for "no finding".
        """
        labels = self.labels[indices]
        if labels.ndim == 1:
            return labels.astype(np.int64)
        scores = np.where(labels > 0, generator.random(labels.shape), -1.0)
        return np.where(labels.any(axis=1), scores.argmax(axis=1), labels.shape[1])


class DeviceTokens:
    """The tokens of a set, to be taken by index on a device.

    On a GPU they stay in its memory if they take no more than a part of it: ImageNet at 256 tokens
    under two flips is 1.3 GB. Otherwise they are taken from the file.
    """

    def __init__(self, tokens: TokenSet, device: torch.device) -> None:
        self._device = device
        self._count = len(tokens)
        rows = torch.from_numpy(tokens.tokens.view(np.int16))  # uint16 has few operations
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if rows.nbytes < RESIDENT_SHARE * free:
                rows = rows.to(device)
        self._rows = rows.flatten(0, 1)  # (views * N, L)

    def take(self, indices: np.ndarray, views: np.ndarray | int = 0) -> Tensor:
        """Tokens of some images, each under its view: int64 (B, L) on the device."""
        at = send_array(views * self._count + indices, self._rows.device)
        rows = send(self._rows.index_select(0, at), self._device)
        return rows.long() & 0xFFFF


def send_array(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device without waiting for the copy."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return send(tensor, device)
