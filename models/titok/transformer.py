"""TiTok's transformers: BERT's for L-32 and B-64, and a U-ViT (Bao et al. 2023) for S-128.

Ids 0 .. K-1 are image tokens, K is the mask token, K+1+c is class c and K+1+num_classes "no class".
The class is the last position; in the original it is the first, and models/titok/generators.py
moves its weight.

Axes: B batch, L image tokens, K codebook, D width, N rows.
"""

import torch
from torch import Tensor, nn

from models.family import Transformer
from models.layers import (
    BERT_EPSILON,
    BERT_STD,
    Dropout,
    PostNormBlock,
    PreNormBlock,
    initialize_as_bert,
    rows_at,
)
from models.maskgit.transformer import MaskedTransformer
from models.titok.config import TitokTransformerConfig


class TitokTransformer(Transformer):
    """Predicts the image token at each position from tokens, some of them hidden, and a class."""

    config: TitokTransformerConfig
    carry = staticmethod(MaskedTransformer.carry)

    def __init__(self, config: TitokTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, codes = config.hidden_dim, config.codebook_size
        self.token_embedding = nn.Embedding(codes + 1 + config.num_classes + 1, width)
        self.position_embedding = nn.Parameter(torch.zeros(config.seq_len + 1, width))
        self.layers = LongSkips(config) if config.long_skips else Bert(config)
        self.out = nn.Linear(width, codes)
        self.apply(initialize_as_bert)
        nn.init.trunc_normal_(self.position_embedding, std=BERT_STD)

    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        """Predict the image token at each position; see `models.family.Transformer`."""
        classes = self.config.mask_token + 1 + labels
        ids = torch.cat([tokens, classes[:, None]], 1)  # (B, L+1)
        x = self.layers(self.token_embedding(ids) + self.position_embedding)
        x = x[:, :-1]  # (B, L, D), without the class
        return self.out(x if at is None else rows_at(x, at))  # rows (N, D)


class Bert(nn.Module):
    """The layers of BERT between embeddings and output."""

    def __init__(self, config: TitokTransformerConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.norm = nn.LayerNorm(width, eps=BERT_EPSILON)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.Sequential(
            *(
                PostNormBlock(width, config.heads, config.mlp_dim, config.dropout)
                for _ in range(config.depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L+1, D) to (B, L+1, D)."""
        return self.blocks(self.dropout(self.norm(x)))


class LongSkips(nn.Module):
    """The layers of a U-ViT: the first block's output goes to the last one too, and so on inwards.

    Args:
        config: one block more than its `depth` stands in the middle.
    """

    def __init__(self, config: TitokTransformerConfig) -> None:
        super().__init__()
        width, half = config.hidden_dim, config.depth // 2

        def block() -> PreNormBlock:
            return PreNormBlock(width, config.heads, config.mlp_dim, config.dropout, qkv_bias=False)

        self.down = nn.ModuleList(block() for _ in range(half))
        self.middle = block()
        self.up = nn.ModuleList(block() for _ in range(half))
        self.joins = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(half))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L+1, D) to (B, L+1, D)."""
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        x = self.middle(x)
        for join, block in zip(self.joins, self.up, strict=True):
            x = block(join(torch.cat([x, kept.pop()], -1)))
        return self.norm(x)
