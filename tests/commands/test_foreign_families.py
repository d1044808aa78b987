"""Files of other programs through the command line, as a stranger uses them."""

import csv
import json
from os.path import relpath
from pathlib import Path

import numpy as np
import torch
from dataset_files import write_folder
from golden_values import fill_vit, read_golden
from PIL import Image

from models.foreign_weights import levels_turned, renamed
from models.halton.foreign import to_foreign
from models.halton.transformer import HaltonConfig, HaltonTransformer
from models.llamagen.vqgan import NAMES, LlamaGenConfig, LlamaGenModel
from models.maskbit import foreign as maskbit
from models.maskbit.config import BitTransformerConfig
from models.maskbit.transformer import BitTransformer
from utils.checkpoint import load_checkpoint

NET = relpath(Path(__file__).parents[2] / "metrics" / "pretrained" / "fashionmnist_net.pt")
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


def test_a_tokenizer_is_measured_and_a_transformer_trained_on_it(run, refused, tmp_path):
    file = write_tokenizer(tmp_path / "vq.pt", 1)
    out = run(f"--reconstruct --dataset mnist --checkpoint_vae {file}")
    assert out.count("llamagen, published under MIT") == 1
    run(f"--train --dataset mnist --n_epochs 1 --batch_size 16 --depth 1 --checkpoint_vae {file}")
    stored = load_checkpoint(tmp_path / "mnist" / "MaskGIT_mnist.pt", "maskgit")
    assert stored["tokenizer"]["family"] == "llamagen"
    assert stored["config"]["codebook_size"] == 32
    run("--sample --dataset mnist --num_samples 2 --step 2")
    refused(f"--reconstruct --dataset mnist --checkpoint_vae {file} --tokenizer vqgan")


def write_halton(folder: Path, channels: int = 3, classes: int = 1000) -> str:
    """Write a small transformer in Halton-MaskGIT's layout; return the options that open it."""
    tokenizer = write_tokenizer(folder / "vq.pt", channels)
    torch.manual_seed(0)
    network = HaltonTransformer(HaltonConfig(32, classes, 64, hidden_dim=24, depth=1, heads=2))
    torch.save(to_foreign(network), folder / "model.pth")
    return f"--checkpoint {folder}/model.pth --heads 2 --checkpoint_vae {tokenizer}"


def test_a_model_of_imagenet_is_sampled_by_the_names_of_classes(run, tmp_path):
    model = f"--dataset imagenet --size 32 {write_halton(tmp_path)} --step 4"
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
    torch.save(maskbit.to_foreign(network), tmp_path / "generator.bin")
    tokenizer = f"--checkpoint_vae {tmp_path}/tokenizer.bin"
    model = (
        f"--dataset imagenet --size 32 --checkpoint {tmp_path}/generator.bin --heads 2 "
        f"{tokenizer} --step 4"
    )
    out = run(f"--sample {model} --labels goldfish --num_samples 2 --save_steps --cfg_power 2.5")
    assert out.count("maskbit, published under Apache-2.0") == 2
    assert "--cfg_power" not in out  # its guidance schedule is the family's, and has a power
    image = next((tmp_path / "imagenet" / "samples" / "images").iterdir())
    edit = f"--edit {model} --labels 1 --init_image {image} --mask_box 9,9,10,10 --num_samples 1"
    run(edit)
    cell = [None, None]  # the box is in one cell, and both of its tokens are hidden
    start = tmp_path / "start_tokens.json"
    start.write_text(json.dumps({"steps": 0, "tokens": [0] * 10 + cell + [0] * 20}))
    run(f"{edit} --start_tokens {start}")
    write_folder(tmp_path / "fruit")
    run(
        f"--train --dataset folder --data_dir {tmp_path}/fruit --size 32 {tokenizer} --splits 2 "
        "--transformer maskbit --n_epochs 1 --depth 1"
    )
    stored = load_checkpoint(tmp_path / "folder" / "MaskGIT_folder.pt", "maskgit")
    assert (stored["config"]["codebook_size"], stored["config"]["seq_len"]) == (8, 32)


def test_a_halton_model_edits_and_is_measured_as_published(run, tmp_path):
    model = f"--dataset mnist {write_halton(tmp_path, 1, 10)}"
    measuring = f"{model} --num_samples 20 --batch_size 10 --features {NET}"
    run(f"--edit {model} --init_image mnist:0 --mask_box 0,0,16,32 --labels 3 --num_samples 2")
    files = sorted((tmp_path / "mnist" / "edits" / "images").iterdir())
    one, other = (np.asarray(Image.open(file)) for file in files)
    assert np.array_equal(one[:, 16:], other[:, 16:])
    assert not np.array_equal(one[:, :16], other[:, :16])
    run(f"--evaluate {measuring}")
    found = json.loads((tmp_path / "mnist" / "evaluation_samples.json").read_text())
    assert found["protocol"]["sampling"]["sampler"] == "halton"
    assert found["protocol"]["sampling"]["step"] == 32
    run(f"--sweep step=2,32 {measuring}")
    with (tmp_path / "mnist" / "sweep" / "sweep.csv").open(newline="") as table:
        fid = {row["step"]: row["fid"] for row in csv.DictReader(table)}
    assert fid["32"] == f"{found['scores']['fid']:.6g}"


def test_files_of_other_programs_are_published_as_one_that_needs_no_other(run, refused, tmp_path):
    options = f"--dataset imagenet --size 32 {write_halton(tmp_path)}"
    run(f"--export {tmp_path}/out {options}")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "halton: MIT" in card
    assert "llamagen: MIT" in card
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    assert about["contents"]["tokenizer"]["family"] == "llamagen"
    images = []
    for checkpoint in (options, f"--checkpoint {tmp_path}/out"):
        run(f"--sample {checkpoint} --labels goldfish --step 2")
        with np.load(tmp_path / "imagenet" / "samples" / "samples.npz") as stored:
            images.append(stored["arr_0"])
    assert np.array_equal(*images)
    refused(f"--export {tmp_path}/out {options}")
    said = refused(f"--export {tmp_path}/model.safetensors {options}")
    assert "name a folder, which gets a model.safetensors" in said
    said = refused(f"--export /proc/out {options}")
    assert "/proc" in said
    assert ".partial" not in said


def test_titok_is_measured_and_trained_on_and_refuses_what_needs_cells(run, refused, tmp_path):
    weights, _ = read_golden("titok", "f4", "tokens", fill=fill_vit)
    torch.save(weights, tmp_path / "titok.bin")
    write_folder(tmp_path / "fruit")
    where = f"--dataset folder --data_dir {tmp_path}/fruit --checkpoint_vae {tmp_path}/titok.bin"
    out = run(f"--reconstruct {where}")
    assert out.count("titok, published under Apache-2.0") == 1
    run(f"--train {where} --n_epochs 1 --depth 1")
    stored = load_checkpoint(tmp_path / "folder" / "MaskGIT_folder.pt", "maskgit")
    assert (stored["tokenizer"]["family"], stored["config"]["seq_len"]) == ("titok", 12)
    run("--sample --dataset folder --num_samples 2 --step 2")
    image = next((tmp_path / "folder" / "samples" / "images").iterdir())
    for mode in (f"--edit --init_image {image} --mask_box 0,0,8,8", "--sample --save_steps"):
        said = refused(f"{mode} --dataset folder --num_samples 1")
        assert "12 tokens describes the whole image, not a cell" in said
