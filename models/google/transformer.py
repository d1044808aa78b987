"""The transformer of google-research/maskgit (Chang et al. 2022), which is BERT's.

Ids 0 .. K-1 are image tokens, K is the mask token, and K+1+c is class c, the last position. The
original orders ids and positions differently; models/google/foreign.py moves the weights.

Axes: B batch, L image tokens, K codebook, D width, N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.family import Transformer
from models.fine_tuning import Change
from models.layers import BERT_EPSILON, Dropout, PostNormBlock, initialize_as_bert, rows_at
from models.shapes import AttentionShape


@dataclass(frozen=True)
class BertConfig(AttentionShape):
    """Shape of google-research's MaskGIT, whose transformer is BERT's.

    It has no null class, so it cannot be guided.

    Attributes:
        seq_len: number of tokens of an image, L = h * w.
    """

    family: ClassVar[str] = "google"
    # The training and the sampling of the published models. The temperature falls from 4.5 * 15/16,
    # because the authors' progress is 1/16 at the first of the 16 steps.
    usual: ClassVar[Mapping[str, Any]] = {
        "batch_size": 256,
        "lr": 1e-4,
        "betas": (0.9, 0.96),
        "weight_decay": 0.045,
        "num_steps": 16,
        "schedule": "cosine-cumulative",
        "choice_temperature": 4.21875,
    }

    seq_len: int
    mlp_dim: int = 384


class BertTransformer(Transformer):
    """Predicts the image token at each position from tokens, some of them hidden, and a class."""

    config: BertConfig

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        width, codes = config.hidden_dim, config.codebook_size
        self.token_embedding = nn.Embedding(codes + 1 + config.num_classes, width)
        self.position_embedding = nn.Embedding(config.seq_len + 1, width)
        self.output_bias = nn.Parameter(torch.zeros(codes))
        self.first = nn.Sequential(nn.LayerNorm(width, eps=BERT_EPSILON), Dropout(config.dropout))
        self.blocks = nn.ModuleList(
            PostNormBlock(width, config.heads, config.mlp_dim, config.dropout, "tanh")
            for _ in range(config.depth)
        )
        self.last = nn.Sequential(
            nn.Linear(width, width), nn.GELU("tanh"), nn.LayerNorm(width, eps=BERT_EPSILON)
        )
        self.apply(initialize_as_bert)

    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        """Predict the image token at each position; see `models.family.Transformer`."""
        codes = self.config.codebook_size
        ids = torch.cat([tokens, codes + 1 + labels[:, None]], 1)  # (B, L+1)
        x = self.first(self.token_embedding(ids) + self.position_embedding.weight)
        for block in self.blocks:
            x = block(x)
        x = x[:, :-1]  # (B, L, D), without the class
        if at is not None:
            x = rows_at(x, at)  # (N, D)
        return F.linear(self.last(x), self.token_embedding.weight[:codes], self.output_bias)

    @staticmethod
    def carry(name: str, weight: Tensor, change: Change) -> Tensor:
        """Fit the rows of classes and positions; see `models.family.Transformer`."""
        if name == "token_embedding.weight":
            first = change.old.mask_token + 1
            return torch.cat([weight[:first], change.classes(weight[first:])])
        if name == "position_embedding.weight":
            return torch.cat([change.positions(weight[:-1]), weight[-1:]])
        return weight
