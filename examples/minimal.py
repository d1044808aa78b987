"""The whole method in one file: train a MaskGIT on Fashion-MNIST and sample from it in two minutes.

    python -m examples.minimal    # from the project's folder; writes minimal.png

Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer", with the guidance of Chang et al.
2023, "Muse". A frozen VQ-GAN turns images into tokens. A transformer learns to predict hidden
tokens. Sampling starts with all tokens hidden and reveals the most confident ones at each step.

Axes: B images, L tokens of each, K codebook, T steps, N hidden tokens, C channels, H W pixels.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from data.open_dataset import open_dataset
from models.modern.config import ModernConfig
from models.modern.transformer import ModernTransformer
from models.open import load_tokenizer
from models.tokenizer import Tokenizer
from utils.device import choose_precision
from utils.pictures import save_grid, to_uint8

TOKENIZER = Path(__file__).parents[1] / "models" / "pretrained" / "VQGAN_fashionmnist.pt"


def main(num_images: int = 12_000, num_steps: int = 500, data_dir: str = "datasets") -> None:
    """Train on the first images of Fashion-MNIST, and write ten samples of each class."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(TOKENIZER)
    tokens, labels = tokenize(tokenizer, num_images, data_dir)
    model = ModernTransformer(ModernConfig(tokenizer.codebook_size, 10, tokenizer.grid))
    train(model, tokens, labels, num_steps)
    classes = torch.arange(10).repeat(10)
    uniform, second = torch.rand(2, 12, len(classes), tokens.shape[1])  # (T, B, L) each, T = 12
    gumbel = -torch.log(-torch.log(second.clamp(min=1e-9)))
    samples = decode(model.eval(), classes, uniform, gumbel)
    save_grid(Path("minimal.png"), to_uint8(tokenizer.decode(samples)), columns=10)


def tokenize(tokenizer: Tokenizer, num_images: int, data_dir: str) -> tuple[Tensor, Tensor]:
    """Turn images into tokens, int64 (B, L), and labels, int64 (B,)."""
    dataset = open_dataset("fashionmnist", "train", Path(data_dir))
    pairs = [dataset[index] for index in range(min(num_images, len(dataset)))]
    images = torch.stack([image for image, _ in pairs])  # uint8 (B, C, H, W)
    return tokenizer.encode_bytes(images), torch.tensor([int(label) for _, label in pairs])


def train(model: ModernTransformer, tokens: Tensor, labels: Tensor, num_steps: int) -> None:
    """Train in steps of 64 images; the learning rate rises and falls once."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, num_steps, pct_start=0.1)
    bfloat16_is_faster = choose_precision("auto", tokens.device) == torch.bfloat16
    for step in range(num_steps):
        batch = torch.randint(len(tokens), (64,))
        with torch.autocast("cpu", torch.bfloat16, bfloat16_is_faster):
            loss = masked_loss(model, tokens[batch], labels[batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step:4d}  loss {loss.item():.3f}")


def masked_loss(model: ModernTransformer, tokens: Tensor, labels: Tensor) -> Tensor:
    """Hide a random share of the tokens, int64 (B, L), and return their cross-entropy.

    A tenth of the labels, int64 (B,), is replaced by "no class", which guidance needs in sampling.
    """
    count = torch.ceil(mask_ratio(torch.rand(len(tokens), 1)) * tokens.shape[1]).clamp(min=1)
    hidden = torch.rand(tokens.shape).argsort(1).argsort(1) < count  # bool (B, L)
    dropped = torch.rand(labels.shape) < 0.1
    inputs = tokens.masked_fill(hidden, model.config.mask_token)
    at = hidden.flatten().nonzero().squeeze(1)  # (N,) hidden positions, the only ones predicted
    logits = model(inputs, labels.masked_fill(dropped, model.config.num_classes), at)  # (N, K)
    return F.cross_entropy(logits, tokens.flatten()[at])


def mask_ratio(progress: Tensor) -> Tensor:
    """Return the share of hidden tokens, 1 at progress 0 and 0 at 1 (valeoai/Maskgit-pytorch)."""
    return 2 / math.pi * torch.arccos(progress)


@torch.no_grad()
def decode(
    model: ModernTransformer,
    labels: Tensor,
    uniform: Tensor,
    gumbel: Tensor,
    guidance: float = 3.0,
    temperature: float = 4.5,
) -> Tensor:
    """Sample images from all hidden tokens, in T steps.

    Args:
        model: the transformer, in evaluation mode.
        labels: int64 (B,).
        uniform: (T, B, L) in [0, 1], decides which tokens are drawn.
        gumbel: (T, B, L), decides with the confidence which tokens are kept.
        guidance: weight of classifier-free guidance at the last step; it rises from 0.
        temperature: weight of the Gumbel noise at the first step; it falls to 0.

    Returns:
        Tokens int64 (B, L).
    """
    num_steps, _, seq_len = uniform.shape
    tokens = torch.full((len(labels), seq_len), model.config.mask_token)
    for step, count in enumerate(reveal_counts(seq_len, num_steps)):
        progress = step / (num_steps - 1)
        # Predict all tokens and draw one for each position, by inverting the distribution.
        logits = guided_logits(model, tokens, labels, guidance * progress)
        log_probs = logits.log_softmax(-1)  # (B, L, K)
        cdf = log_probs.exp().cumsum(-1)
        drawn = torch.searchsorted(cdf, uniform[step, ..., None] * cdf[..., -1:], right=True)
        drawn = drawn.clamp(max=cdf.shape[-1] - 1)  # rounding may reach the total
        # Keep the most confident ones among the hidden tokens.
        confidence = log_probs.gather(-1, drawn).squeeze(-1)  # (B, L)
        confidence = confidence + temperature * (1 - progress) * gumbel[step]
        hidden = tokens == model.config.mask_token
        surest = confidence.masked_fill(~hidden, -math.inf).topk(count).indices  # (B, count)
        tokens.scatter_(1, surest, drawn.squeeze(-1).gather(1, surest))
    return tokens


def guided_logits(
    model: ModernTransformer, tokens: Tensor, labels: Tensor, weight: float
) -> Tensor:
    """Predict all tokens, (B, L, K), and move away from the prediction without a class."""
    if weight == 0:
        return model(tokens, labels)
    no_class = torch.full_like(labels, model.config.num_classes)
    both = model(tokens.repeat(2, 1), torch.cat([labels, no_class]))  # (2B, L, K)
    conditional, unconditional = both.chunk(2)
    return (1 + weight) * conditional - weight * unconditional


def reveal_counts(seq_len: int, num_steps: int) -> list[int]:
    """Plan how many tokens each step reveals: few at first, where little is known."""
    shares = mask_ratio(1 - torch.arange(num_steps).double() / (num_steps - 1))
    counts = (shares / shares.sum() * seq_len).round().clamp(min=1).int().tolist()
    return [*counts[:-1], seq_len - sum(counts[:-1])]


if __name__ == "__main__":
    main()
