#!/usr/bin/env bash
# Stage 2 under SLURM, one task per GPU. Submit it from the repository's folder, on a shared disk:
#   sbatch scripts/train_slurm.sh --dataset imagenet --n_epochs 300
# Two minutes before the time limit, or when it is preempted, the run saves its state and the job
# goes back into the queue, from where it continues. Have the dataset and the tokenizer ready
# (--download_only, --train_vae), for those run in one process.
#SBATCH --job-name=maskgit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
. scripts/environment.sh
install requirements.txt

export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun no longer takes it from sbatch
export WORLD_SIZE="$SLURM_NTASKS" MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR

trap : TERM USR1 # preemption may tell this shell too, which has to outlive the tasks
code=0
# shellcheck disable=SC2016 # each task expands its own numbers
srun bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$@"' task \
    "$PYTHON" MaskGIT.py --train --resume "$@" || code=$?

# 143, 138: stopped by SIGTERM or SIGUSR1, the state saved. The count ends a job that is stopped again
# and again.
if [[ "$code" =~ ^(143|138)$ ]] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
