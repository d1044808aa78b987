"""The tokens and labels of a split of a dataset, the training data of the transformer."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.device import send
from utils.errors import counted

SIGNED = {"uint16": (np.int16, 2**16 - 1), "uint32": (np.int32, 2**32 - 1)}
RESIDENT_SHARE = 0.25  # the part of a GPU's free memory that tokens may take


@dataclass(frozen=True)
class TokenSet:
    """A split as tokens; the arrays are usually memory-mapped files.

    Attributes:
        tokens: uint16 or uint32 (views, N, L), every image under every flip that training uses.
        labels: int64 (N,); or uint8 (N, F) if an image may have none or several of F findings.
    """

    tokens: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return self.tokens.shape[1]

    @property
    def seq_len(self) -> int:
        """Number of tokens of an image, L."""
        return self.tokens.shape[2]

    @property
    def num_views(self) -> int:
        """Number of stored flips of each image."""
        return self.tokens.shape[0]

    def classes(self, indices: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Choose one class per image.

        If an image has several findings, each call draws one of them. An image without a finding
        has class F, "no finding".

        Args:
            indices: int (B,), the images.
            generator: draws the findings.

        Returns:
            int64 (B,).
        """
        labels = self.labels[indices]
        if labels.ndim == 1:
            return labels.astype(np.int64)
        scores = np.where(labels > 0, generator.random(labels.shape), -1.0)
        return np.where(labels.any(axis=1), scores.argmax(axis=1), labels.shape[1])


def wrong_label(labels: np.ndarray, num_classes: int) -> str | None:
    """Describe a label that is not one of the classes; None if all are.

    Args:
        labels: whole numbers (N,); or (N, F), a 1 or a 0 for each of F findings. Then there is one
            more class, "no finding".
        num_classes: number of classes.
    """
    top = num_classes - 1 if labels.ndim == 1 else 1
    wrong = labels[(labels < 0) | (labels > top)]
    if labels.ndim == 1:
        return f"the label {wrong[0]}, but the classes are 0 to {top}" if wrong.size else None
    if labels.shape[1] == num_classes - 1 and not wrong.size:
        return None
    odd = f", among them {wrong[0]}" if wrong.size else ""
    marks = counted(labels.shape[1], "mark")
    return f"{marks} for each image{odd}, not {num_classes - 1} that are 0 or 1"


def token_type(codebook_size: int) -> np.dtype:
    """Return the smallest type of a `TokenSet` that holds the tokens 0 .. codebook_size - 1."""
    return np.dtype(np.uint16 if codebook_size <= 2**16 else np.uint32)


class DeviceTokens:
    """The tokens of a set, to take by index on a device.

    They stay in the memory of a GPU if they need at most a part of it: ImageNet with 256 tokens per
    image, under two flips, needs 1.3 GB. Otherwise they are read from the file.
    """

    def __init__(self, source: TokenSet, device: torch.device) -> None:
        self.source, self.device = source, device
        # Signed: torch has few operations for the unsigned types.
        signed, self._bits = SIGNED[source.tokens.dtype.name]
        rows = torch.from_numpy(source.tokens.view(signed))
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if rows.nbytes < RESIDENT_SHARE * free:
                rows = rows.to(device)
        self._rows = rows.flatten(0, 1)  # (views * N, L)

    def take(self, indices: np.ndarray, views: np.ndarray | int = 0) -> Tensor:
        """Take the tokens of some images.

        Args:
            indices: int (B,), the images.
            views: the view of each image, int (B,), or one for all.

        Returns:
            int64 (B, L) on the device.
        """
        at = send(views * len(self.source) + indices, self._rows.device)
        rows = send(self._rows.index_select(0, at), self.device)
        return rows.long() & self._bits
