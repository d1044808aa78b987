"""Train a small classifier of a dataset, in whose features samples can be measured.

    python scripts/feature_net.py --dataset fashionmnist net.pt
    python MaskGIT.py --evaluate --dataset fashionmnist --features net.pt

For domains in which ImageNet's features mean little, such as digits, clothes and medical images.
Minutes on a CPU; the file is TorchScript, as --features takes it.
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands.flags import with_flags
from commands.kinds import image_size, positive_int
from data.datasets import DATASETS
from data.open_dataset import open_dataset
from utils.device import choose_device
from utils.errors import UserError, errors_on_one_line
from utils.files import atomic_write
from utils.progress import progress_bar

WIDTHS = (32, 64, 128)


class FeatureNet(nn.Module):
    """Three strided stages of convolutions, averaged over the image, and a linear classifier."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in WIDTHS:
            for stride in (2, 1):
                layers += [
                    nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, C, H, W) -> features (B, 128) and logits (B, K)."""
        features = self.body(images.float() / 127.5 - 1).mean((2, 3))
        return features, self.head(features)


def main() -> None:
    """Train, tell the accuracy on the validation split, and write the network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="the TorchScript file to write")
    parser.add_argument("--dataset", required=True, choices=list(DATASETS), metavar="NAME")
    parser.add_argument("--data_dir", type=Path, default=Path("datasets"))
    parser.add_argument("--size", type=image_size, help="image size [the dataset's own]")
    parser.add_argument("--epochs", type=positive_int, default=3)
    parser.add_argument("--batch_size", type=positive_int, default=128)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)
    torch.manual_seed(0)
    train, validation = (
        open_dataset(options.dataset, split, options.data_dir, options.size)
        for split in ("train", "validation")
    )
    if not isinstance(train[0][1], int):
        raise UserError(f"--dataset {options.dataset}: its images have several classes each")
    net = FeatureNet(train.channels, len(train.class_names)).to(device)
    fit(net, DataLoader(train, options.batch_size, shuffle=True), options.epochs, device)
    accuracy = accuracy_of(net.eval(), DataLoader(validation, options.batch_size), device)
    with warnings.catch_warnings(), atomic_write(options.file) as file:
        warnings.simplefilter("ignore")  # torch advises exporting, bound to one version of torch
        torch.jit.save(torch.jit.script(net.cpu()), file)
    sys.stdout.write(f"{options.file}: {accuracy:.4f} of {len(validation)} images recognized\n")


def fit(net: FeatureNet, batches: DataLoader, epochs: int, device: torch.device) -> None:
    """Train with AdamW under a one-cycle learning rate."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.01)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    with progress_bar("training the classifier", steps, unit="step") as bar:
        for _ in range(epochs):
            for images, labels in batches:
                _, logits = net(images.to(device))
                loss = F.cross_entropy(logits, labels.to(device), label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update(1)


@torch.no_grad()
def accuracy_of(net: FeatureNet, batches: DataLoader, device: torch.device) -> float:
    """Share of the images whose class has the highest logit."""
    right = total = 0
    for images, labels in batches:
        _, logits = net(images.to(device))
        right += (logits.argmax(1).cpu() == labels).sum().item()
        total += len(labels)
    return right / total


if __name__ == "__main__":
    with errors_on_one_line("feature_net.py", with_flags):
        main()
