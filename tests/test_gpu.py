"""The program on a GPU, in processes of its own: `scripts/test.sh --gpu`.

What it computes is tested on the CPU. Here the same paths run to their end on the card, scores are
those of the CPU, and a resumed run has the same bits. Without a GPU all are skipped.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from conftest import TINY_CODES, TINY_SIZE, TINY_VQGAN, TRAIN_TINY, VISIBLE_GPUS

from utils.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[1]
FEATURE_NET = os.path.relpath(ROOT / "metrics" / "pretrained" / "fashionmnist_net.pt")
DEVICE = "cuda"
# Each changes something of the program, and then runs it.
PLAIN = "from MaskGIT import main"
STOPPED = """
import os, signal
from MaskGIT import main
from training.transformer_stage import MaskGITStage as Stage

train_step = Stage.train_step
def step_or_stop(stage, step):
    if step == 4:
        os.kill(os.getpid(), signal.SIGTERM)
    return train_step(stage, step)
Stage.train_step = step_or_stop
"""
# A job of one process has no group, so this one says that it is one of two; its group has itself.
ONE_OF_TWO = """
import torch
from tiny_stages import make_stage
from utils.processes import Processes

def main(arguments):
    device = torch.device(arguments[1])
    processes, precision = Processes(0, 2), torch.bfloat16
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with processes.connected(device):
        stage = make_stage(device=device, precision=precision, processes=processes, grad_accum=2)
        found = [stage.train_step(step) for step in range(3)]
        assert processes.from_main(lambda: "a word") == "a word"
        assert stage.validate()["loss"] > 0
    assert all(value.isfinite() for metrics in found for value in metrics.values())
"""
WITHOUT_BFLOAT16 = """
import torch
from MaskGIT import main
torch.cuda.is_bf16_supported = lambda *_, **__: False
"""
WITH_LITTLE_MEMORY = """
import torch
from MaskGIT import main
torch.cuda.set_per_process_memory_fraction(2**22 / torch.cuda.mem_get_info()[1])
"""
BENCHMARK = """
from benchmarks import {name}

def main(arguments):
    sys.argv = ["benchmark", *arguments[:arguments.index("--data_dir")]]
    {name}.main()
"""


PAGE = """
from pathlib import Path
from page_served import serving

def main(arguments):
    folder = Path(arguments[arguments.index("--output_dir") + 1])
    with serving(folder) as start:
        events = start(folder, *arguments).events()
    assert events[-1]["event"] == "done", events[-1]
"""


def has_gpu() -> bool:
    """Whether NVIDIA's driver finds a card; torch in this process must not see it."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_gpu(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture
def program(data_dir, tmp_path):
    """Run the program on the GPU; returns what it printed, or its errors if it ends with `code`."""

    def call(arguments, changed=PLAIN, code=0, launcher=(), **variables):
        script = Path(mkdtemp(dir=tmp_path)) / "program.py"
        script.write_text(f"import sys\n{changed}\nmain(sys.argv[1:])\n")
        environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        if VISIBLE_GPUS is not None:
            environment["CUDA_VISIBLE_DEVICES"] = VISIBLE_GPUS
        device = () if "--device" in arguments else ("--device", DEVICE)
        common = ("--data_dir", data_dir, "--output_dir", tmp_path, "--no_wandb", *device)
        done = subprocess.run(
            [sys.executable, *launcher, script, *arguments.split(), *common],
            env={**environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    return call


def weights_of(folder, name="MaskGIT_mnist.pt", kind="maskgit"):
    stored = load_checkpoint(folder / name, kind)
    return {f"{part} {k}": v for part in ("weights", "ema") for k, v in stored[part].items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_both_stages_and_samples(program, tmp_path, precision):
    program(
        "--train_vae --train --sample --reconstruct --n_epochs_vae 2 --batch_size_vae 16 "
        f"--num_samples 20 --precision {precision} {TRAIN_TINY} {TINY_VQGAN} {TINY_CODES}"
    )
    with np.load(tmp_path / "mnist" / "samples" / "samples.npz") as stored:
        assert stored["arr_0"].shape == (20, 32, 32, 1)
    assert all(value.isfinite().all() for value in weights_of(tmp_path / "mnist").values())


def test_cuda_graphs_change_no_result(program, trained, tokenizer_file, tmp_path):
    train = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --deterministic"
    sample = f"--sample --num_samples 40 --batch_size 8 --checkpoint {trained}/MaskGIT_mnist.pt"
    losses, samples = [], []
    for how in ("auto", "off"):
        for command in (train, sample):
            said = program(f"{command} --compile {how} --run_name {how}")
            assert "CUDA graphs do not work" not in said
        rows = (tmp_path / how / "metrics.jsonl").read_text().splitlines()
        losses.append([row["train/loss"] for row in map(json.loads, rows) if "train/loss" in row])
        samples.append(np.load(next((tmp_path / how).rglob("samples.npz")))["arr_0"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)  # the sizes of matrix products differ
    assert (samples[0] == samples[1]).mean() > 0.99


def test_compiled_training_and_sampling(program, tokenizer_file, tmp_path):
    tokenizer = f"--checkpoint_vae {tokenizer_file}"
    program(f"--train --sample --num_samples 20 --compile {TRAIN_TINY} {tokenizer}")
    assert all(value.isfinite().all() for value in weights_of(tmp_path / "mnist").values())


def test_a_student_and_an_edit(program, trained, tmp_path):
    model = f"--checkpoint {trained}/MaskGIT_mnist.pt"
    program(f"--distill 1 --n_epochs_distill 1 --batch_size_distill 16 --run_name student {model}")
    assert (tmp_path / "student" / "MaskGIT_mnist.pt").is_file()
    program(f"--edit --init_image mnist:1 --mask_box 0,0,8,8 --num_samples 2 {model}")
    assert (tmp_path / "mnist" / "edits" / "grid.png").is_file()


def test_scores_are_those_of_the_cpu(program, trained, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "fake.npz", arr_0=images)
    command = f"--evaluate --features {FEATURE_NET} --batch_size 8 --precision fp32"
    found = {}
    for device in (DEVICE, "cpu"):
        program(f"{command} --images {tmp_path}/fake.npz --dataset mnist --device {device}")
        text = (tmp_path / "mnist" / "evaluation_images.json").read_text()
        found[device] = json.loads(text)["scores"]
    assert found[DEVICE] == pytest.approx(found["cpu"], rel=1e-3)
    model = f"--checkpoint {trained}/MaskGIT_mnist.pt"
    program(f"{command} {model} --num_samples 25 --step 2 --nearest")
    program(f"--evaluate likelihood {model} --classify 20")


def test_a_resumed_run_has_the_same_bits(program, tokenizer_file, tmp_path):
    train = f"{TRAIN_TINY} --checkpoint_vae {tokenizer_file} --deterministic --dropout_t 0.1"
    program(f"--train {train} --run_name whole")
    program(f"--train {train} --run_name stopped", STOPPED, code=143)
    program("--train --resume --dataset mnist --run_name stopped")
    whole, resumed = (weights_of(tmp_path / name) for name in ("whole", "stopped"))
    assert all(resumed[name].equal(value) for name, value in whole.items())


def test_one_process_of_torchrun(program, tokenizer_file, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    program(f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file}", launcher=launcher)
    assert (tmp_path / "mnist" / "MaskGIT_mnist.pt").is_file()


def test_gradients_and_values_go_through_nccl(program):
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "1"}
    program(f"--device {DEVICE}:0", ONE_OF_TWO, **group, RANK="0", LOCAL_RANK="0")


def test_a_card_without_bfloat16_computes_in_float32(program, tokenizer_file, tmp_path):
    tokenizer = f"--checkpoint_vae {tokenizer_file}"
    program(f"--train --sample --num_samples 4 {TRAIN_TINY} {tokenizer}", WITHOUT_BFLOAT16)
    config = json.loads((tmp_path / "mnist" / "config.json").read_text())
    assert config["maskgit"]["precision"] == "fp32"


def test_scores_while_it_trains(program, tokenizer_file, tmp_path):
    program(
        f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --evaluate_every 1 "
        f"--evaluate_samples 20 --features {FEATURE_NET}"
    )
    assert (tmp_path / "mnist" / "MaskGIT_mnist_best_fid.pt").is_file()


def test_a_lack_of_memory_is_one_line(program, tokenizer_file):
    command = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file}"
    error = program(command, WITH_LITTLE_MEMORY, code=2)
    assert "out of memory at batch size 16" in error
    assert error.count("\n") == 1


def test_a_card_that_is_hidden_or_missing_is_named(program, trained):
    command = f"--sample --num_samples 1 --checkpoint {trained}/MaskGIT_mnist.pt --device cuda:99"
    for visible in ({}, {"CUDA_VISIBLE_DEVICES": ""}):
        error = program(command, code=2, **visible)
        assert "--device cuda:99: this machine has" in error
        assert error.count("\n") == 1


def test_the_page_decodes(program, trained):
    program(f"--checkpoint {trained}/MaskGIT_mnist.pt", PAGE)


def test_two_processes_share_the_card(program, trained, tmp_path):
    command = f"--sample --num_samples 40 --batch_size 8 --checkpoint {trained}/MaskGIT_mnist.pt"
    with ThreadPoolExecutor() as pool:
        list(pool.map(program, [f"{command} --run_name {name}" for name in ("a", "b")]))
    a, b = (np.load(tmp_path / name / "samples" / "samples.npz")["arr_0"] for name in ("a", "b"))
    assert (a == b).mean() > 0.99


def test_a_profiler_sees_what_a_step_starts(program):
    arguments = f"--device {DEVICE} --rounds 1 --compile off"
    printed = program(arguments, BENCHMARK.format(name="launches"))
    for line in printed.splitlines()[-2:]:
        milliseconds, operations, starts, kernels, on_card, busy = map(float, line.split()[2:])
        assert operations / 2 < starts < 1.1 * kernels
        assert on_card > 0
        assert busy == pytest.approx(100 * on_card / milliseconds, rel=0.1, abs=1)


def test_a_large_model_is_measured(program):
    program(f"--device {DEVICE} --rounds 1 {TINY_SIZE}", BENCHMARK.format(name="large"))
