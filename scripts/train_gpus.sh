#!/usr/bin/env bash
# Stage 2 on all GPUs of one machine; continues an interrupted run. Arguments go to MaskGIT.py:
#   bash scripts/train_gpus.sh --dataset cifar10 --n_epochs 300 --sample
# GPUS=4 takes the first four.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
install requirements.txt

GPUS=${GPUS:-$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')}
[ "$GPUS" -ge 1 ] || die "torch sees no GPU here"
exec "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node="$GPUS" \
    MaskGIT.py --train --resume "$@"
