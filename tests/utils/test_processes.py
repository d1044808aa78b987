"""Several processes: the same training as one, and an end for all when one ends."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from itertools import chain, count, repeat
from pathlib import Path
from threading import Barrier, Event, Thread
from types import SimpleNamespace
from unittest.mock import Mock

import distributed_runs
import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import TINY_TRANSFORMER, without_logs, write_idx
from distributed_runs import forked
from tiny_stages import make_stage, token_set

from MaskGIT import main
from training.validation import validate
from utils.checkpoint import load_checkpoint, save_checkpoint, weights_digest
from utils.errors import UserError
from utils.processes import Processes, launched_processes

ROOT = Path(__file__).parents[2]
VARIANTS = {
    "plain": "--batch_size 12",
    "muon": "--batch_size 12 --optimizer muon",
}
UNEVEN = {"uneven": "--batch_size 10 --grad_accum 3"}
STOPPED = "plain"  # what the run that is stopped and continued is
STOP_STEP = 3


@pytest.fixture(scope="module")
def command(data_dir: Path, tokenizer_file: Path) -> Callable[..., str]:
    """The arguments of a training run of eight steps or so into a folder."""

    def call(folder: Path, name: str, options: str) -> str:
        return (
            f"--train --dataset mnist --n_epochs 2 --dropout_t 0 --lr 1e-2 {TINY_TRANSFORMER} "
            f"--checkpoint_vae {tokenizer_file} --data_dir {data_dir} --output_dir {folder} "
            f"--run_name {name} --no_wandb --device cpu --precision fp32 {options}"
        )

    return call


def read_idx(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Read what `write_idx` wrote."""
    kinds = ("images-idx3", "labels-idx1")
    files = [(folder / f"{prefix}-{kind}-ubyte.gz").read_bytes() for kind in kinds]
    images, labels = map(gzip.decompress, files)
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
    return pixels, np.frombuffer(labels, np.uint8, offset=8)


def other_pixels(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 255 - images, labels


def fewer(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return images[:-3], labels[:-3]


def other_labels(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return images, (labels + 1) % 10


UNEQUAL = [
    ("train", other_pixels, "contents of the training images: process 1 (RANK) has"),
    ("train", fewer, "number of the training images: process 1 (RANK) has 45,"),
    ("train", other_labels, "labels of the training images: process 1 (RANK) has"),
    ("t10k", fewer, "number of the validation images: process 1 (RANK) has 17,"),
]


@pytest.fixture(scope="module")
def launched(
    command: Callable[..., str],
    data_dir: Path,
    tokenizer_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess]:
    """One launch of torchrun: trainings of three processes that differ in what they read, and then
    one that is stopped.

    Returns:
        The folder with all that they wrote, and what they said.
    """
    folder = tmp_path_factory.mktemp("launched")
    plan = {"signal": (1, STOP_STEP, "SIGTERM"), "refused": []}
    for number, (prefix, change, _) in enumerate(UNEQUAL):
        data = folder / f"{number}data"
        for rank in range(3):
            shutil.copytree(data_dir, f"{data}{rank}", copy_function=shutil.copyfile)
        raw = Path(f"{data}1", "MNIST", "raw")
        write_idx(raw, *change(*read_idx(raw, prefix)), prefix)
        options = f"--batch_size 12 --data_dir {data}RANK"
        plan["refused"].append(command(folder / "out", "run", options))
    contents = load_checkpoint(tokenizer_file, "vqgan")
    entry = contents["tokenizer"]
    entry["weights"]["decoder.conv_out.bias"] += 1
    entry["fingerprint"] = weights_digest(entry["config"], entry["weights"])
    save_checkpoint(folder / "1.pt", "vqgan", contents)
    for rank in (0, 2):
        shutil.copy(tokenizer_file, folder / f"{rank}.pt")
    options = f"--batch_size 12 --checkpoint_vae {folder}/RANK.pt"
    plan["refused"].append(command(folder / "out", "run", options))
    plan["runs"] = [command(folder / "stopped", "stopped", VARIANTS[STOPPED])]
    (folder / "plan.json").write_text(json.dumps(plan))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"]
    return folder, subprocess.run(
        [sys.executable, *torchrun, distributed_runs.__file__, folder / "plan.json"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def folders(
    launched: tuple[Path, subprocess.CompletedProcess],
    command: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[int, Path]:
    """Output folders by number of processes: every variant, and one run stopped and continued."""
    folders = {size: tmp_path_factory.mktemp(f"processes_{size}") for size in (1, 3)}
    for size, folder in folders.items():
        shutil.copytree(launched[0] / "stopped" / "stopped", folder / "stopped")
        runs = [command(folder, *variant) for variant in {**VARIANTS, **UNEVEN}.items()]
        runs[0] += " --sample --num_samples 5"
        runs.append(command(folder, "stopped", f"{VARIANTS[STOPPED]} --resume"))
        if size == 1:
            for arguments in runs:
                main(arguments.split())
        else:
            result = forked(size, runs=runs)
            assert result.returncode == 0, result.stderr
            assert result.stdout.count("epoch 2/2") == len(runs)
    return folders


def numbers(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    varying = ("train/images_per_second", "checksum")
    return [{k: v for k, v in row.items() if k not in varying} for row in rows]


def state(run: Path) -> dict[str, dict]:
    return load_checkpoint(run / "resume_maskgit.pt", "maskgit-resume")["stage"]


def assert_close(one: dict, other: dict) -> None:
    """Compare nested states up to the order of summation."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_close(value, other[name])
        elif name.endswith("qkv.bias"):
            # The softmax ignores the keys' bias: its gradient is rounding, which AdamW scales up.
            for row in (0, 2):
                ours, theirs = (bias.unflatten(0, (3, -1))[row] for bias in (value, other[name]))
                assert_almost_all_close(ours, theirs)
        elif isinstance(value, torch.Tensor):
            assert_almost_all_close(value, other[name])


def assert_almost_all_close(one: torch.Tensor, other: torch.Tensor) -> None:
    """Where a gradient is next to nothing AdamW scales up its rounding: such elements are few."""
    close = torch.isclose(one, other, rtol=1e-4, atol=2e-5)
    assert close.float().mean() > 0.99
    torch.testing.assert_close(one, other, rtol=1e-2, atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VARIANTS, *UNEVEN, "stopped"])
def test_processes_train_as_one(folders, name):
    expected, found = numbers(folders[1] / name), numbers(folders[3] / name)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, expected_row in zip(found, expected, strict=True):
        assert row == pytest.approx(expected_row, rel=2e-5, abs=1e-6)
    assert_close(state(folders[3] / name), state(folders[1] / name))


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_any_number_of_processes(folders):
    for folder in folders.values():
        assert_close(state(folder / "stopped"), state(folders[1] / STOPPED))
    # With as many as before, and on the CPU, bit for bit.
    resumed, straight = (state(folders[3] / name) for name in ("stopped", STOPPED))
    for kind in ("model", "ema"):
        for name, value in straight[kind].items():
            assert value.equal(resumed[kind][name]), name


@pytest.mark.slow
def test_processes_share_the_tokens(folders):
    for cache in (folders[1] / "tokens").glob("mnist-*"):
        for file in ("tokens.npy", "labels.npy"):
            found = np.load(folders[3] / "tokens" / cache.name / file)
            assert np.array_equal(found, np.load(cache / file))
    samples = folders[3] / "plain" / "samples"
    assert len(list((samples / "images").glob("*.png"))) == 5
    assert not list(folders[3].rglob("*partial*"))


@pytest.mark.slow
def test_a_stopped_process_stops_all(launched):
    _, result = launched
    assert "exitcode  : 143" in result.stderr, result.stderr
    assert result.stdout.count("stopped by a signal") == 1


@pytest.mark.slow
def test_a_killed_process_ends_the_job(command, tmp_path):
    run = command(tmp_path, "run", VARIANTS["plain"])
    result = forked(2, runs=[run], signal=(0, 2, "SIGKILL"), grace=0)
    assert result.returncode == -signal.SIGKILL
    assert "another process of this job has ended" in result.stderr
    assert not (tmp_path / "run" / "MaskGIT_mnist.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "said", [*(said for *_, said in UNEQUAL), "tokenizer: process 1 (RANK) has"]
)
def test_processes_that_read_other_files_end_at_once(launched, said):
    _, result = launched
    line = f"MaskGIT.py: error: the processes differ in the {said}"
    assert result.stderr.count(line) == 3, result.stderr  # said by all
    assert 'Traceback (most recent call last):\n  File "' + str(ROOT) not in result.stderr


@pytest.mark.slow
def test_refused_processes_have_written_nothing(launched):
    folder, _ = launched
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_stage_1_is_refused_once(tmp_path):
    result = forked(2, runs=[f"--train_vae --dataset mnist --output_dir {tmp_path}"])
    said = without_logs(result.stderr)
    assert said.startswith("MaskGIT.py: error: --train_vae uses one process")
    assert said.count("\n") == 1
    assert result.returncode == 2


# --- Without a launch ---


def test_what_processes_have_is_compared(monkeypatch):
    def gather(found, mine):
        found[:] = [{"seed": 1, "names": ["a", "b"]}, mine, {"seed": 1, "names": ["a"]}]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    Processes().check_equal({"names": 1})
    with pytest.raises(UserError, match=r"names: process 2 \(RANK\) has a, process 0 has a b"):
        Processes(1, 3).check_equal({"seed": 1, "names": ["a", "b"]})
    with pytest.raises(UserError, match=r"seed: process 1 \(RANK\) has 4, process 0 has 1"):
        Processes(1, 3).check_equal({"seed": 4, "names": ["a", "b"]})


@pytest.mark.parametrize(
    ("main", "mine", "said"),
    [
        ("a" * 999, "b", r"has b, process 0 has a{100};"),
        ("b", "a" * 999, r"has a{100}, process 0 has b;"),
    ],
)
def test_of_long_values_only_the_beginning_is_said(monkeypatch, main, mine, said):
    def gather(found, mine):
        found[:] = [{"names": main}, mine]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    with pytest.raises(UserError, match=said):
        Processes(1, 2).check_equal({"names": mine})


def test_numbers_are_compared_and_tensors_are_added_over_the_processes(monkeypatch):
    def reduce(mine, op=dist.ReduceOp.SUM):
        both = torch.stack([mine, torch.tensor([9, 0])])
        mine.copy_(both.amax(0) if op == dist.ReduceOp.MAX else both.sum(0))

    monkeypatch.setattr(dist, "all_reduce", reduce)
    assert Processes(1, 2).largest(3, 5) == [9, 5]
    assert Processes().largest(3, 5) == [3, 5]
    mine = torch.tensor([3, 5])
    assert Processes().add_up(mine).tolist() == [3, 5]
    assert Processes(1, 2).add_up(mine) is mine
    assert mine.tolist() == [12, 5]


class Alone(Processes):
    """One of several, whose sums and exchanges stay its own."""

    def add_up(self, tensor):
        return tensor

    def share_gradients(self, module):
        return module


@pytest.mark.parametrize(("count", "size"), [(12, 1), (12, 3), (10, 3), (2, 3), (0, 2)])
def test_shares_are_even_and_cover_everything(count, size):
    shares = [range(count)[Processes(rank, size).share(count)] for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(count))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_a_global_batch_is_drawn_and_sliced():
    whole, num_hidden = make_stage(train=token_set(views=4), batch_size=10).draw_batch(7)
    parts = []
    for rank in range(3):
        stage = make_stage(train=token_set(views=4), batch_size=10, processes=Alone(rank, 3))
        batches, hidden_in_all = stage.draw_batch(7)
        assert hidden_in_all == num_hidden
        parts += batches
    for field in ("inputs", "labels", "targets"):
        together = torch.cat([getattr(part, field) for part in parts])
        assert together.equal(getattr(whole[0], field)), field


def test_validation_counts_every_image_once():
    def sums_of(rank, size):
        class Recording(Processes):
            def add_up(self, tensor):
                sums.append(tensor.clone())
                return tensor

        sums, stage = [], make_stage()
        network, tokens = stage.ema.module, stage.validation_tokens
        validate(network, tokens, 7, torch.float32, Recording(rank, size))
        return sums[0]

    expected = sums_of(0, 1)
    total = sum(sums_of(rank, 3) for rank in range(3))
    assert total[1:].equal(expected[1:])  # counts
    torch.testing.assert_close(total, expected)


def test_dropout_differs_between_processes():
    losses = set()
    for rank in range(2):
        stage = make_stage(dropout=0.5, processes=Alone(rank, 2))
        stage.processes = Alone(rank, 1)  # the whole batch in each: nothing else can differ
        losses.add(stage.train_step(0)["loss"].item())
    assert len(losses) == 2


def test_a_launcher_is_recognized(monkeypatch):
    assert launched_processes() == Processes()
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launched_processes() == Processes(5, 8, 1)
    with pytest.raises(UserError, match="MASTER_ADDR"):
        Processes(5, 8, 1).connected(torch.device("cpu")).__enter__()
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(UserError, match="RANK=8 in the environment is not below WORLD_SIZE=8"):
        launched_processes()
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UserError, match="RANK=first in the environment is not a number"):
        launched_processes()


@pytest.fixture
def connections(monkeypatch):
    """What a process of two connects with, and whether it disconnects."""
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    found = []

    def connect(backend, timeout):
        found.append(backend)
        assert timeout == timedelta(minutes=30)  # as docs/several_gpus.md says

    monkeypatch.setattr("torch.distributed.init_process_group", connect)
    monkeypatch.setattr("utils.processes._disconnect", lambda: found.append("end"))
    return found


def connected(error=None, device="cpu"):
    with Processes(1, 2, 1).connected(torch.device(device)):
        if error is not None:
            raise error


def test_a_process_that_another_one_has_left_says_so(connections):
    lost = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:40000"
    with pytest.raises(UserError, match="another process of this job has ended"):
        connected(RuntimeError(lost))
    with pytest.raises(RuntimeError, match="a mistake"):
        connected(RuntimeError("a mistake"))
    assert connections == ["gloo", "gloo"]


def test_processes_that_end_or_are_stopped_disconnect(connections):
    connected()
    with pytest.raises(SystemExit):
        connected(SystemExit(143))
    assert connections == ["gloo", "end"] * 2


def test_a_gpu_for_two_processes_is_found_when_they_connect(monkeypatch, connections):
    def gather(found, own):
        found[:] = [own, own]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    one = SimpleNamespace(uuid="GPU-1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: one)
    with pytest.raises(UserError, match="processes 0 and 1 share one GPU"):
        connected(device="cuda:0")
    assert connections == ["cpu:gloo,cuda:nccl"]


@pytest.fixture
def two(monkeypatch):
    """Threads stand for two processes; gives the order of what happens, and a sign.

    The sign is given when process 1 has come back from five collectives in which 0 was at work.
    """
    monkeypatch.setattr("utils.processes.BEAT_SECONDS", 0.001)
    monkeypatch.setattr("torch.distributed.broadcast_object_list", lambda *_, **__: None)
    meeting, votes, order, has_waited = Barrier(2, timeout=60), [0, 0], [], Event()

    def largest(self, vote):
        votes[self.rank] = vote
        meeting.wait()
        found = max(votes)
        meeting.wait()
        order.append((self.rank, found))
        if order.count((1, 1)) == 5:
            has_waited.set()
        return [found]

    monkeypatch.setattr(Processes, "largest", largest)
    return order, has_waited


def test_the_others_wait_as_long_as_the_main_process_works_alone(two):
    order, has_waited = two

    def other():
        with Processes(1, 2).main_first():
            order.append("the other")

    thread = Thread(target=other)
    thread.start()
    with Processes(0, 2).main_first():
        assert has_waited.wait(60)
        order.append("main")
    thread.join(60)
    said = [event for event in order if isinstance(event, str)]
    assert said == ["main", "the other"]


def test_the_others_wait_as_long_as_the_main_process_computes_for_all(two):
    order, has_waited = two
    thread = Thread(target=lambda: Processes(1, 2).from_main(lambda: order.append("never")))
    thread.start()
    assert Processes(0, 2).from_main(lambda: has_waited.wait(60) and 7) == 7
    thread.join(60)
    assert "never" not in order


def test_the_fastest_waits_for_the_slowest_however_long_that_takes(two):
    order, has_waited = two

    def fast():
        with Processes(1, 2).together():
            order.append("fast")
        order.append("both are done")

    thread = Thread(target=fast)
    thread.start()
    with Processes(0, 2).together():
        assert has_waited.wait(60)
        order.append("slow")
    thread.join(60)
    assert [event for event in order if isinstance(event, str)] == ["fast", "slow", "both are done"]


def test_long_work_ends_soon_after_another_process(monkeypatch):
    monkeypatch.setattr("utils.processes.BEAT_SECONDS", 0.001)
    lost = RuntimeError("Connection closed by peer")
    monkeypatch.setattr(Processes, "largest", Mock(side_effect=[[1], [1], lost]))
    with pytest.raises(RuntimeError, match="closed"), Processes(1, 2).together() as while_all_run:
        for _ in while_all_run(count()):  # without an end
            pass
    with Processes().together() as while_all_run:
        assert list(while_all_run(range(3))) == [0, 1, 2]


def test_a_process_that_fails_does_not_wait_for_the_work_of_the_others(monkeypatch):
    largest = Mock(side_effect=chain(repeat([1], 100), repeat([0])))
    monkeypatch.setattr(Processes, "largest", largest)
    with pytest.raises(UserError, match="full"), Processes(1, 2).together():
        raise UserError("the disk is full")
    assert largest.call_count < 100


def test_what_the_main_process_raises_alone_is_raised(monkeypatch):
    monkeypatch.setattr(Processes, "largest", Mock(side_effect=RuntimeError("the other is gone")))
    with pytest.raises(UserError, match="no such folder"), Processes(0, 2).main_first():
        raise UserError("no such folder")
    with pytest.raises(RuntimeError, match="the other is gone"), Processes(0, 2).main_first():
        pass


def test_processes_need_gpus_of_their_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert Processes(3, 4, 1).own_device(gpu) == torch.device("cuda:1")
    # torch.cuda.set_device takes no device without an index.
    assert Processes().own_device(gpu) == torch.device("cuda:0")
    assert Processes().own_device(torch.device("cuda:1")) == torch.device("cuda:1")
    assert Processes(1, 4, 3).own_device(cpu) == cpu
    with pytest.raises(UserError, match="it sees 2"):
        Processes(2, 4, 2).own_device(gpu)
    # As srun with gpus-per-task=1 shows it to each.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Processes(3, 4, 3).own_device(gpu) == torch.device("cuda:0")
    with pytest.raises(UserError, match="`device` cuda:0"):
        Processes(1, 4, 1).own_device(torch.device("cuda:0"))


@pytest.mark.parametrize(
    ("gpus", "said"), [("ABCD", None), ("ABCB", "processes 1 and 3 share one")]
)
def test_two_processes_on_one_gpu_are_refused(monkeypatch, gpus, said):
    def gather(found, own):
        assert own == "B"
        found[:] = gpus

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(UserError, match=said) if said else nullcontext():
        Processes(1, 4, 1)._check_gpus("B")


def test_a_mistake_is_told_by_the_main_process(monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(
        "utils.launch.time.sleep", lambda seconds: waited.append(capsys.readouterr())
    )
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main(["--train", "--batch_size", "none"])
    assert stop.value.code == 2
    assert waited == [("", "")]  # nothing was said until then
    assert "--batch_size" in capsys.readouterr().err


def test_more_processes_than_images_in_a_step():
    Processes(size=3).check_share(3)
    with pytest.raises(UserError, match="2 images"):
        Processes(size=3).check_share(2)
