"""The transformer of Halton-MaskGIT (Besnier et al. 2025), with the parameter names published.

The class does not take a place in the sequence. It shifts and scales the activations of every block
(adaLN-zero, Peebles and Xie 2023). Ids 0 .. K-1 are image tokens, and K is the mask token.

Axes: B batch, L image tokens, R registers, S = L + R, K codebook, D width, H heads, N rows.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.family import Transformer
from models.fine_tuning import Change
from models.layers import Dropout, attend, rows_at
from models.shapes import AttentionShape

EMBEDDING_STD = 0.02
EPSILON = 1e-5  # of all norms
WIDTH_STEP = 256  # of the hidden layer of the feed-forward networks


@dataclass(frozen=True)
class HaltonConfig(AttentionShape):
    """Shape of Halton-MaskGIT's transformer; the defaults are the smallest published model's.

    Attributes:
        seq_len: number of tokens of an image, L = h * w.
        heads: attention heads of hidden_dim // heads channels each. Their total may be smaller than
            `hidden_dim`, as in the published "small" models: 6 heads of 85 channels of 512.
        registers: tokens without a position that follow the image tokens and predict nothing.
        dropout: dropout rate on the outputs of attention and inside the feed-forward networks.
    """

    family: ClassVar[str] = "halton"
    may_be_zero: ClassVar[tuple[str, ...]] = ("registers",)
    # The training and the sampling of the published models, as far as options express them.
    usual: ClassVar[Mapping[str, Any]] = {
        "batch_size": 256,
        "lr": 1e-4,
        "betas": (0.9, 0.999),
        "weight_decay": 0.03,
        "label_drop": 0.1,
        "label_smoothing": 0.0,
        "grad_clip": 1.0,
        "num_steps": 32,
        "schedule": "arccos-halton",
        "sampler": "halton",
        "halton_roll": "off",
        "guidance": 1.0,
        "guidance_schedule": "constant",
        "first_logit_scale": 0.5,
    }

    seq_len: int
    _: KW_ONLY
    hidden_dim: int = 384
    depth: int = 6
    heads: int = 6
    registers: int = 1
    null_trained: bool = True

    @property
    def inner_width(self) -> int:
        """Width inside the feed-forward networks: 8/3 D, rounded up to a multiple of 256."""
        return -(-(2 * 4 * self.hidden_dim // 3) // WIDTH_STEP) * WIDTH_STEP

    def validate_heads(self) -> None:
        """Check that the heads fit the width; raises FieldError."""
        reason = f"must be at most `hidden_dim` {self.hidden_dim}"
        self.need(self.heads <= self.hidden_dim, "heads", reason)


class HaltonTransformer(Transformer):
    """Predicts the image token at each position from tokens, some of them hidden, and a class."""

    config: HaltonConfig

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_dim
        self.cls_emb = nn.Embedding(config.num_classes + 1, width)
        self.tok_emb = nn.Embedding(config.codebook_size + 1, width)
        self.pos_emb = nn.Embedding(config.seq_len, width)
        self.reg_tokens = nn.Embedding(config.registers, width) if config.registers else None
        self.transformer = Blocks(config)
        self.last_norm = LastNorm(width)
        self.head = OutputBias(config.codebook_size + 1)  # the weights are those of tok_emb
        self.apply(_initialize)

    def forward(self, tokens: Tensor, labels: Tensor, at: Tensor | None = None) -> Tensor:
        """Predict the image token at each position; see `models.family.Transformer`.

        The original also has a logit for the mask token, which no target of its training ever is.
        """
        batch, length = tokens.shape
        condition = self.cls_emb(labels)  # (B, D)
        x = self.tok_emb(tokens) + self.pos_emb.weight[:length]
        if self.reg_tokens is not None:
            x = torch.cat([x, self.reg_tokens.weight.expand(batch, -1, -1)], 1)  # (B, S, D)
        x = self.transformer(x, condition)[:, :length]
        if at is not None:
            x = rows_at(x, at)[:, None]  # (N, 1, D)
            condition = F.embedding(at // length, condition)  # (N, D)
        x = self.last_norm(x, condition)
        codes = self.config.codebook_size
        logits = F.linear(x, self.tok_emb.weight[:codes], self.head.bias[:codes])
        return logits if at is None else logits[:, 0]

    @staticmethod
    def carry(name: str, weight: Tensor, change: Change) -> Tensor:
        """Fit the rows of classes and positions; see `models.family.Transformer`."""
        if name == "cls_emb.weight":
            return change.classes_and_null(weight)
        return change.positions(weight) if name == "pos_emb.weight" else weight


class Blocks(nn.Module):
    """All blocks, one after the other."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, S, D) and the condition (B, D) to (B, S, D)."""
        for block in self.layers:
            x = block(x, condition)
        return x


class Block(nn.Module):
    """x + gate * attention(modulated norm(x)), then the same with a feed-forward network."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.ln1 = RMSNorm(width)
        self.attn = Attention(config)
        self.ln2 = RMSNorm(width)
        self.ff = FeedForward(config)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, S, D) and the condition (B, D) to (B, S, D)."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.mlp(condition)[:, None].chunk(
            6, -1
        )
        x = x + gate_1 * self.attn(self.ln1(x) * (1 + scale_1) + shift_1)
        return x + gate_2 * self.ff(self.ln2(x) * (1 + scale_2) + shift_2)


class Attention(nn.Module):
    """Multi-head self-attention; queries and keys are normalized over all heads together."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.heads = config.heads
        width = config.hidden_dim
        inside = width // config.heads * config.heads  # channels of all heads, at most `width`
        self.wq = nn.Linear(width, inside, bias=False)
        self.wk = nn.Linear(width, inside, bias=False)
        self.wv = nn.Linear(width, inside, bias=False)
        self.wo = nn.Linear(inside, width, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, S, D) to (B, S, D)."""
        qkv = torch.stack((rms_norm(self.wq(x)), rms_norm(self.wk(x)), self.wv(x)), 2)
        with torch.autocast(x.device.type, enabled=False):
            mixed = attend(qkv.unflatten(-1, (self.heads, -1)))  # (B, S, H, D/H)
        return self.dropout(self.wo(mixed.flatten(-2)))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: HaltonConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_dim, config.inner_width, bias=False)
        self.w2 = nn.Linear(config.inner_width, config.hidden_dim, bias=False)
        self.w3 = nn.Linear(config.hidden_dim, config.inner_width, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, S, D) to (B, S, D)."""
        return self.w2(self.dropout(F.silu(self.w1(x)) * self.w3(x)))


class RMSNorm(nn.Module):
    """`rms_norm` with weights and, if `with_bias`, a bias."""

    bias: nn.Parameter | None

    def __init__(self, width: int, with_bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.register_parameter("bias", nn.Parameter(torch.zeros(width)) if with_bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        x = self.weight * rms_norm(x)
        return x if self.bias is None else x + self.bias


def rms_norm(x: Tensor) -> Tensor:
    """Divide x (..., D) by its root mean square over D, in float32; the dtype of x is kept."""
    return F.rms_norm(x.float(), x.shape[-1:], eps=EPSILON).type_as(x)


class LastNorm(nn.Module):
    """The norm before the output, shifted and scaled by the class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_final = RMSNorm(width, with_bias=True)
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Map (B, S, D) and the condition (B, D) to (B, S, D)."""
        shift, scale = self.mlp(condition)[:, None].chunk(2, -1)
        return self.norm_final(x) * (1 + scale) + shift


class OutputBias(nn.Module):
    """The bias of the output layer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))


def _initialize(module: nn.Module) -> None:
    """Initialize a module, after the modules in it, as the original does."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=EMBEDDING_STD)
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Block):  # it starts as the identity
        for parameter in module.mlp.parameters():
            nn.init.zeros_(parameter)
