"""Bounds the likelihood that a transformer gives to images, in nats per token.

A network that predicts hidden tokens gives each order of the tokens a likelihood, the product of
its predictions one by one. For an image x of L tokens and a label, let p(x) be the mean over all
orders. Then

    -log p(x) <= sum over n = 1..L of E[mean cross-entropy of the hidden tokens, if n are hidden]

where the hidden positions are uniform (Uria, Murray and Larochelle 2014; Hoogeboom et al. 2022, the
objective of order-agnostic models). Training may have hidden any shares of tokens, and smoothed its
labels: the bound does not depend on it. So models of different programs can be compared if their
tokens come from the same tokenizer. The likelihood is that of the tokens, not of the pixels.

The term of n = L is the same for all masks and is computed exactly. The other terms are this one
less what the visible tokens tell, which is estimated with pairs of masks: one hides n tokens, the
other all the rest.

Axes: N images, B images of a batch, L tokens of an image, P pairs of masks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.token_set import DeviceTokens
from models.family import Transformer
from models.masking import hide
from models.start import predict_empty
from utils.device import autocast, send
from utils.progress import progress_bar
from utils.seeding import rng

GOLDEN = (5**0.5 - 1) / 2  # multiples of it spread evenly over [0, 1) modulo 1
NORMAL_95 = 1.96  # standard deviations on each side that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Bounder:
    """Computes the bound for images of a set.

    Attributes:
        network: the transformer, in evaluation mode.
        tokens: the images, on the network's device.
        num_pairs: P, at least 2 for `mask_interval`.
        seed: decides the masks, together with the index of an image and the number of a pair.
    """

    network: Transformer
    tokens: DeviceTokens
    num_pairs: int
    seed: int
    precision: torch.dtype
    batch_size: int

    def nats(self, images: np.ndarray, labels: np.ndarray, title: str) -> np.ndarray:
        """Bound the negative log-likelihood of images given their labels.

        Args:
            images: int (N,), indices in the set.
            labels: int64 (N,).
            title: what the progress bar says.

        Returns:
            float64 (N, P), nats per token, an unbiased estimate for each pair of masks.
        """
        found = np.empty((len(images), self.num_pairs))
        with progress_bar(title, len(images), unit="image") as bar:
            for part in self._parts(len(images)):
                found[part] = self._batch(images[part], labels[part])
                bar.update(len(found[part]))
        return found

    def classify(self, images: np.ndarray, num_classes: int, num_masks: int) -> np.ndarray:
        """Choose for each image the class under which its hidden tokens are likeliest.

        The masks hide half of the tokens or more: who sees most of an image hardly needs its class
        to predict the rest. So this is not a bound.

        Returns:
            int64 (N,).
        """
        found = np.empty(len(images), np.int64)
        with progress_bar("classifying by likelihood", len(images), unit="image") as bar:
            for part in self._parts(len(images)):
                found[part] = self._classify(images[part], num_classes, num_masks)
                bar.update(len(found[part]))
        return found

    def _parts(self, count: int) -> Iterator[slice]:
        """Split N images into batches."""
        return (slice(i, i + self.batch_size) for i in range(0, count, self.batch_size))

    @torch.no_grad()
    def _batch(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Compute `nats` of a batch: float64 (B, P)."""
        tokens, device_labels = self.tokens.take(images), send(labels, self.tokens.device)
        empty = predict_empty(self.network, device_labels, self.precision)  # (B, L, K)
        unseen = F.cross_entropy(empty.mT, tokens, reduction="none")  # (B, L)
        length = tokens.shape[1]
        gains = [
            self._gain(tokens, device_labels, unseen, masks)
            for masks in pair_masks(images, self.num_pairs, length, self.seed)
        ]
        nats = unseen.mean(1, keepdim=True) - (length - 1) / length * torch.stack(gains, 1)
        return nats.cpu().double().numpy()  # not every device has float64

    @torch.no_grad()
    def _classify(self, images: np.ndarray, num_classes: int, num_masks: int) -> np.ndarray:
        """Do what `classify` does, for a batch."""
        tokens = self.tokens.take(images)
        nats = torch.zeros(num_classes, len(images), device=tokens.device)
        for masks in class_masks(images, num_masks, tokens.shape[1], self.seed):
            for label, of_class in enumerate(nats):
                labels = torch.full((len(images),), label, device=tokens.device)
                of_class += self._losses(tokens, labels, masks).sum(1)
        return nats.argmin(0).cpu().numpy()

    def _losses(self, tokens: Tensor, labels: Tensor, masks: np.ndarray) -> Tensor:
        """Return the cross-entropy of each hidden token, and 0 for visible ones: float (B, L)."""
        batch = hide(tokens, labels, masks, self.network.config.mask_token)
        with autocast(tokens.device, self.precision):
            logits = self.network(batch.inputs, batch.labels, batch.at)
        losses = F.cross_entropy(logits.float(), batch.targets, reduction="none")
        everywhere = torch.zeros(masks.size, device=tokens.device)
        return everywhere.index_copy(0, batch.at, losses).view(masks.shape)

    def _gain(self, tokens: Tensor, labels: Tensor, unseen: Tensor, masks: np.ndarray) -> Tensor:
        """Average what the visible tokens tell about the hidden ones, over both masks of a pair.

        Args:
            unseen: float (B, L), the cross-entropy if all tokens are hidden.
            masks: bool (B, L), the first mask.

        Returns:
            float (B,), nats per hidden token.
        """
        both = np.concatenate([masks, ~masks])  # (2B, L)
        losses = self._losses(tokens.repeat(2, 1), labels.repeat(2), both)
        hidden = send(both, tokens.device)
        gains = (unseen.repeat(2, 1) * hidden - losses).sum(1)
        return (gains / hidden.sum(1).clamp(min=1)).reshape(2, -1).mean(0)


def pair_masks(images: np.ndarray, num_pairs: int, seq_len: int, seed: int) -> Iterator[np.ndarray]:
    """Draw the first mask of each pair; the second one hides the other tokens.

    The number of hidden tokens is uniform in 1..L-1, and spread evenly over the images and over the
    pairs of an image. The positions depend on (seed, image, pair) alone.

    Args:
        images: int (B,), indices in their set.

    Yields:
        bool (B, L) for each pair, True where a token is hidden.
    """
    start = rng(seed, "likelihood counts").random()
    for pair in range(num_pairs):
        spread = (start + pair / num_pairs + images * GOLDEN) % 1
        counts = 1 + np.floor(spread * (seq_len - 1))
        rows = [rng(seed, "likelihood masks", int(i), pair).random(seq_len) for i in images]
        yield np.stack(rows).argsort(1).argsort(1) < counts[:, None]


def class_masks(
    images: np.ndarray, num_masks: int, seq_len: int, seed: int
) -> Iterator[np.ndarray]:
    """Draw masks that hide between half of the tokens and all of them, evenly spread.

    The positions depend on (seed, image, mask) alone.

    Args:
        images: int (B,), indices in their set.

    Yields:
        bool (B, L) for each mask, True where a token is hidden.
    """
    for number in range(num_masks):
        count = math.ceil(seq_len * (1 - (number + 0.5) / (2 * num_masks)))
        rows = [rng(seed, "class masks", int(i), number).random(seq_len) for i in images]
        yield np.stack(rows).argsort(1).argsort(1) < count


def image_interval(nats: np.ndarray, labels: np.ndarray) -> float:
    """Return half the 95 % interval of the mean, for as many other images of the same classes.

    Args:
        nats: float64 (N, P), from `Bounder.nats`.
        labels: int64 (N,).
    """
    means = nats.mean(1)
    classes, number = np.unique(labels, return_inverse=True)
    of_class = np.bincount(number, means) / np.bincount(number)
    squares = np.square(means - of_class[number]).sum()
    spread = (squares / max(1, len(means) - len(classes))) ** 0.5
    return NORMAL_95 * float(spread) / len(means) ** 0.5


def mask_interval(nats: np.ndarray) -> float:
    """Return half the 95 % interval of the mean for the same images under other masks.

    It decides between two models that are measured on the same images.

    Args:
        nats: float64 (N, P), from `Bounder.nats`.
    """
    return NORMAL_95 * float(nats.var(axis=1, ddof=1).mean() / nats.size) ** 0.5


def typicality(nats: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compare the nats of each image with those of its class.

    Args:
        nats: float64 (N,).
        labels: int64 (N,).

    Returns:
        float64 (N,), in standard deviations above the mean of the class; 0 in a class of one image.
    """
    scores = np.zeros(len(nats))
    for label in np.unique(labels):
        own = labels == label
        spread = nats[own].std()
        scores[own] = (nats[own] - nats[own].mean()) / (spread or 1.0)
    return scores
