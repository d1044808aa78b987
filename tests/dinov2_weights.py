"""Entries of a small network in the layout of DINOv2's file."""

import torch

WIDTH, DEPTH = 128, 2  # two heads


def weights(positions=37 * 37):
    random = torch.Generator().manual_seed(0)

    def draw(*shape, around=0.0):
        return around + 0.1 * torch.randn(shape, generator=random)

    found = {
        "cls_token": draw(1, 1, WIDTH),
        "mask_token": draw(1, WIDTH),
        "pos_embed": draw(1, 1 + positions, WIDTH),
        "patch_embed.proj.weight": draw(WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": draw(WIDTH),
        "norm.weight": draw(WIDTH, around=1),
        "norm.bias": draw(WIDTH),
    }
    maps = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    for block in range(DEPTH):
        for name in ("norm1", "norm2"):
            found[f"blocks.{block}.{name}.weight"] = draw(WIDTH, around=1)
            found[f"blocks.{block}.{name}.bias"] = draw(WIDTH)
        for name, (out, into) in maps.items():
            found[f"blocks.{block}.{name}.weight"] = draw(out * WIDTH, into * WIDTH)
            found[f"blocks.{block}.{name}.bias"] = draw(out * WIDTH)
        for name in ("ls1", "ls2"):
            found[f"blocks.{block}.{name}.gamma"] = draw(WIDTH, around=0.5)
    return found
