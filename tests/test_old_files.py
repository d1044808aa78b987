"""Files of earlier versions open, and runs of earlier versions go on.

golden/run_version_1 is a run of two epochs on the tests' data, in checkpoint format 1, and the
position embedding that the program of that time had after one more epoch.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from MaskGIT import main
from models.open import load_model, load_tokenizer
from utils.checkpoint import load_checkpoint

RUN = Path(__file__).parent / "golden" / "run_version_1"
BUNDLED = Path(__file__).parents[1] / "models" / "pretrained" / "VQGAN_fashionmnist.pt"


@pytest.mark.parametrize("path", [RUN / "MaskGIT_mnist.pt", BUNDLED], ids=lambda path: path.name)
def test_a_file_of_version_1_names_no_family_and_opens(path):
    stored = torch.load(path, weights_only=True)
    assert stored["format_version"] == 1
    assert "family" not in stored["contents"]["tokenizer"]
    assert load_tokenizer(path).config.family == "vqgan"
    if stored["kind"] == "maskgit":
        model = load_model(path, device="cpu", precision="fp32")
        assert model.transformer.config.family == "maskgit"
        assert model.sample([3, 4]).shape == (2, 8, 8, 1)


def test_a_run_of_version_1_goes_on_as_it_would_have_then(data_dir, tmp_path):
    folder = tmp_path / "mnist"
    shutil.copytree(RUN, folder)
    tokenizer = shutil.copy(RUN / "MaskGIT_mnist.pt", tmp_path / "tokenizer.pt")
    main(
        f"--train --resume --dataset mnist --data_dir {data_dir} --output_dir {tmp_path} "
        f"--n_epochs 3 --checkpoint_vae {tokenizer} --no_wandb".split()
    )
    contents = load_checkpoint(folder / "MaskGIT_mnist.pt", "maskgit")
    with np.load(RUN / "after_nine_steps.npz") as expected:
        assert contents["step"] == expected["step"] == 9
        found = contents["weights"]["position_embedding"].numpy()
        assert found == pytest.approx(expected["position_embedding"], abs=1e-5)
    assert contents["config"]["depth"] == 1  # from its config.json
