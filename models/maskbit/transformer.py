"""MaskBit's transformer (Weber et al. 2024), which sees the bits of tokens and not their numbers.

The tokens of a cell share a position. A hidden token is one whose bits are all 0, neither -1 nor 1.
The class is the last position.

Axes: B batch, L image tokens, N cells, S tokens of a cell (L = N * S), K codebook, D width, R rows.
"""

import torch
from torch import Tensor, nn

from models.family import Transformer
from models.fine_tuning import Change
from models.layers import (
    BERT_EPSILON,
    EMBEDDING_STD,
    Dropout,
    PostNormBlock,
    initialize_as_bert,
    rows_at,
)
from models.maskbit.config import BitTransformerConfig
from models.maskbit.network import signs


class BitTransformer(Transformer):
    """Predicts the image token at each position from tokens, some of them hidden, and a class."""

    config: BitTransformerConfig

    def __init__(self, config: BitTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.class_embedding = nn.Embedding(config.num_classes + 1, width)
        self.bit_map = nn.Linear(config.bits * config.splits, width)
        self.position_embedding = nn.Parameter(
            torch.zeros(config.seq_len // config.splits + 1, width)
        )
        self.first = nn.Sequential(nn.LayerNorm(width, eps=BERT_EPSILON), Dropout(config.dropout))
        self.blocks = nn.ModuleList(
            PostNormBlock(width, config.heads, config.mlp_dim, config.dropout)
            for _ in range(config.depth)
        )
        self.last = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=BERT_EPSILON)
        )
        self.out = nn.Linear(width, config.splits * config.codebook_size)
        self.apply(initialize_as_bert)
        nn.init.trunc_normal_(self.position_embedding, std=EMBEDDING_STD)

    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        """Predict the image token at each position; see `models.family.Transformer`."""
        splits = self.config.splits
        bits = signs(tokens, self.config.bits) * (tokens != self.config.mask_token)[..., None]
        x = self.bit_map(bits.unflatten(1, (-1, splits)).flatten(2))  # (B, N, D)
        x = torch.cat([x, self.class_embedding(labels)[:, None]], 1)
        x = self.first(x + self.position_embedding)  # (B, N + 1, D)
        for block in self.blocks:
            x = block(x)
        x = x[:, :-1]  # (B, N, D), without the class
        if at is not None:
            x = rows_at(x, at // splits)  # (R, D), the cells of the tokens
        logits = self.out(self.last(x)).unflatten(-1, (splits, -1))  # (B, N, S, K) or (R, S, K)
        logits = logits.flatten(-3, -2)
        if at is not None:  # each token in its cell
            first = splits * torch.arange(len(at), device=at.device)
            logits = logits.index_select(0, first + at % splits)
        return logits

    @staticmethod
    def carry(name: str, weight: Tensor, change: Change) -> Tensor:
        """Fit the rows of classes; see `models.family.Transformer`."""
        return change.classes_and_null(weight) if name == "class_embedding.weight" else weight
