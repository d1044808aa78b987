"""TiTok's transformers: BERT's for L-32 and B-64, and a U-ViT (Bao et al. 2023) for S-128.

Ids 0 .. K-1 are image tokens, K is the mask token, K+1+c is class c and K+1+num_classes "no class".
The class is the last position; in the original it is the first, and models/titok/generators.py
moves its weight.

Axes: B batch, L image tokens, K codebook, D width, N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.family import Transformer
from models.layers import (
    BERT_EPSILON,
    EMBEDDING_STD,
    Dropout,
    PostNormBlock,
    PreNormBlock,
    initialize_as_bert,
    rows_at,
)
from models.maskgit.transformer import MaskedTransformer
from models.shapes import AttentionShape


@dataclass(frozen=True)
class TitokTransformerConfig(AttentionShape):
    """Shape of TiTok's transformer.

    Attributes:
        seq_len: number of tokens of an image L.
        long_skips: whether it is a U-ViT, as for S-128, and not BERT. It drops no embeddings, and
            `depth` does not count its block in the middle.
    """

    family: ClassVar[str] = "titok"
    # The training, as far as options express it, and the sampling of the published L-32. Their
    # progress is 1/8 at the first of the 8 steps, so its temperature is 9.5 * 7/8, and its guidance
    # rises to 4.5 * 7/8.
    usual: ClassVar[Mapping[str, Any]] = {
        "lr": 2e-4,
        "betas": (0.9, 0.96),
        "weight_decay": 0.03,
        "label_drop": 0.1,
        "grad_clip": 1.0,
        "num_steps": 8,
        "schedule": "arccos-cumulative",
        "sampler": "annealed",
        "guidance": 3.9375,
        "choice_temperature": 8.3125,
    }

    seq_len: int
    mlp_dim: int = 384
    null_trained: bool = True
    long_skips: bool = False

    def validate(self) -> None:
        """Check that the numbers fit together; errors as in `AttentionShape`."""
        super().validate()
        is_even = not self.long_skips or self.depth % 2 == 0
        self.need(is_even, "depth", "must be even, because each skip joins two blocks")


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
        nn.init.trunc_normal_(self.position_embedding, std=EMBEDDING_STD)

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
