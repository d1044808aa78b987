"""First vectors of the codes, from which codes stand side by side in the training images.

Codes with similar neighbors get similar vectors. They factorize the pointwise mutual information of
neighbors: how much more often two codes stand side by side than by chance (Levy and Goldberg 2014,
*Neural Word Embedding as Implicit Matrix Factorization*).

Axes: N images, L tokens, K codebook, D width.
"""

import numpy as np

MOST_TOKENS = 2**22  # to count in
MOST_CODES = 2**11  # eigenvectors of more take too long
LEAST_SIZE = 1e-9  # less is rounding


def neighbor_counts(tokens: np.ndarray, grid: tuple[int, ...], codes: int) -> np.ndarray:
    """Count how often two codes are neighbors along an axis of the grid.

    Args:
        tokens: integers (N, L) in [0, codes).
        grid: sizes of the axes; their product is L.
        codes: K.

    Returns:
        float64 (K, K), symmetric: a pair counts in both orders.
    """
    counts = np.zeros(codes**2)
    stride = max(1, tokens.size // MOST_TOKENS)
    placed = tokens[::stride].reshape(-1, *grid).astype(np.int64)
    for axis in range(1, placed.ndim):
        along = np.moveaxis(placed, axis, 0)
        pairs = along[:-1] * codes + along[1:]
        counts += np.bincount(pairs.ravel(), minlength=codes**2)
    square = counts.reshape(codes, codes)
    return square + square.T


def code_vectors(counts: np.ndarray, width: int) -> np.ndarray:
    """Factorize the pointwise mutual information of neighbors.

    Args:
        counts: float64 (K, K), as `neighbor_counts` returns them.
        width: D.

    Returns:
        float64 (K, D): the eigenvectors with the largest eigenvalues by size, times the roots of
        these sizes; centered, with mean square 1, or 0 if the codes are not related. If K < D, the
        last channels are 0.
    """
    totals = counts.sum(0)
    expected = np.outer(totals, totals) / max(1, totals.sum())
    # One more of each: pairs of rare codes count as unrelated.
    values, vectors = np.linalg.eigh(np.log((counts + 1) / (expected + 1)))
    largest = np.argsort(-np.abs(values))[:width]
    scaled = vectors[:, largest] * np.sqrt(np.abs(values[largest]))
    scaled = np.pad(scaled, ((0, 0), (0, width - len(largest))))
    scaled -= scaled.mean(0)
    return scaled / max(LEAST_SIZE, np.sqrt((scaled**2).mean()))
