#!/usr/bin/env bash
# From a bare machine to generated images: installs, finds Fashion-MNIST, trains, samples.
# Run again, it continues an interrupted training, or samples from a finished one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
install requirements.txt

debian_folder=/usr/share/datasets/fashion-mnist
if ! "$PYTHON" MaskGIT.py --download_only --dataset fashionmnist; then
    echo "trying Debian's package dataset-fashion-mnist"
    as_root=$([ "$(id -u)" = 0 ] || echo sudo)
    if ! { $as_root apt-get update && $as_root apt-get install -y dataset-fashion-mnist; }; then
        die "no Fashion-MNIST: see the message above for the files and where to put them"
    fi
    [ -d "$debian_folder" ] || die "the package did not bring $debian_folder"
fi

exec "$PYTHON" MaskGIT.py --train --sample --resume --dataset fashionmnist --run_name demo --transformer modern \
    --n_epochs 3 --sample_and_save_freq 1 --num_samples 100 --no_wandb "$@"
