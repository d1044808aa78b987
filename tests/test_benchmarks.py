"""The benchmarks' baseline computes what our path computes, and what a GPU starts stays bounded."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baseline import PlainTransformer, Trainer, sample
from benchmarks.fake_gpu import GPU, fake_gpu
from benchmarks.launches import DEFAULT, counted, main, of_decoding, of_training
from benchmarks.speed import forward_flops
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from models.sampling import SamplingConfig
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel

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


def test_operations_are_those_that_torch_counts(plain):
    ours, _ = plain
    tokens, labels = torch.zeros(1, 16, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    math_attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math_attention, FlopCounterMode(display=False) as counter:
        ours(tokens, labels)
    assert forward_flops(CONFIG, 16) == pytest.approx(counter.get_total_flops(), rel=1e-3)


@pytest.mark.usefixtures("needs_fake_gpu")
def test_what_computes_on_the_gpu_is_counted_and_nothing_else():
    def work():
        on_cpu, on_gpu = torch.ones(6) + 1, torch.empty(2, 3, device=GPU)
        on_gpu.t()[0].reshape(1, 2).add_(1)
        torch._foreach_mul_([on_gpu, on_gpu], 2)
        on_gpu + on_cpu.to(GPU).view(2, 3)

    with fake_gpu():
        assert counted(work) == {"add_": 1, "_foreach_mul_": 1, "_to_copy": 1, "add": 1}


# What torch 2.10 and 2.14 dispatch, both the same. Another version may differ by a few operations;
# one more in each of the ten blocks is a regression.
SLACK = 9


@pytest.mark.usefixtures("needs_fake_gpu")
@pytest.mark.parametrize(("optimizer", "most"), [("adamw", 547), ("muon", 638)])
def test_a_training_step_starts_no_more_on_a_gpu_than_it_did(optimizer, most):
    assert of_training(DEFAULT, optimizer, torch.bfloat16).total() <= most + SLACK


@pytest.mark.usefixtures("needs_fake_gpu")
def test_a_decoding_step_starts_no_more_on_a_gpu_than_it_did():
    assert of_decoding(DEFAULT, torch.bfloat16).total() <= 192 + SLACK


@pytest.mark.usefixtures("needs_fake_gpu")
def test_the_table_has_each_work_with_its_most_frequent_operations(monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.launches.DEFAULT", CONFIG)
    monkeypatch.setattr("sys.argv", ["launches.py", "--precision", "fp32"])
    main()
    (head, *tables) = capsys.readouterr().out.split("\n\n")
    assert head.startswith("torch.float32")
    assert len(tables) == 3
    for table in tables:
        total, *frequent = (int(line.split()[0]) for line in table.splitlines())
        assert len(frequent) == 10
        assert sorted(frequent, reverse=True) == frequent
        assert sum(frequent) < total
