"""Finds the training images that have most tokens in common with an image.

Few training images are alike in most tokens; an image that shares nearly all of them with one was
memorized. The images are shown as the tokenizer decodes them, so the dataset is not needed.

Axes: N training images, L tokens of an image, V views under which training saw an image.
"""

from typing import Any

import numpy as np
import torch

from data.token_set import TokenSet
from page.catalog import OpenModel
from page.checks import RequestError
from page.tab_decoding import png
from utils.pictures import to_uint8

SHOWN = 4
BLOCK = 1 << 16  # training images compared at once


def show_nearest(opened: OpenModel, tokens: np.ndarray) -> dict[str, Any]:
    """Return the nearest training images for the page.

    Args:
        tokens: int64 (L,), those of a generated image.

    Raises:
        UserError: if the tokens of the training images are not on this machine.
    """
    training = opened.training_tokens()
    if training is None:
        raise RequestError("the tokens of this model's training images are not here", 404)
    images, views, same = nearest_in_tokens(tokens, training, SHOWN)
    tokenizer, labels = opened.model.tokenizer, training.labels[images]
    nearest = torch.from_numpy(training.tokens[views, images].astype(np.int64))
    pictures = to_uint8(tokenizer.to_rgb(tokenizer.decode(nearest)))
    return {
        "files": [png(picture) for picture in pictures],
        "numbers": images.tolist(),
        "labels": labels.tolist() if labels.ndim == 1 else None,  # else of several findings
        "same": same.tolist(),
    }


def nearest_in_tokens(
    tokens: np.ndarray, training: TokenSet, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the training images with most tokens in common with an image, (L,).

    Returns:
        Of each, the nearest first: its index, the view, and the number of common tokens; int64.
    """
    stored = training.tokens
    same = np.empty(stored.shape[:2], np.int64)  # (V, N)
    for start in range(0, len(training), BLOCK):
        part = slice(start, start + BLOCK)
        same[:, part] = (stored[:, part] == tokens.astype(stored.dtype)).sum(2)
    images = np.argsort(-same.max(0), kind="stable")[:count]
    return images, same[:, images].argmax(0), same[:, images].max(0)
