"""CUDA graphs: a GPU repeats recorded work. Their CPU twin records torch's operations."""

import json
import logging
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from functools import partial
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from conftest import TRAIN_TINY
from cuda_graph_twin import FREE_MEMORY, TwinGraph, cuda_graphs_on_cpu, tensors
from fake_gpu import GPU, fake_gpu
from tiny_stages import CLASSES, SHAPE, VQGAN, L, make_stage, token_set
from torch.utils._python_dispatch import TorchDispatchMode

from commands import resolve
from data.token_set import TokenSet
from models import generator
from models.dimo.student import DimoConfig
from models.generator import ImageSeries
from models.maskgit.config import TransformerConfig
from models.model import Model
from models.open import families_of, new_transformer
from models.predictors import prepare_decoding
from models.samplers import SAMPLERS
from models.sampling import SamplingConfig
from models.schedules import GUIDANCE_SCHEDULES
from models.steps import KnownTokens
from models.tokenizer import Tokenizer
from models.vqgan.network import VQModel
from training import transformer_stage
from training.config import TrainingConfig
from training.transformer_stage import MaskGITStage
from utils import cuda_graphs
from utils.cuda_graphs import CudaGraphs, has_cuda_graphs

BF16 = torch.bfloat16
STEPS = 12


@pytest.fixture
def graphs() -> Iterator[type[TwinGraph]]:
    with cuda_graphs_on_cpu() as counts:
        yield counts


# --- The twin ---


def test_a_recording_repeats_operations_and_numbers(graphs):
    """So the twin finds a number that changes but was recorded."""
    total, runs, number = torch.zeros(3), CudaGraphs(True), 1

    def work() -> torch.Tensor:
        total.add_(given).mul_(number)
        return total[:2] * 1

    for given in (torch.ones(3), torch.full((3,), 2.0), torch.full((3,), 5.0)):
        result = runs.run("sum", [given], work)
        number += 1
    assert total.tolist() == [22] * 3  # ((0 + 1) * 1 + 2) * 2 + 5, and times 2 again, not 3
    assert result.tolist() == [22] * 2
    assert (graphs.made, graphs.replayed) == (1, 2)


def test_a_read_of_a_value_cannot_be_recorded(graphs, caplog):
    caplog.set_level(logging.INFO)
    runs, value = CudaGraphs(True), torch.ones(1)
    for _ in range(3):
        assert runs.run("read", [value], lambda: value * value.item()).equal(value)
    assert not runs.is_on
    assert caplog.messages == [
        "CUDA graphs do not work here (operation not permitted when stream is capturing): "
        "continuing without them"
    ]


def test_memory_that_a_recording_reads_must_stay(graphs):
    runs, given = CudaGraphs(True), torch.ones(1)
    for _ in range(2):
        numbers = torch.ones(1)
        runs.run("sum", [given], lambda numbers=numbers: given + numbers)
    del numbers
    with pytest.raises(AssertionError, match="memory that was freed"):
        runs.run("sum", [given], MagicMock)


# --- The recordings ---


def test_a_result_does_not_change_later(graphs):
    runs = CudaGraphs(True)
    numbers = [torch.full((1,), float(value)) for value in range(4)]
    results = [runs.run("double", [one], lambda one=one: one * 2) for one in numbers]
    assert [one.item() for one in results] == [0, 2, 4, 6]
    assert graphs.replayed == 3


def test_amd_gpus_record_nothing(monkeypatch):
    assert has_cuda_graphs(GPU)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not has_cuda_graphs(GPU)


def test_a_thread_records_after_it_has_run_plainly(graphs):
    """Libraries set themselves up once in each thread."""
    runs, ones = CudaGraphs(True), torch.ones(1)

    def made() -> int:
        runs.run("double", [ones], lambda: ones * 2)
        return graphs.made

    with ThreadPoolExecutor(1) as other:
        assert [made(), other.submit(made).result(), other.submit(made).result()] == [0, 0, 1]
    assert made() == 1
    assert graphs.replayed == 2


def test_a_recording_is_made_on_the_device_of_its_inputs(needs_fake_gpu, monkeypatch):
    """Work of a device that is not the current one would be done, and not recorded."""
    current, streams = [GPU], []

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    def graph(graph: object, pool: object, stream: torch.device, mode: str) -> nullcontext:
        streams.append((current[-1], stream))
        return nullcontext()

    with fake_gpu():
        values = {"CUDAGraph": MagicMock, "graph": graph, "device": on, "Stream": lambda one: one}
        for name, value in values.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        second = torch.device("cuda", 1)
        ones, runs = torch.ones(1, device=second), CudaGraphs(True)
        for _ in range(2):
            runs.run("double", [ones], lambda: ones * 2)
    assert streams == [(second, second)]


def test_recordings_share_memory_while_one_of_them_lives(graphs, monkeypatch):
    """torch forgets a pool with its last graph."""
    handles, pools, record = iter([(0, 1), (0, 2)]), [], torch.cuda.graph
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    monkeypatch.setattr(
        torch.cuda, "graph", lambda graph, pool, *rest: pools.append(pool) or record(graph)
    )
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    runs = CudaGraphs(True)
    for size in (1, 1, 2, 2, 3, 4, 4):  # the first two make room
        runs.run("ones", [torch.ones(size)], lambda size=size: torch.ones(size))
    assert pools == [(0, 1), (0, 1), (0, 2)]


def test_a_recording_leaves_memory_for_other_work(graphs, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    reserved, ones = iter([10, 2 * FREE_MEMORY]), torch.ones(1)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: next(reserved, 0))
    runs = CudaGraphs(True)
    for _ in range(3):
        assert runs.run("double", [ones], lambda: ones * 2).item() == 2
    assert not runs.is_on
    assert "too little memory" in caplog.text


def test_a_failed_recording_leaves_no_memory(graphs, monkeypatch):
    """Neither while its error is handled, nor where the driver refused it."""
    given, earlier, ended = torch.ones(1), [], MagicMock(side_effect=RuntimeError)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", ended)

    def work() -> torch.Tensor:
        assert all(one() is None for one in earlier)
        large = given * 2
        earlier.append(weakref.ref(large))
        return large * given.item()

    runs = CudaGraphs(True)
    for _ in range(3):
        assert runs.run("read", [given], work).item() == 2
    assert len(earlier) == 4
    assert graphs.made == 2  # the end of the second one resets the random numbers
    ended.assert_called_once_with(None, (0, 1))


def test_each_shape_has_a_recording_and_the_oldest_makes_room(graphs, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    runs = CudaGraphs(True)
    for size in (1, 2, 1, 2, 1, 2):
        ones = torch.ones(size)
        assert runs.run("double", [ones, None], lambda ones=ones: ones * 2).equal(ones * 2)
    assert (graphs.made, graphs.replayed) == (2, 4)
    for size in (3, 1, 1, 1):
        runs.run("double", [torch.ones(size)], lambda size=size: torch.ones(size))
    assert (graphs.made, graphs.replayed) == (3, 6)


# --- Training ---


def stages(**options):
    """A stage that records its steps, and one that does the same plainly."""
    recorded, plain = (
        make_stage(token_set(80, views=2), cuda_graphs=True, **options) for _ in range(2)
    )
    plain._graphs.run = lambda kind, inputs, work: work()
    return recorded, plain


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.1},
        {"dropout": 0.1, "precision": BF16, "optimizer": "muon"},
        {"grad_accum": 3, "label_smoothing": 0.1, "grad_clip": 0.1},
        {"grad_accum": 2, "precision": BF16, "freeze": ("blocks.0.*",)},
    ],
)
def test_recorded_training_has_the_bits_of_plain_training(graphs, options):
    recorded, plain = stages(**options)
    for step in range(STEPS):
        expected, found = plain.train_step(step), recorded.train_step(step)
        assert all(found[name].equal(value) for name, value in expected.items())
    for name, network in plain.networks.items():
        state = recorded.networks[name].state_dict()
        assert all(state[key].equal(value) for key, value in network.state_dict().items())
    assert graphs.replayed > graphs.made > 0


NUMBERS = {
    **SHAPE, "codebook_size": 16, "num_classes": CLASSES, "seq_len": 16, "grid": (4, 4),
    "splits": 2, "embed_dim": 32,
}  # fmt: skip


@pytest.mark.parametrize("family", families_of("transformer"), ids=lambda family: family.name)
def test_every_family_is_recorded_unless_it_waits(graphs, monkeypatch, family):
    names = {field.name for field in fields(family.config)}
    config = family.config(**{name: NUMBERS[name] for name in names & NUMBERS.keys()})
    numbers = np.random.default_rng(0).integers(0, config.codebook_size, (2, 40, config.seq_len))
    tokens = TokenSet(numbers.astype(np.uint16), np.arange(40) % CLASSES)
    label_drop = 0.0 if config.null_class is None else 0.1
    training = TrainingConfig(epochs=4, batch_size=8, lr=1e-2, label_drop=label_drop)
    monkeypatch.setattr(transformer_stage, "row_multiple", lambda *_: 128)  # all positions
    recorded, plain = (
        MaskGITStage(
            config, training, tokens, tokens, device=torch.device("cpu"), precision=BF16,
            checkpoint_entries={}, preview=lambda *_: None, cuda_graphs=on,
        )
        for on in (True, False)
    )  # fmt: skip
    for step in range(4):
        expected, found = plain.train_step(step), recorded.train_step(step)
        assert all(found[name].equal(value) for name, value in expected.items())
    assert recorded._graphs.is_on == (graphs.replayed == 3) == (not recorded.model.waits)
    if recorded.model.waits:
        return
    runs, network = CudaGraphs(True), recorded.model.eval()
    for seed in range(3):
        one = prepare_decoding(
            network, np.arange(5) % CLASSES, np.arange(5), SamplingConfig(4, guidance=0.0), seed
        )
        inputs = [one.tokens, one.hidden, one.labels, *one.noise]
        assert runs.run("all", inputs, one.result).equal(one.result())
    assert runs.is_on


def test_few_recordings_serve_all_steps(graphs):
    (recorded, _), count = stages(batch_size=64), 0
    for step in range(40):
        (part,), _ = recorded.draw_batch(step)
        assert len(part.at) % (64 * L // 16) == 0
        recorded.train_step(step)
        count += 1
    assert graphs.made <= 4
    assert graphs.replayed >= count - 8


def test_training_goes_on_where_recording_fails(graphs, monkeypatch):
    """The failure comes in the middle of a backward pass."""
    recorded, plain = stages(precision=BF16)
    hand_over, recording = recorded._copy.hand_over_gradients, []

    def fail() -> None:
        if recording and recorded._graphs.is_on:
            raise torch.OutOfMemoryError("out of memory")
        hand_over()

    record = recorded._graphs._record
    monkeypatch.setattr(recorded._copy, "hand_over_gradients", fail)
    monkeypatch.setattr(
        recorded._graphs, "_record", lambda *given: recording.append(1) or record(*given)
    )
    monkeypatch.setattr(transformer_stage, "row_multiple", lambda *_: 24)  # before and after it
    for step in range(STEPS):
        expected, found = plain.train_step(step), recorded.train_step(step)
        assert all(found[name].equal(value) for name, value in expected.items())
    assert recording
    assert not recorded._graphs.is_on


# --- Sampling ---


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    tokenizer = Tokenizer(VQModel(VQGAN))
    config = TransformerConfig(VQGAN.codebook_size, CLASSES, VQGAN.seq_len, **SHAPE)
    return Model(new_transformer(config).eval(), tokenizer, "toy", ("a", "b", "c"))


LENGTH = VQGAN.seq_len


CASES = [
    *({"sampler": name} for name in SAMPLERS),
    *({"guidance_schedule": name} for name in GUIDANCE_SCHEDULES),
    {"guidance": 0.0},
    {"start_share": 0.25},
    {"start_token": -1},
    {"start_token": 3, "logit_scale": 0.9, "first_logit_scale": 0.5},
    {"known": KnownTokens(torch.zeros(LENGTH, dtype=torch.int64), torch.arange(LENGTH) < 9)},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
@pytest.mark.parametrize("parts", [1, 2])
def test_recorded_images_are_those_of_plain_sampling(graphs, model, monkeypatch, case, parts):
    recorded, plain = replace(model), model
    recorded.cuda_graphs.is_on = True
    monkeypatch.setattr(generator, "MOST_LOGITS", 4 * LENGTH * VQGAN.codebook_size // parts)
    known = case.get("known")
    settings = {name: value for name, value in case.items() if name != "known"}
    labels = [0, 1, 2, 2, 1, 0, 0, 0, 3, 1, 1]  # the last block is padded
    series = ImageSeries(labels, SamplingConfig(4, **settings), 5, 0, 4, known)
    shown: list[float] = []
    found = [images for images, _ in recorded.sample_blocks(series, advance=shown.append)]
    expected = [images for images, _ in plain.sample_blocks(series)]
    assert all(map(np.array_equal, found, expected))
    assert (graphs.made, graphs.replayed) == (2, 3 * parts - 1 + 2)  # tokens, and pixels
    assert sum(shown) == pytest.approx(len(labels))


def test_a_model_that_moves_forgets_recordings_of_the_old_place(graphs, model):
    moved = replace(model)
    moved.cuda_graphs.is_on = True
    for seed in range(3):
        moved.sample([0, 1], seed=seed, num_steps=2)
    assert graphs.replayed
    before, _ = moved.cuda_graphs, moved.to("cpu", "fp32")
    assert moved.cuda_graphs is not before


def test_a_network_that_reads_a_value_is_not_recorded(model, monkeypatch):
    monkeypatch.setattr(generator, "has_cuda_graphs", lambda device: True)
    config = DimoConfig(VQGAN.codebook_size, CLASSES, VQGAN.seq_len, **SHAPE)
    assert replace(model).cuda_graphs.is_on
    assert not replace(model, transformer=new_transformer(config)).cuda_graphs.is_on


# --- On a GPU ---


class OnTheGPU(TorchDispatchMode):
    """Refuses what cannot be recorded: a copy from the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls = getattr(self, "calls", 0) + 1
        for one in tensors(args):
            assert one.device == GPU or one.dim() == 0, f"{func} needs the host"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def recorded(needs_fake_gpu, monkeypatch) -> Iterator[OnTheGPU]:
    """On a fake GPU; yields what sees the operations of recordings."""
    mode = OnTheGPU()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", MagicMock)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: mode)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", MagicMock)
    with fake_gpu():
        yield mode


@pytest.mark.parametrize("precision", [torch.float32, BF16])
def test_a_training_step_copies_nothing_while_it_is_recorded(recorded, monkeypatch, precision):
    monkeypatch.setattr(transformer_stage, "row_multiple", lambda *_: 72)  # one kind of step
    stage = make_stage(dropout=0.1, device=GPU, precision=precision, cuda_graphs=True)
    for step in range(3):
        stage.train_step(step)
    assert stage._graphs.is_on
    assert recorded.calls > 100


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start", [{}, {"start_share": 0.5}, {"start_token": -1}])
def test_a_decoding_copies_nothing_while_it_is_recorded(recorded, sampler, start):
    network, graphs = make_stage(device=GPU).model.eval(), CudaGraphs(True)
    config = SamplingConfig(num_steps=4, sampler=sampler, **start)
    for seed in range(3):
        one = prepare_decoding(network, np.arange(5) % CLASSES, np.arange(5), config, seed)
        graphs.run("all", [one.tokens, one.hidden, one.labels, *one.noise], one.result)
    assert graphs.is_on
    assert recorded.calls > 100


def test_pixels_copy_nothing_while_they_are_recorded(request):
    tokenizer = Tokenizer(VQModel(VQGAN))  # hashed, so it needs its values
    mode, graphs = request.getfixturevalue("recorded"), CudaGraphs(True)
    tokenizer.to(GPU)
    for _ in range(3):
        tokens = torch.zeros(2, LENGTH, dtype=torch.int64, device=GPU)
        graphs.run("pixels", [tokens], partial(tokenizer.decode_sampled, tokens, BF16))
    assert graphs.is_on
    assert mode.calls > 20


# --- On the command line ---


def test_a_lack_of_memory_on_a_gpu_names_what_needs_less(refused, trained, monkeypatch):
    monkeypatch.setattr("models.model.Model.sample_blocks", MagicMock(side_effect=MemoryError))
    sample = f"--sample --num_samples 2 --checkpoint {trained}/MaskGIT_mnist.pt"
    assert "--compile off" not in refused(sample)
    monkeypatch.setattr(resolve, "torch", MagicMock())  # with a GPU in use
    assert "or give --compile off" in refused(sample)
    assert "--compile off" not in refused(f"{sample} --compile off")


def test_compile_decides_whether_work_is_recorded(
    run, graphs, trained, tokenizer_file, tmp_path, monkeypatch
):
    for module in (resolve, generator):
        monkeypatch.setattr(module, "has_cuda_graphs", lambda device: True)
    model = f"{trained}/MaskGIT_mnist.pt"
    train = f"--train {TRAIN_TINY} --checkpoint_vae {tokenizer_file} --precision fp32"
    sample = f"--sample --checkpoint {model} --num_samples 40 --batch_size 8"
    losses, samples = [], []
    for how in ("auto", "off"):
        for command in (train, sample):
            replayed = graphs.replayed
            run(f"{command} --run_name {how} --output_dir {tmp_path / how} --compile {how}")
            assert (graphs.replayed > replayed) == (how == "auto")
        rows = (tmp_path / how / how / "metrics.jsonl").read_text().splitlines()
        losses.append([row["train/loss"] for row in map(json.loads, rows) if "train/loss" in row])
        samples.append(np.load(next((tmp_path / how).rglob("samples.npz")))["arr_0"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert np.array_equal(*samples)
