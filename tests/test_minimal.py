"""examples/minimal.py: it runs, and it decodes and plans as the program does."""

import numpy as np
import pytest
import torch
from conftest import write_real_subset
from PIL import Image

from examples import minimal
from models.decoding import draw_noise, reveal_counts
from models.modern.config import ModernConfig
from models.modern.transformer import ModernTransformer
from models.predictors import prepare_decoding
from models.sampling import SamplingConfig


def test_a_decode_is_that_of_the_program_bit_for_bit():
    torch.manual_seed(0)
    config = ModernConfig(32, 10, (4, 4), hidden_dim=16, heads=2, depth=2, mlp_dim=32)
    model = ModernTransformer(config).eval()
    for weight in model.parameters():  # those of new blocks are 0
        torch.nn.init.normal_(weight)
    labels, indices = np.array([3, 7, 7]), np.arange(3)
    noise = draw_noise(5, indices, 6, config.seq_len, torch.device("cpu"))
    made = minimal.decode(model, torch.from_numpy(labels), noise.uniform, noise.gumbel)
    sampling = SamplingConfig(num_steps=6)
    assert made.equal(prepare_decoding(model, labels, indices, sampling, seed=5).result())


@pytest.mark.parametrize("num_steps", [2, 8, 12])
def test_the_plan_is_that_of_the_program(num_steps):
    assert minimal.reveal_counts(64, num_steps) == reveal_counts(64, num_steps, "arccos").tolist()


def test_it_runs_and_writes_a_picture(tmp_path, monkeypatch, capsys):
    data = write_real_subset(tmp_path, train=20, test=1)
    monkeypatch.chdir(tmp_path)
    minimal.main(num_images=20, num_steps=2, data_dir=str(data))
    assert "step    0  loss 6.2" in capsys.readouterr().out  # about ln 512
    assert np.asarray(Image.open("minimal.png")).std() > 0
