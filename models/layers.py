"""Layers that the transformers of several families share.

Axes: B batch, L positions, D width, H heads, N rows.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# On the CPU in bfloat16, plain matrix products are three times faster than fused attention if the
# sequence is short and few images are computed at once.
SHORT_SEQUENCE = 128  # positions
CACHED_WEIGHTS = 2**20  # attention weights that fit a core's cache
BERT_EPSILON = 1e-12  # of the norms of BERT, which most families took over
EMBEDDING_STD = 0.02  # of initial weights, BERT's; so small that the first loss is about ln K


def rows_at(x: Tensor, at: Tensor) -> Tensor:
    """Take rows of the flattened positions: (B, L, D) at int64 (N,) -> (N, D).

    Indexing would sum its gradient by several threads in no fixed order.
    """
    return x.flatten(0, 1).index_select(0, at)


class Attention(nn.Module):
    """Multi-head self-attention in which every position sees every other."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, H, D/H)
        with torch.autocast(x.device.type, enabled=False):
            mixed = attend(qkv)  # (B, L, H, D/H)
        return self.out(mixed.flatten(-2))


def attend(qkv: Tensor) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v with the kernel that is fastest on the device.

    Args:
        qkv: (B, L, 3, H, d), queries, keys and values.

    Returns:
        (B, L, H, d).
    """
    _, length, _, heads, _ = qkv.shape
    if qkv.device.type == "cpu":
        if qkv.dtype == torch.bfloat16 and length <= SHORT_SEQUENCE:
            images = max(1, CACHED_WEIGHTS // (heads * length**2))
            return torch.cat([_attend_by_products(part) for part in qkv.split(images)])
        # On the CPU the backward pass of fused attention is six times slower in bfloat16.
        qkv = qkv.float()
    # Not unbind(0) of a permuted tensor: it needs one more copy in the backward pass.
    q, k, v = (each.transpose(1, 2) for each in qkv.unbind(2))  # (B, H, L, d)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _attend_by_products(qkv: Tensor) -> Tensor:
    """Compute `attend` by two matrix products."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous()  # one copy instead of three in the products
    weights = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1)  # (B, H, L, L)
    return (weights @ v).transpose(1, 2)


class Dropout(nn.Module):
    """Dropout whose mask is drawn from random bytes on the CPU.

    On the CPU, drawing one float per element takes a quarter of a training step, and one byte takes
    a tenth of that. So the rate is rounded to a multiple of 1/256. The other elements are rescaled
    by the rounded rate, so the expectation is exact in float32; bfloat16 rounds this factor by at
    most 0.4 %. Other devices use torch's dropout.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements at random and rescale the others; any shape; off in evaluation mode."""
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        dropped = min(round(256 * self.rate), 255)
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        levels = words.view(torch.uint8)[: x.numel()].view(x.shape)
        return x * ((levels >= dropped).to(x.dtype) * (256 / (256 - dropped)))


class PreNormBlock(nn.Module):
    """Transformer block that adds to x: attention(norm(x)), then MLP(norm(x))."""

    def __init__(
        self, width: int, heads: int, mlp_dim: int, dropout: float = 0.0, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, qkv_bias)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, width))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class PostNormBlock(nn.Module):
    """Transformer block of BERT: norm(x + attention(x)), then norm(x + MLP(x)).

    Args:
        gelu: how GELU is computed, as in torch.
    """

    def __init__(
        self, width: int, heads: int, mlp_dim: int, dropout: float, gelu: str = "none"
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_norm = nn.LayerNorm(width, eps=BERT_EPSILON)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_dim), nn.GELU(gelu), nn.Linear(mlp_dim, width)
        )
        self.mlp_norm = nn.LayerNorm(width, eps=BERT_EPSILON)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        x = self.attention_norm(x + self.dropout(self.attention(x)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


def initialize(module: nn.Module, linear_std: float | None = None) -> None:
    """Initialize an embedding or a linear layer; leave other layers as they are.

    Args:
        linear_std: of the weights of linear layers; None keeps the variance of their input.
    """
    if isinstance(module, nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=EMBEDDING_STD)
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=linear_std or module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


initialize_as_bert = partial(initialize, linear_std=EMBEDDING_STD)
