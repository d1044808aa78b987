#!/usr/bin/env bash
# From a bare Debian or Ubuntu to generated color images: installs, draws the emoji of Debian's font as
# nine classes, trains on the tokens of the bundled color tokenizer, samples.
# Run again, it continues an interrupted training, or samples from a finished one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
install requirements.txt

pictures=datasets/emoji
if [ ! -d "$pictures" ]; then
    "$PYTHON" scripts/emoji_pictures.py "$pictures.new" --packages datasets/packages
    mv "$pictures.new" "$pictures"
fi

exec "$PYTHON" MaskGIT.py --train --sample --resume --dataset folder --data_dir "$pictures" --size 32 --flips none \
    --run_name demo_color --n_epochs 40 --batch_size 32 --optimizer muon --lr 8e-3 --drop-label 0.2 \
    --depth 6 --dropout_t 0.1 --ema_decay 0.99 --sample_and_save_freq 20 --num_samples 72 --no_wandb "$@"
