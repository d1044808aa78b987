"""The same model and algorithm, written the plain way: what speed.py measures against.

The VQ-GAN encodes every image in every step, attention goes through nn.MultiheadAttention, which
returns its weights, logits are computed at every position, everything is float32, tokens are drawn
with torch.distributions, guidance always takes both halves of a doubled batch, and masks are kept
up to date image by image. Correct, and not slow on purpose: no step is done twice.

Axes: B images, L tokens of an image, K codebook, V vocabulary, D width, T steps.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.maskgit.config import TransformerConfig
from models.sampling import SamplingConfig
from models.vqgan.network import VQModel


class PlainTransformer(nn.Module):
    """MaskedTransformer from the modules that torch brings."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, rate, length = config.hidden_dim, config.dropout, config.seq_len + 1
        self.token_embedding = nn.Embedding(config.vocabulary_size, config.embed_dim)
        self.embedding_map = nn.Linear(config.embed_dim, width, bias=False)
        self.position_embedding = nn.Parameter(torch.zeros(length, width))
        self.output_bias = nn.Parameter(torch.zeros(length, config.vocabulary_size))
        self.first = nn.Sequential(
            nn.LayerNorm(width, eps=1e-12),
            nn.Dropout(rate),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
            nn.Dropout(rate),
            nn.Linear(width, width),
        )
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.depth))
        self.last = nn.Sequential(
            nn.LayerNorm(width, eps=1e-12),
            nn.Dropout(rate),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
        )

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Tokens int64 (B, L) and labels int64 (B,) -> logits (B, L, K)."""
        classes = labels[:, None] + self.config.codebook_size + 1
        x = self.embedding_map(self.token_embedding(torch.cat([tokens, classes], dim=1)))
        x = self.first(x + self.position_embedding)  # (B, L+1, D)
        weights = []
        for block in self.blocks:
            x, attention = block(x)
            weights.append(attention)
        x = self.last(x) @ self.embedding_map.weight
        logits = x @ self.token_embedding.weight.T + self.output_bias  # (B, L+1, V)
        return logits[:, :-1, : self.config.codebook_size]

    def load_ours(self, model: nn.Module) -> None:
        """Take the weights of our transformer; it must have an embedding map."""
        names = {
            "attention.qkv.weight": "attention.in_proj_weight",
            "attention.qkv.bias": "attention.in_proj_bias",
            "attention.out.": "attention.out_proj.",
            "mlp.2.": "mlp.3.",
        }
        state = {}
        for name, value in model.state_dict().items():
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            state[name] = value
        self.load_state_dict(state)


class PlainBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, rate = config.hidden_dim, config.dropout
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, config.heads, dropout=rate, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.mlp_dim),
            nn.GELU(),
            nn.Dropout(rate),
            nn.Linear(config.mlp_dim, width),
            nn.Dropout(rate),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L+1, D) -> (B, L+1, D) and attention weights (B, L+1, L+1)."""
        normed = self.attention_norm(x)
        mixed, weights = self.attention(normed, normed, normed)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), weights


class Trainer:
    """Training from images, which are encoded in each step."""

    def __init__(self, model: PlainTransformer, vqgan: VQModel) -> None:
        self.model, self.vqgan = model, vqgan
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95))

    def step(self, images: Tensor, labels: Tensor) -> float:
        """One step on float images (B, C, H, W) and labels int64 (B,); returns the loss."""
        config = self.model.config
        self.model.train()
        with torch.no_grad():
            tokens = self.vqgan.encode(images).flatten(1)  # (B, L)
        dropped = torch.rand(len(labels), device=labels.device) < 0.1
        labels = labels.masked_fill(dropped, config.num_classes)
        ratios = torch.arccos(torch.rand(len(tokens), 1, device=tokens.device)) * 2 / math.pi
        hidden = torch.rand(tokens.shape, device=tokens.device) < ratios
        logits = self.model(tokens.masked_fill(hidden, config.mask_token), labels)
        loss = F.cross_entropy(logits[hidden], tokens[hidden], label_smoothing=0.1)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


@torch.no_grad()
def sample(
    model: PlainTransformer,
    vqgan: VQModel,
    labels: Tensor,
    config: SamplingConfig,
    counts: list[int],
) -> Tensor:
    """Decode one image per label, int64 (B,), revealing `counts[t]` tokens at step t.

    Returns:
        float32 (B, C, H, W) in [-1, 1].
    """
    model.eval()
    seq_len, mask_token = model.config.seq_len, model.config.mask_token
    code = torch.full((len(labels), seq_len), mask_token, device=labels.device)
    hidden = torch.ones_like(code, dtype=torch.bool)
    both = torch.cat([labels, torch.full_like(labels, model.config.num_classes)])
    for step, count in enumerate(counts):
        progress = step / (len(counts) - 1)
        conditional, unconditional = model(torch.cat([code, code]), both).chunk(2)
        guidance = config.guidance * progress
        logits = (1 + guidance) * conditional - guidance * unconditional
        distribution = torch.distributions.Categorical(logits=logits)
        drawn = distribution.sample()
        gumbel = torch.distributions.Gumbel(0.0, 1.0).sample(drawn.shape).to(code.device)
        noise = config.choice_temperature * (1 - progress) * gumbel
        confidence = distribution.log_prob(drawn) + noise
        confidence[~hidden] = -math.inf
        for image, chosen in enumerate(confidence.topk(count).indices):
            code[image, chosen] = drawn[image, chosen]
            hidden[image, chosen] = False
    grid = math.isqrt(seq_len)
    return vqgan.decode_tokens(code.unflatten(1, (grid, grid))).clamp(-1, 1)
