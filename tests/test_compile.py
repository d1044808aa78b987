"""--compile: every network goes through torch.compile, and nothing else changes."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from conftest import FOLDER_VQGAN, TINY_CODES, TRAIN_TINY
from tiny_stages import make_stage
from tiny_stages import make_vqgan_stage as vqgan_stage
from torch._dynamo.utils import counters

from maskgit import load_model
from models.maskgit.config import TransformerConfig
from models.maskgit.transformer import MaskedTransformer
from training.run_folder import RunFolder

PIXELS = torch.arange(150 * 32 * 32).remainder(251).to(torch.uint8).view(150, 1, 32, 32)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The .grad attribute"),  # the compiler looks at it itself
]


@pytest.fixture
def quick_compile(monkeypatch):
    """Graphs are captured and differentiated, but run without generated code.

    Generated code would take minutes to make.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def captured_graphs(run, quick_compile):
    """Runs a command with --compile; returns how many graphs were captured."""

    def call(command):
        torch._dynamo.reset()
        counters.clear()
        assert "torch.compile: the first batch of each kind takes" in run(f"{command} --compile")
        return counters["stats"]["unique_graphs"]

    return call


@pytest.mark.usefixtures("quick_compile")
def test_accumulation_differentiates_a_compiled_graph_twice():
    plain, compiled = (vqgan_stage(disc_start=1, grad_accum=2) for _ in range(2))
    compiled.model.compile_networks()
    for step in range(2):  # from the second on twice
        expected, found = plain.train_step(step), compiled.train_step(step)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value.item(), rel=1e-2), name


def test_generated_code_computes_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    network = MaskedTransformer(
        TransformerConfig(8, 10, 16, 4, 8, hidden_dim=8, depth=2, heads=1)
    ).eval()
    block, inputs = network.blocks[0], torch.randn(2, 16, 8)  # compiles in half of the time
    with torch.inference_mode():
        assert torch.allclose(torch.compile(block)(inputs), block(inputs), atol=1e-5)


@pytest.mark.usefixtures("quick_compile")
def test_a_training_has_one_graph_for_any_number_of_hidden_tokens():
    plain, compiled = (make_stage(compile_model=each) for each in (False, True))
    torch._dynamo.reset()
    counters.clear()
    for step in range(5):
        expected, found = (stage.train_step(step)["loss"].item() for stage in (plain, compiled))
        assert found == pytest.approx(expected, rel=1e-4)
    assert len({compiled.draw_batch(step)[1] for step in range(5)}) > 1
    assert counters["stats"]["unique_graphs"] == 1


def test_blocks_of_any_size_need_few_graphs(quick_compile, trained):
    plain, compiled = (load_model(trained / "MaskGIT_mnist.pt") for _ in range(2))
    torch._dynamo.reset()
    counters.clear()
    compiled.compile()
    for count in range(1, 17):  # as the page asks
        labels = list(range(10)) * 2
        expected, found = (
            model.sample(labels[:count], block_size=count, num_steps=2)
            for model in (plain, compiled)
        )
        assert (np.abs(expected.astype(int) - found) <= 1).mean() > 0.99, count
    # Of the transformer with 1, 4, 16 and 64 images, of the decoder with 1, 4 and 16.
    assert counters["stats"]["unique_graphs"] <= 7
    assert torch.equal(*(m.tokenizer.encode_bytes(PIXELS) for m in (plain, compiled)))


def test_the_last_batch_of_images_needs_no_graph_of_its_own(quick_compile, trained):
    plain, compiled = (load_model(trained / "MaskGIT_mnist.pt").tokenizer for _ in range(2))
    torch._dynamo.reset()
    counters.clear()
    compiled.compile()
    for batch in PIXELS.split(67):  # with parts of 16 and 3 images
        assert torch.equal(compiled.encode_bytes(batch), plain.encode_bytes(batch))
    assert counters["stats"]["unique_graphs"] == 1


def test_the_likelihood_of_a_compiled_model_is_computed_as_before(quick_compile, trained):
    model = load_model(trained / "MaskGIT_mnist.pt", precision="fp32")
    model.compile()
    torch._dynamo.reset()
    counters.clear()
    tokens, labels = torch.zeros(2, 64, dtype=torch.int64), torch.tensor([1, 2])
    with torch.no_grad():
        for count in range(1, 12):  # torch gives up at the ninth
            model.transformer(tokens, labels, torch.arange(count))
    assert counters["stats"]["unique_graphs"] == 0


def losses(folder, stage):
    rows = map(json.loads, RunFolder(folder, "mnist").metrics(stage).read_text().splitlines())
    return [value for row in rows for name, value in row.items() if name.endswith("/loss")]


def test_both_stages_and_sampling(run, captured_graphs, tokenizer_file, tmp_path):
    train_vae = f"--train_vae --dataset mnist --n_epochs_vae 1 --batch_size_vae 16 {FOLDER_VQGAN}"
    for command in (
        f"{train_vae} --z_channels 8 {TINY_CODES}",
        f"--train {TRAIN_TINY} --n_epochs 1 --dropout_t 0 --checkpoint_vae {tokenizer_file}",
        "--sample --dataset mnist --num_samples 20",
    ):
        run(f"{command} --precision fp32 --run_name plain")
        assert captured_graphs(f"{command} --precision fp32 --run_name compiled") > 0, command
    folders = [tmp_path / name for name in ("plain", "compiled")]
    for stage in ("vqgan", "maskgit"):
        plain, compiled = (losses(folder, stage) for folder in folders)
        assert compiled == pytest.approx(plain, rel=1e-3)
    plain, compiled = (np.load(f / "samples" / "samples.npz")["arr_0"] for f in folders)
    assert (np.abs(plain.astype(int) - compiled) <= 1).mean() > 0.99


def test_a_machine_that_cannot_compile_is_one_line(run, trained, monkeypatch, capsys):
    def fail(graph, inputs):
        raise RuntimeError("Failed to find C compiler")

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=fail))
    with pytest.raises(SystemExit) as stop:
        run(f"--sample --num_samples 2 --checkpoint {trained}/MaskGIT_mnist.pt --compile")
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "Failed to find C compiler" in error
    assert error.endswith("leave out --compile")
