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
from models.layers import BERT_EPSILON, EMBEDDING_STD, Dropout, PreNormBlock, initialize, rows_at
from models.maskgit.config import TransformerConfig


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
            nn.LayerNorm(width, eps=BERT_EPSILON),
            Dropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=BERT_EPSILON),
            Dropout(config.dropout),
            nn.Linear(width, width),
        )
        self.blocks = nn.ModuleList(
            PreNormBlock(width, config.heads, config.mlp_dim, config.dropout)
            for _ in range(config.depth)
        )
        self.last = nn.Sequential(
            nn.LayerNorm(width, eps=BERT_EPSILON),
            Dropout(config.dropout),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=BERT_EPSILON),
        )
        self.apply(initialize)
        nn.init.trunc_normal_(self.position_embedding, std=EMBEDDING_STD)

    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        """Predict the image token at each position; see `models.family.Transformer`."""
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
            x = rows_at(x, at)  # (N, D)
            bias = F.embedding(at % length, bias)  # (N, K)
        x = self.last(x)
        if self.embedding_map is not None:
            x = x @ self.embedding_map.weight  # the transpose of the way in: D -> E
        return F.linear(x, self.token_embedding.weight[: self.config.codebook_size]) + bias

    def embed(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Embed tokens int64 (B, L) and labels int64 (B,): (B, L+1, E)."""
        classes = self.config.mask_token + 1 + labels
        return self.token_embedding(torch.cat([tokens, classes[:, None]], dim=1))

    @staticmethod
    def carry(name: str, weight: Tensor, change: Change) -> Tensor:
        """Fit the rows of classes and positions; see `models.family.Transformer`."""
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
