"""The bidirectional transformer that predicts hidden tokens.

The network is that of Chang et al. 2022, in the form of valeoai/Maskgit-pytorch v1.0 and
caetas/GenerativeZoo. Ids 0 .. K-1 are image tokens, K is the mask token, K+1+c is class c, and
K+1+num_classes is "no class". The class token is the last position of the sequence.

Axes: B batch, L image tokens, K codebook, V vocabulary, E embedding, D width, H heads, N rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.family import Transformer
from models.fine_tuning import Change
from models.maskgit.config import TransformerConfig

EMBEDDING_STD = 0.02  # small enough that the first loss is about ln K
# On the CPU in bfloat16, plain matrix products are three times faster than fused attention if the
# sequence is short and few images are computed at once.
SHORT_SEQUENCE = 128  # positions
CACHED_WEIGHTS = 2**20  # attention weights that fit a core's cache
JOINED = {"qkv": 3}  # linear layers that compute several maps; see TransformerFamily


class MaskedTransformer(Transformer):
    """Predicts the image token at each position from tokens, some of them hidden, and a class."""

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        # Weights of the embeddings and of the output.
        width, length = config.hidden_dim, config.seq_len + 1
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.embed_dim)
        self.embedding_map = (
            nn.Linear(config.embed_dim, width, bias=False) if config.embed_dim != width else None
        )
        self.position_embedding = nn.Parameter(torch.zeros(length, width))
        self.output_bias = nn.Parameter(torch.zeros(length, config.vocabulary_size))
        # Layers: first, blocks, last.
        self.first = nn.Sequential(
            nn.LayerNorm(width, eps=1e-12),
            Dropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
            Dropout(config.dropout),
            nn.Linear(width, width),
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.last = nn.Sequential(
            nn.LayerNorm(width, eps=1e-12),
            Dropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
        )
        self.apply(_initialize)
        nn.init.trunc_normal_(self.position_embedding, std=EMBEDDING_STD)

    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        """Predict the image token at each position.

        Args:
            tokens: int64 (B, L), ids 0 .. K; K where a token is hidden.
            labels: int64 (B,), classes 0 .. num_classes; num_classes for "no class".
            at: int64 (N,), which of the B * L flattened positions to predict; None for all.

        Returns:
            Logits (B, L, K), or (N, K) with `at`; in the precision of the computation.
        """
        # Tokens and class, embedded and passed through the blocks.
        length = tokens.shape[1]
        x = self.embed(tokens, labels)  # (B, L+1, E)
        if self.embedding_map is not None:
            x = self.embedding_map(x)
        x = self.first(x + self.position_embedding)  # (B, L+1, D)
        for block in self.blocks:
            x = block(x)
        x = x[:, :length]  # (B, L, D), without the class token
        # Logits of the wanted positions; the output weights are the token embedding.
        bias = self.output_bias[:length, : self.config.codebook_size]  # (L, K)
        if at is not None:
            # Not x[at]: its gradient is summed by several threads in no fixed order.
            x = x.flatten(0, 1).index_select(0, at)  # (N, D)
            bias = F.embedding(at % length, bias)  # (N, K)
        x = self.last(x)
        if self.embedding_map is not None:
            x = x @ self.embedding_map.weight  # the transpose of the way in: D -> E
        return F.linear(x, self.token_embedding.weight[: self.config.codebook_size]) + bias

    def embed(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Embed tokens int64 (B, L) and labels int64 (B,): (B, L+1, E)."""
        classes = self.config.mask_token + 1 + labels
        return self.token_embedding(torch.cat([tokens, classes[:, None]], dim=1))


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, config.heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_dim), nn.GELU(), nn.Linear(config.mlp_dim, width)
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L+1, D) to (B, L+1, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class Attention(nn.Module):
    """Multi-head self-attention in which every position sees every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L+1, D) to (B, L+1, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, L+1, 3, H, D/H)
        with torch.autocast(x.device.type, enabled=False):
            mixed = attend(qkv)  # (B, L+1, H, D/H)
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
    by the rounded rate, so the expectation is exact. Other devices use torch's dropout.
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


def carry(name: str, weight: Tensor, change: Change) -> Tensor:
    """Fit the rows of classes and positions to another transformer; see `TransformerFamily`."""
    first = change.old.mask_token + 1  # the first class in the vocabulary

    def vocabulary(rows: Tensor) -> Tensor:  # (old V, ...) -> (new V, ...)
        return torch.cat([rows[:first], change.classes_and_null(rows[first:])])

    def positions(rows: Tensor) -> Tensor:  # (old L + 1, ...) -> (new L + 1, ...)
        return torch.cat([change.positions(rows[:-1]), rows[-1:]])

    if name == "token_embedding.weight":
        return vocabulary(weight)
    if name == "output_bias":
        return vocabulary(positions(weight).T).T
    return positions(weight) if name == "position_embedding" else weight


def _initialize(module: nn.Module) -> None:
    """Initialize a layer: linear ones keep the variance of their input, embeddings start small."""
    if isinstance(module, nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=EMBEDDING_STD)
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
