#!/usr/bin/env bash
# Stage 2 on all GPUs of several machines. Start it on each, from one shared folder, with
#   NODES=2 NODE_RANK=0 MASTER_ADDR=first-machine bash scripts/train_nodes.sh --dataset imagenet
# and NODE_RANK=1 on the second. MASTER_PORT (29500) must be open between them. Have the dataset
# and the tokenizer ready (--download_only, --train_vae), for those run in one process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
: "${NODES:?number of machines}" "${NODE_RANK:?number of this one, from 0}"
: "${MASTER_ADDR:?name of machine 0}"
install requirements.txt

GPUS=${GPUS:-$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')}
[ "$GPUS" -ge 1 ] || die "torch sees no GPU here"
exec "$PYTHON" -m torch.distributed.run --nnodes="$NODES" --node_rank="$NODE_RANK" \
    --master_addr="$MASTER_ADDR" --master_port="${MASTER_PORT:-29500}" --nproc_per_node="$GPUS" \
    MaskGIT.py --train --resume "$@"
