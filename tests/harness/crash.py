"""Kill the real command line at random moments, resume it, and compare with an undisturbed run.

    python tests/harness/crash.py --kills 200

This process imports the program once and forks; a child calls MaskGIT.main with a command line, as
the script would, and is killed with SIGKILL. Writes are slowed down, so that many kills fall inside
one. Training (with its token cache) and sampling are each killed so often, resumed every time until
they finish, and what they leave must equal what the undisturbed command left, bit for bit.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from children import exit_code, fork
from conftest import TINY_TRANSFORMER, write_real_subset
from tiny_stages import VQGAN

import data.token_cache
import MaskGIT
import training.charts
import training.loop
from models.tokenizer import Tokenizer
from models.vqgan.network import VQModel
from utils.checkpoint import save_checkpoint

TRAIN = (
    f"--train --resume --dataset fashionmnist {TINY_TRANSFORMER} --batch_size 20 --n_epochs 6 "
    "--lr 2e-3 --sample_and_save_freq 1 --num_samples 4 "
    "--keep_checkpoints 2 --no_wandb"
)
STEPS_PER_EPOCH = 6  # of the 120 images of `write_inputs` in batches of 20
SAMPLE = "--sample --dataset fashionmnist --batch_size 10 --num_samples 95"
LONGEST_WAIT = 120.0  # seconds: a child that takes longer hangs


@dataclass
class World:
    """Where a command runs, and how often it was killed."""

    folder: Path
    kills: int = 0
    inside_writes: int = 0
    progressed: int = 0  # kills before which something new had been saved


class SlowFile(io.FileIO):
    """Writes by halves and dawdles between them."""

    def write(self, content: Any) -> int:
        time.sleep(0.002)
        view = memoryview(content).cast("B")
        return super().write(view[: max(1, len(view) // 2)]) or 0


def load_modes() -> None:
    """Import what the modes import when they need it: here once for all children."""
    for module in ("commands.resolve", "commands.train", "commands.train_vae", "commands.sample",
                   "commands.edit", "commands.sweep", "data.readers", "data.batches", "data.blocks",
                   "data.token_cache", "models.vqgan.foreign", "training.tracking",
                   "training.vqgan_stage", "metrics.judge", "matplotlib.pyplot"):  # fmt: skip
        importlib.import_module(module)


def write_inputs(base: Path) -> str:
    """Write real images and an untrained tokenizer; returns the options that name them."""
    torch.manual_seed(0)
    save_checkpoint(base / "VQGAN.pt", "vqgan", {"tokenizer": Tokenizer(VQModel(VQGAN)).entry()})
    images = write_real_subset(base / "data", 120, 40)
    return f"--data_dir {images} --checkpoint_vae {base}/VQGAN.pt"


def slow_writes() -> None:
    """Make the files of this process slow to write and to sync."""
    fast_open, fast_sync = Path.open, os.fsync

    def slow_open(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "wb":
            return io.BufferedWriter(SlowFile(path, "wb"), 1 << 18)
        return fast_open(path, mode, *arguments, **options)

    def slow_sync(descriptor: int) -> None:
        time.sleep(0.005)
        fast_sync(descriptor)

    Path.open = slow_open  # type: ignore[method-assign, assignment]
    os.fsync = slow_sync


def start(command: str, folder: Path, before: Callable[[], None]) -> int:
    """Fork a child that runs a command line; its output goes to `output.txt`. Gives its id."""

    def work() -> None:
        torch.set_num_threads(1)
        training.loop.SAVE_EVERY_MINUTES = 0.001  # so that kills come between many saves
        training.charts.draw_run = lambda *_: None  # half of a short run; others are written too
        data.token_cache.BLOCK = 40
        before()
        MaskGIT.main(command.split())

    with (folder / "output.txt").open("wb") as output:
        return fork(work, output.fileno(), output.fileno())


def outcome(child: int) -> int | None:
    """Exit code of a child, None while it runs."""
    done, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def run_to_the_end(command: str, folder: Path, before: Callable[[], None] = lambda: None) -> int:
    """Run a command line undisturbed; gives its exit code."""
    return exit_code(start(command, folder, before))


def files_below(folder: Path) -> list[Path]:
    """The files somewhere under a folder that a program may be changing."""
    return [Path(root, name) for root, _, names in os.walk(folder) for name in names]


def half_written(folder: Path) -> set[Path]:
    """Files somewhere under a folder that a write has not finished."""
    return {path for path in files_below(folder) if path.match(".*.partial")}


def saved_files(folder: Path) -> set[tuple[Path, int]]:
    """States, caches and blocks under a folder, with the times of their last change."""
    found = set()
    for path in files_below(folder):
        if path.suffix in (".pt", ".npy"):
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                found.add((path, path.stat().st_mtime_ns))
    return found


def run_and_kill(command: str, world: World, chance: random.Random) -> bool:
    """Start a command line and kill it at a random moment; True if it came to its end before."""
    moment = chance.uniform(0, 1.8) ** 2 + 0.02
    in_a_write = chance.random() < 0.6  # at the first write after the moment
    begin = time.monotonic()
    leftovers, saved = half_written(world.folder), saved_files(world.folder)
    child = start(command, world.folder, slow_writes)
    while (code := outcome(child)) is None:
        elapsed = time.monotonic() - begin
        assert elapsed < LONGEST_WAIT, "the program hangs"
        due = elapsed > moment
        if due and (not in_a_write or half_written(world.folder) - leftovers):
            time.sleep(chance.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            world.kills += 1
            world.progressed += saved_files(world.folder) != saved
            world.inside_writes += bool(half_written(world.folder) - leftovers)
            return False
        time.sleep(0.001)
    said = (world.folder / "output.txt").read_text()
    assert code == 0, f"exit code {code} after {world.kills} kills:\n{said}"
    return True


def killed_and_resumed(
    command: str, world: World, kills: int, chance: random.Random, compare: Callable[[], None]
) -> None:
    """Run a command until it was killed so often, from the start again whenever it is done.

    At least one kill comes inside a write.
    """

    def is_enough() -> bool:
        return world.kills >= kills and world.inside_writes > 0

    while not is_enough():
        clear(world.folder)
        while not is_enough() and not run_and_kill(command, world, chance):
            continue
        assert run_to_the_end(command, world.folder) == 0, (world.folder / "output.txt").read_text()
        compare()


def clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def state_of(folder: Path) -> dict[str, Any]:
    """Everything that a training leaves, by name; rates in time apart."""
    run = folder / "fashionmnist"
    found: dict[str, Any] = {}
    for path in run.glob("*.pt"):
        found |= flat(torch.load(path, weights_only=True)["contents"], path.name)
    for path in (run / "samples").glob("*.png"):
        if int(path.stem.rsplit("_", 1)[-1]) % STEPS_PER_EPOCH == 0:  # others are written by time
            found[path.name] = path.read_bytes()
    for path in (folder / "tokens").glob("*/*.npy"):
        found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("train/images_per_second", None)
        row.pop("checksum")
    return {**found, "metrics": rows, "config": (run / "config.json").read_text()}


def flat(value: Any, name: str) -> dict[str, Any]:
    """The leaves of nested dictionaries and lists, by name; tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return {name: (str(value.dtype), tuple(value.shape), value.numpy().tobytes())}
    if not isinstance(value, dict | list | tuple):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, entry in items for k, v in flat(entry, f"{name}/{key}").items()}


def samples_of(folder: Path) -> dict[str, Any]:
    """Everything that sampling leaves, by name."""
    samples = folder / "fashionmnist" / "samples"
    found: dict[str, Any] = {p.name: p.read_bytes() for p in samples.rglob("*.png")}
    with np.load(samples / "samples.npz") as stored:
        found |= {name: stored[name].tobytes() for name in stored.files}
    return found


def check_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert expected
    wrong = [k for k in {**found, **expected} if found.get(k) != expected.get(k)]
    assert not wrong, f"{len(wrong)} of {len(expected)} differ, {sorted(wrong)[:5]} among them"


def crash(kills: int, seed: int) -> None:
    """Kill training and sampling so often, and compare; AssertionError if anything differs."""
    load_modes()
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        inputs = write_inputs(base)
        for title, command, contents in (
            ("training", f"{TRAIN} {inputs}", state_of),
            ("sampling", f"{SAMPLE} --checkpoint {base}/model.pt", samples_of),
        ):
            begin = time.monotonic()
            straight, world = base / f"{title}-straight", World(base / title)
            clear(straight)
            code = run_to_the_end(f"{command} --output_dir {straight}", straight)
            assert code == 0, (straight / "output.txt").read_text()
            expected = contents(straight)
            if title == "training":
                shutil.copy(
                    straight / "fashionmnist" / "MaskGIT_fashionmnist.pt", base / "model.pt"
                )
            finished = []

            def compare(
                world: World = world,
                contents: Callable[[Path], dict[str, Any]] = contents,
                expected: dict[str, Any] = expected,
                finished: list[int] = finished,
            ) -> None:
                check_equal(contents(world.folder), expected)
                assert not half_written(world.folder), "a killed write left something for ever"
                finished.append(world.kills)

            full = f"{command} --output_dir {world.folder}"
            killed_and_resumed(full, world, kills, chance, compare)
            print(  # noqa: T201
                f"{title}: {world.kills} kills, {world.inside_writes} inside a write, "
                f"{world.progressed} after progress, "
                f"{len(finished)} runs finished, {len(expected)} values equal, "
                f"{time.monotonic() - begin:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    crash(arguments.kills, arguments.seed)
