"""Files of other programs through the command line, as a stranger uses them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import write_folder
from golden_values import read_golden

from models.halton.config import HaltonConfig
from models.halton.foreign import to_foreign
from models.halton.transformer import HaltonTransformer
from models.llamagen.config import LlamaGenConfig
from models.llamagen.foreign import NAMES
from models.llamagen.network import LlamaGenModel
from models.maskbit.config import BitTransformerConfig
from models.maskbit.foreign import NAMES as MASKBIT_NAMES
from models.maskbit.transformer import BitTransformer
from models.renaming import levels_turned, renamed
from utils.checkpoint import load_checkpoint

SHAPE = LlamaGenConfig(image_size=32, channels=32, ch_mult=(1, 1, 2), num_res_blocks=1,
                       attn_resolutions=(8,), z_channels=16, n_embed=32, embed_dim=8)  # fmt: skip


def write_tokenizer(path: Path, channels: int) -> Path:
    """Write a small tokenizer with random weights in LlamaGen's layout."""
    torch.manual_seed(0)
    config = LlamaGenConfig(**{**vars(SHAPE), "image_channels": channels})
    weights = levels_turned(LlamaGenModel(config).state_dict(), "decoder.up.")
    theirs = {renamed(name, NAMES, to_ours=False) or name: v for name, v in weights.items()}
    torch.save({"model": {**theirs, "quantize.codebook_used": torch.zeros(8)}}, path)
    return path


def test_a_tokenizer_is_measured_and_a_transformer_trained_on_it(run, tmp_path):
    file = write_tokenizer(tmp_path / "vq.pt", 1)
    out = run(f"--reconstruct --dataset mnist --checkpoint_vae {file}")
    assert out.count("llamagen, published under MIT") == 1
    run(f"--train --dataset mnist --n_epochs 1 --batch_size 16 --depth 1 --checkpoint_vae {file}")
    stored = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    assert stored["tokenizer"]["family"] == "llamagen"
    assert stored["config"]["codebook_size"] == 32
    run("--sample --dataset mnist --num_samples 2 --step 2")
    with pytest.raises(SystemExit, match="2"):
        run(f"--reconstruct --dataset mnist --checkpoint_vae {file} --tokenizer vqgan")


def test_a_model_of_imagenet_is_sampled_by_the_names_of_classes(run, tmp_path):
    file = write_tokenizer(tmp_path / "vq.pt", 3)
    torch.manual_seed(0)
    network = HaltonTransformer(HaltonConfig(32, 1000, 64, hidden_dim=24, depth=1, heads=2))
    torch.save(to_foreign(network), tmp_path / "model.pth")
    model = f"--dataset imagenet --size 32 --checkpoint {tmp_path}/model.pth --heads 2 " \
        f"--checkpoint_vae {file} --step 4"  # fmt: skip
    out = run(f"--sample {model} --labels goldfish,1,7-8x1")
    assert out.count("halton, published under MIT") == 1
    with np.load(tmp_path / "imagenet" / "samples" / "samples.npz") as stored:
        assert stored["arr_1"].tolist() == [1, 1, 7, 8]
        assert stored["arr_0"].shape == (4, 32, 32, 3)


def test_maskbit_is_sampled_edited_and_trained_on_its_bits(run, tmp_path):
    weights, _ = read_golden("maskbit", "6 bits", "tokens")
    torch.save(weights, tmp_path / "tokenizer.bin")
    torch.manual_seed(0)
    network = BitTransformer(BitTransformerConfig(8, 1000, 32, 2, hidden_dim=24, depth=1, heads=2))
    theirs = {renamed(n, MASKBIT_NAMES, to_ours=False): v for n, v in network.state_dict().items()}
    torch.save({**theirs, "pos_emb": theirs["pos_emb"][None]}, tmp_path / "generator.bin")
    tokenizer = f"--checkpoint_vae {tmp_path}/tokenizer.bin"
    model = f"--dataset imagenet --size 32 --checkpoint {tmp_path}/generator.bin --heads 2 " \
        f"{tokenizer} --step 4"  # fmt: skip
    out = run(f"--sample {model} --labels goldfish --num_samples 2 --save_steps --cfg_power 2.5")
    assert out.count("maskbit, published under Apache-2.0") == 2
    image = next((tmp_path / "imagenet" / "samples" / "images").iterdir())
    run(f"--edit {model} --labels 1 --init_image {image} --mask_box 9,9,10,10 --num_samples 1")
    write_folder(tmp_path / "fruit")
    run(
        f"--train --dataset folder --data_dir {tmp_path}/fruit --size 32 {tokenizer} --splits 2 "
        "--transformer maskbit --n_epochs 1 --depth 1"
    )
    stored = load_checkpoint(tmp_path / "folder" / "MaskGIT_folder.pt", "maskgit")
    assert (stored["config"]["codebook_size"], stored["config"]["seq_len"]) == (8, 32)
