#!/usr/bin/env bash
# From a bare Debian or Ubuntu to generated color images: installs, draws emoji of Debian's font in nine
# classes, trains on the tokens of the bundled color tokenizer, samples.
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
    --run_name demo_color --transformer modern --augment 4 --n_epochs 40 --sample_and_save_freq 10 --num_samples 72 \
    --no_wandb "$@"
