"""A tiny world for runs of the real command line: real file formats, tiny networks."""

import gzip
import logging
import os
import re
import shlex
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FIRST_TORCH
from hub_server import Hub, import_again
from PIL import Image

import training.charts
from MaskGIT import main

VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["OMP_NUM_THREADS"] = "1"  # of what tests start; more threads than cores wait in loops
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bits are compared, and those of a GPU vary
os.environ["no_proxy"] = "*"  # the servers of tests are on this machine
# A shell lets what runs in the background ignore Ctrl-C, and so all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in [one for one in os.environ if one.startswith(("HF_", "WANDB_", "FORCE_COLOR"))]:
    del os.environ[name]  # the user's settings of other packages
if shlex.quote(tempfile.gettempdir()) != tempfile.gettempdir():
    tempfile.tempdir = "/tmp"  # tests split command lines at spaces, and messages quote odd paths

REAL_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
TINY_VQGAN = "--channels 32 --ch_mult 1,1,1 --num_res_blocks 1 --attn_resolutions [] --z_channels 8"
TINY_CODES = "--n_embed 16 --embed_dim 8 --perceptual_weight 0 --disc_weight 0"
TINY_TRANSFORMER = "--embed_dim_t 8 --hidden_dim 16 --heads 2 --depth 1 --mlp_dim 16"
TRAIN_TINY = f"--dataset mnist --n_epochs 2 --batch_size 16 {TINY_TRANSFORMER}"
FOLDER_VQGAN = "--size 16 --channels 32 --ch_mult 1,1 --num_res_blocks 1 --attn_resolutions []"
BOTH = (
    f"{FOLDER_VQGAN} --z_channels 8 {TINY_CODES} {TINY_TRANSFORMER} --batch_size 4 "
    "--batch_size_vae 4"
)
TINY_SIZE = (  # of benchmarks/large.py
    "--depth 2 --width 64 --codes 64 --classes 10 --images 200 --batch 8 --student_batch 8 "
    "--steps 100 --pixels 32 --larger 48 --sampled 2 --channels 32"
)

# Those that take longest, in this order, as measured with three processes on two cores.
SLOW_FILES = (
    "test_compile.py", "test_evaluate.py", "test_generating.py", "test_init.py", "test_faults.py",
    "test_families.py", "test_distill.py", "test_crash.py", "test_other_models.py",
    "test_server.py", "test_watching.py", "test_maskgit.py", "test_editing.py",
    "test_appearance.py", "test_processes.py", "test_resume.py", "test_fake_gpu.py",
    "test_training_view.py",
    "test_end_to_end.py", "test_fuzz.py", "test_tracking.py", "test_image_file.py",
    "test_datasets.py", "test_replaced.py", "test_torch_file.py", "test_layouts.py",
)  # fmt: skip

Run = Callable[[str], str]
Refusal = Callable[[Callable[[], object]], str]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: some tests wait. Each takes 12 s to load all files.

    With more than eight the end comes no sooner: the longest file then decides.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # macOS has none
    return min(1 + (len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1), 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files: no process of pytest-xdist then ends long after the others."""
    places = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray, prefix: str) -> None:
    """Write uint8 (N, 28, 28) and (N,) in MNIST's gzipped IDX format."""
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIII", 0x803, *images.shape)
    with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz", "wb") as file:
        file.write(header + images.tobytes())
    with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">II", 0x801, len(labels)) + labels.tobytes())


def write_real_subset(folder: Path, train: int, test: int) -> Path:
    """The first images of Fashion-MNIST, in its own format; returns the --data_dir."""
    for prefix, count in (("train", train), ("t10k", test)):
        with gzip.open(REAL_FASHION_MNIST / f"{prefix}-images-idx3-ubyte.gz") as file:
            images = np.frombuffer(file.read(16 + count * 784), np.uint8, offset=16)
        with gzip.open(REAL_FASHION_MNIST / f"{prefix}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(8 + count), np.uint8, offset=8)
        write_idx(folder / "FashionMNIST" / "raw", images.reshape(-1, 28, 28), labels, prefix)
    return folder


def write_images(folder: Path, names: tuple[str, ...], seed: int = 0) -> None:
    """Four images to train on and one to validate on, for each class; all of one size."""
    generator = np.random.default_rng(seed)
    for split, count in (("train", 4), ("val", 1)):
        for name in names:
            for number in range(count):
                path = folder / split / name / f"{number}.bmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(path)


def without_logs(stderr: str) -> str:
    """Leave out what torch's C++ code logs, such as that a machine has no name."""
    return re.sub(r"^\[W\d{4} .*\n", "", stderr, flags=re.MULTILINE)


@pytest.fixture
def needs_fake_gpu() -> None:
    """Leave a test out where torch cannot make the fake tensors of tests/fake_gpu.py."""
    if torch.__version__ < FIRST_TORCH:
        pytest.skip(f"before torch {FIRST_TORCH} fake tensors of a GPU need its driver")


@pytest.fixture
def needs_programs() -> None:
    """Leave a test out where the folder for temporary files may hold no programs."""
    folder = tempfile.gettempdir()
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):  # macOS does not say it
        pytest.skip(f"no program may start in {folder} (noexec): set TMPDIR to another folder")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_curves() -> None:
    """Trainings draw no curves: that takes longer than all else in a tiny training."""
    training.charts.draw_run = lambda *_: None


@pytest.fixture(scope="session", autouse=True)
def _no_sync() -> None:
    """Nothing waits for the disk: only after a loss of power would a file be another one."""
    os.fsync = lambda _: None
    os.sync = lambda: None


@pytest.fixture(autouse=True)
def _usual_logs() -> Iterator[None]:
    """A run of the program, also in a fixture, sets the level of all messages; tests do not."""
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    handlers = root.handlers[:]
    yield
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's files with 48 training and 20 test images: a square whose place is the class."""
    folder = tmp_path_factory.mktemp("datasets")
    for prefix, count in (("train", 48), ("t10k", 20)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            top, left = 14 * (label // 5), 5 * (label % 5)
            image[top : top + 10, left : left + 5] = 255
        write_idx(folder / "MNIST" / "raw", images, labels, prefix)
    return folder


@pytest.fixture(scope="session")
def tokenizer_file(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny VQ-GAN, trained by the command line for a few steps: 8 x 8 tokens, 16 codes."""
    output = tmp_path_factory.mktemp("tokenizer")
    main(
        f"--train_vae --dataset mnist --data_dir {data_dir} --output_dir {output} --n_epochs_vae 2 "
        f"--batch_size_vae 16 --no_wandb {TINY_VQGAN} {TINY_CODES}".split()
    )
    return output / "mnist" / "VQGAN_mnist.pt"


@pytest.fixture
def run(
    data_dir: Path, tokenizer_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the program in a fresh output folder; returns what it printed."""

    def call(arguments: str) -> str:
        capsys.readouterr()
        common = f"--data_dir {data_dir} --output_dir {tmp_path} --no_wandb --seed 1"
        main(f"{common} {arguments}".split())
        return capsys.readouterr().out

    return call


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Run the program with a mistake: it ends with code 2 and one line, which is returned."""

    def call(program: Callable[[], object]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            program()
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        return error

    return call


@pytest.fixture
def refused(run: Run, refusal: Refusal) -> Run:
    """Run the program as `run` does, with a mistake; returns the line that says so."""
    return lambda arguments: refusal(lambda: run(arguments))


@contextmanager
def stopped_at(stage: type, step: int) -> Iterator[None]:
    """A training in the block gets SIGTERM at this step, and ends."""
    train_step = stage.train_step

    def stopping(self: Any, number: int) -> Any:
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(self, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "train_step", stopping)
        with pytest.raises(SystemExit) as stop:
            yield
    assert stop.value.code == 128 + signal.SIGTERM


@pytest.fixture(scope="session")
def trained(data_dir: Path, tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a tiny transformer, trained by the command line."""
    output = tmp_path_factory.mktemp("trained")
    main(
        f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --data_dir {data_dir} "
        f"--output_dir {output} --no_wandb".split()
    )
    return output / "mnist"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, and an empty cache."""
    pytest.importorskip("huggingface_hub")
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.start())
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    import_again(monkeypatch)
    yield hub
    hub.stop()
