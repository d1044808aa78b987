"""The benchmarks' baseline computes what our path computes; their counts are right; all run."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY_SIZE
from tiny_stages import CountingStage
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import large, launches, record, speed
from benchmarks.baseline import PlainTransformer, Trainer, sample
from benchmarks.launches import operations, read_trace
from benchmarks.measure import forward_flops, training_flops
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from models.sampling import SamplingConfig
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel

CPU = torch.device("cpu")
CONFIG = TransformerConfig(
    codebook_size=16, num_classes=3, seq_len=16, embed_dim=8, hidden_dim=32, heads=4, depth=2,
    mlp_dim=48,
)  # fmt: skip


@pytest.fixture
def plain():
    torch.manual_seed(0)
    ours = MaskedTransformer(CONFIG).eval()
    plain = PlainTransformer(CONFIG).eval()
    plain.load_ours(ours)
    return ours, plain


@pytest.fixture
def vqgan():
    config = VQGANConfig(
        image_size=16, channels=32, z_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1,
        attn_resolutions=(), n_embed=16, embed_dim=8,
    )  # fmt: skip
    return VQModel(config).eval().requires_grad_(False)


def test_the_baseline_has_the_same_logits(plain):
    ours, plain = plain
    tokens, labels = torch.randint(0, 17, (5, 16)), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(plain(tokens, labels), ours(tokens, labels), atol=1e-5, rtol=0)


def test_the_baseline_learns_and_samples(plain, vqgan):
    _, plain = plain
    trainer = Trainer(plain, vqgan)
    images, labels = torch.randn(8, 1, 16, 16).tanh(), torch.arange(8) % 3
    losses = [trainer.step(images, labels) for _ in range(200)]
    assert sum(losses[-20:]) < sum(losses[:20])
    made = sample(plain, vqgan, labels, SamplingConfig(num_steps=4), [1, 3, 5, 7])
    assert made.shape == images.shape
    assert made.std() > 0


@pytest.mark.parametrize("embed_dim", [CONFIG.embed_dim, CONFIG.hidden_dim])
def test_operations_are_those_that_torch_counts(embed_dim):
    config = replace(CONFIG, embed_dim=embed_dim)
    ours = MaskedTransformer(config).eval()
    tokens, labels = torch.zeros(1, 16, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    math_attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math_attention, FlopCounterMode(display=False) as counter:
        ours(tokens, labels)
    assert forward_flops(config, 16) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_record_is_a_row(monkeypatch, data_dir, tokenizer_file, tmp_path, capsys):
    own = f"--checkpoint_vae {tokenizer_file} --data_dir {data_dir} --output_dir {tmp_path}"
    monkeypatch.setattr(record, "TASK", f"--train --dataset mnist --batch_size 16 {own}")
    options = "--transformer modern --hidden_dim 8 --heads 2 --depth 1 --mlp_dim 8"
    monkeypatch.setattr(sys, "argv", ["record.py", "--steps", "2", *options.split()])
    monkeypatch.setenv("GIT_DIR", str(tmp_path))  # as in an archive of the source, without git
    record.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    titles, _, row = ([*map(str.strip, line.split("|"))] for line in printed)
    found = dict(zip(titles, row, strict=True))
    assert (found["family"], found["steps"], found["options"]) == ("modern", "2", f"`{options}`")
    assert found["commit"] == "unknown"
    assert float(found["loss"].split(",")[0]) > 0
    assert not (tmp_path / "mnist").exists()  # it is not a run


@pytest.fixture
def few_tokens(monkeypatch):
    """Eight images of a batch, so that a step takes milliseconds."""
    monkeypatch.setattr(speed, "TOKENS_PER_BATCH", 8 * 64)


@pytest.fixture
def bench(few_tokens):
    return speed.Bench(CPU, torch.float32, "auto", False, 32)


def each_once(works, device, rounds):
    """Stands in for `interleaved`: every work runs, and takes a second, ours the half."""
    for work in works.values():
        work()
    return {name: 0.5 if name.startswith("ours") else 1.0 for name in works}


def test_a_table_of_speed_has_every_work(bench, monkeypatch, capsys):
    monkeypatch.setattr(speed, "peak_of", lambda *_: 2_000_000)
    monkeypatch.setattr(speed, "interleaved", each_once)
    speed.compare(bench, 1)
    rows = {row[0]: row[1:-2] for row in map(str.split, capsys.readouterr().out.splitlines()[-5:])}
    large_batch, small_batch = (["16.0", "8.0", "2.00"], ["4.0", "2.0", "2.00"])
    assert rows == {
        "training": [*large_batch, "2", "2"],
        "sampling": [*small_batch, "2", "2"],
        "interval": [*small_batch, "2", "2"],
        "student": [*small_batch, "2", "2"],
        "tokenizing": [*large_batch, "2", "2"],
    }


def test_what_computes_is_counted_and_views_are_not():
    a = torch.ones(4, 4)
    found = operations(lambda: (a @ a).relu_().T.flatten()[:3].sum(), CPU)
    assert found == {"mm": 1, "relu_": 1, "clone": 1, "sum": 1}  # flatten copies what T turned
    assert operations(lambda: torch.empty(3), CPU).total() == 0
    assert operations(lambda: a + a, torch.device("cuda")).total() == 0


def test_operations_of_a_step_are_those_of_the_profiler(bench):
    bench.stage.train_step(0)  # makes the moments
    found = operations(lambda: bench.stage.train_step(1), CPU)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        bench.stage.train_step(1)
    names = [event.name.removeprefix("aten::") for event in seen.events()]
    for name in ("mm", "addmm", "native_layer_norm", "native_layer_norm_backward", "gelu"):
        assert found[name] == names.count(name) > bench.config.depth


def test_what_a_gpu_started_is_read_from_a_trace(tmp_path):
    events = [
        ("cuda_runtime", "cudaLaunchKernel", 5), ("cuda_runtime", "cudaGraphLaunch", 9),
        ("cuda_driver", "cuLaunchKernelEx", 5), ("cuda_runtime", "cudaMemcpyAsync", 3),
        ("kernel", "gemm", 100), ("kernel", "gelu", 20), ("kernel", "add", 30),
        ("kernel", "LaunchPad", 40), ("gpu_memcpy", "Memcpy HtoD", 6), ("gpu_memset", "Memset", 4),
        ("gpu_user_annotation", "Optimizer.step", 150), ("cpu_op", "aten::add", 70),
    ]  # fmt: skip
    traced = [{"ph": "X", "cat": cat, "name": name, "dur": dur} for cat, name, dur in events]
    file = tmp_path / "trace.json"
    file.write_text(json.dumps({"traceEvents": [{"ph": "M", "name": "process_name"}, *traced]}))
    assert read_trace(file) == (3, 4, pytest.approx(200e-6))


def test_a_table_of_launches_is_of_single_steps(bench, monkeypatch, capsys):
    monkeypatch.setattr(launches, "TRAINED", 2)
    arguments = "launches.py --device cpu --precision fp32 --rounds 1 --compile off"
    monkeypatch.setattr(sys, "argv", arguments.split())
    launches.main()
    training, decoding = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert training[:2] == ["training", "off"]
    assert decoding[:2] == ["decoding", "off"]
    assert training[4:] == decoding[4:] == ["-"] * 4
    bench.stage.train_step(0)
    step = operations(lambda: bench.stage.train_step(1), CPU)
    assert float(training[3]) == step.total()
    tokens = torch.zeros(1, bench.config.seq_len, dtype=torch.int64)
    with torch.no_grad():
        once = operations(lambda: bench.model.transformer(tokens, tokens[:, 0]), CPU)
    assert once.total() < float(decoding[3]) < 1.5 * once.total()  # one pass for both halves


def test_all_of_a_large_model_is_measured_at_any_size(monkeypatch, capsys):
    arguments = f"large.py --device cpu --precision fp32 --rounds 1 {TINY_SIZE}"
    monkeypatch.setattr(sys, "argv", arguments.split())
    monkeypatch.setattr(large, "interleaved", each_once)
    monkeypatch.setattr(large, "timed", lambda work, device: [work(), 2.0][1])
    large.main()
    _, product, _, training, summary, distilling, _, *sampled = capsys.readouterr().out.splitlines()
    assert product.endswith(": 17 GFLOP/s")
    for line in (training, distilling):
        _, batch, rate, *others = line.split()
        assert (batch, rate) == ("8", "200.0")  # the last 50 of 100 steps
        gigabytes, promised, first, last = map(float, others)
        assert 0 < promised <= 2 * gigabytes
        assert 0 < last < first
    size = large.Size(depth=2, width=64, codes=64, classes=10)
    share = 100 * 200 * training_flops(size.transformer(32)) / (2 * 2048**3)
    hours = 300 * 1_281_167 / 200 / 3600
    assert summary.startswith(f"training: {share:.1f} % of the product; 300 epochs")
    assert summary.endswith(f" in {hours:.1f} hours")
    assert [line.split()[:6] for line in sampled] == [
        [name, pixels, steps, "2", "2.0", "1.000"]
        for pixels in ("32", "48")
        for name, steps in (("teacher", "8"), ("teacher", "32"), ("student", "1"))
    ]


def test_the_first_half_of_the_steps_only_warms_up(monkeypatch, capsys):
    stage = CountingStage()  # its loss is the number of the step
    done = []

    def timed(work, device):
        done.append(stage.total)
        work()
        return 5.0

    monkeypatch.setattr(large, "timed", timed)
    setup = large.Setup(large.Size(steps=20), CPU, torch.float32, "auto", 1e9)
    assert large.learn(setup, "counting", stage, 7, 1e9) == 7 * 10 / 5
    assert (done, stage.total) == ([sum(range(10))], sum(range(20)))
    assert capsys.readouterr().out.split()[-2:] == ["0.5000", "18.5000"]


def test_tokens_of_the_large_model_are_those_of_a_mapped_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "WRITTEN", 70)
    size = large.Size(images=200, pixels=32, codes=50, classes=4)
    made = large.random_tokens(size, tmp_path / "tokens.npy")
    assert isinstance(made.tokens, np.memmap)
    assert (made.tokens.shape, made.tokens.dtype) == ((2, 200, 4), np.uint16)
    assert set(made.labels.tolist()) == set(range(4))
    likely = np.bincount(made.tokens.flatten(), minlength=50)
    assert len(likely) == 50
    # A cubed uniform number is below 1/8 half of the time.
    assert likely[:6].sum() / likely.sum() == pytest.approx((6 / 50) ** (1 / 3), abs=0.05)
    assert (made.tokens[0, -70:] != made.tokens[1, -70:]).any()
