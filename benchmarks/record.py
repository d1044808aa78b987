"""How long a transformer has to learn until it predicts hidden tokens well (docs/records.md).

    python benchmarks/record.py --steps 1000 --transformer modern

All transformers learn the same tokens: Fashion-MNIST by the bundled tokenizer. The loss is that of
`training.validation`, whose images and masks never change. All other options are those of --train.
The clock runs while the network is made and trained, and not while the images become tokens, which
happens once.
"""

import argparse
import logging
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from commands.parser import parse
from commands.resolve import resolved
from commands.train import TrainJob, encoder_of
from training.transformer_stage import MaskGITStage
from utils.weights import count_parameters

log = logging.getLogger(__name__)

TARGET = 4.146  # nats per hidden token
SHOWN_EVERY = 100  # steps
TASK = "--train --dataset fashionmnist --run_name record --no_wandb"


def measure(job: TrainJob, steps: int) -> dict[str, Any]:
    """Train for some steps, with a learning rate that ends there.

    Returns:
        A row of docs/records.md, by the title of the column.
    """
    tokenizer = job.tokenizer.open()
    encode = encoder_of(tokenizer, job.data, job.machine, job.training.batch_size)
    train = encode(job.splits.train, "train")
    held_out = encode(job.splits.validation, "validation")
    start = time.perf_counter(), time.process_time()
    stage = MaskGITStage(
        job.config,
        # A stage accepts a part of an epoch; the option does not.
        replace(job.training, epochs=steps / job.steps_per_epoch),  # type: ignore[arg-type]
        train,
        held_out,
        device=job.machine.device,
        precision=job.machine.precision,
        checkpoint_entries={},
        preview=lambda *_: None,
        start=job.start,
        compile_model=job.machine.compiled,
        cuda_graphs=job.machine.cuda_graphs,
    )
    for step in range(steps):
        metrics = stage.train_step(step)
        if step % SHOWN_EVERY == 0:
            log.info("step %d of %d  loss %.4f", step, steps, metrics["loss"].item())
    wall, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    loss = round(stage.validate()["loss"], 3)
    return {
        "loss": f"{loss:.3f}{'' if loss <= TARGET else f', above {TARGET}'}",
        "wall time": f"{wall:.0f} s",
        "processor time": f"{processor:.0f} s",
        "family": job.config.family,
        "parameters": f"{count_parameters(stage.model) / 1e6:.2f} M",
        "steps": steps,
    }


def main() -> None:
    """Measure what the command line asks for, and print a row of docs/records.md."""
    reader = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    reader.add_argument("--steps", type=int, required=True, help="optimizer steps of the training")
    own, others = reader.parse_known_args()
    with resolved(parse([*TASK.split(), *others])) as jobs:
        (job,) = jobs.values()
        row = measure(job, own.steps)
    row["precision"] = str(job.machine.precision).removeprefix("torch.")
    row["options"] = f"`{' '.join(others)}`"
    commit = "git rev-parse --short HEAD || echo unknown"  # an archive of the source has no git
    row["commit"] = subprocess.run(
        commit, shell=True, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    for line in (row.keys(), ["---"] * len(row), row.values()):
        sys.stdout.write(f"| {' | '.join(map(str, line))} |\n")


if __name__ == "__main__":
    main()
