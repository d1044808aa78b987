"""What the README says is what the program does."""

import re
from pathlib import Path

from data.datasets import documentation_table
from MaskGIT import main

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_table_of_datasets_is_the_table_of_the_program():
    assert documentation_table() in README


def test_the_example_runs(trained):
    (code,) = re.findall(r"```python\n(from pathlib.*?)```", README, re.DOTALL)
    code = code.replace("runs/demo/MaskGIT_fashionmnist.pt", str(trained / "MaskGIT_mnist.pt"))
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (2, 1, 32, 32)
    assert names["images"].abs().max() <= 1


def test_every_option_it_names_exists(capsys):
    try:
        main(["--help"])
    except SystemExit:
        known = set(re.findall(r"--[a-z][a-z_-]*", capsys.readouterr().out))
    elsewhere = {"--fast", "--nproc_per_node", "--kills", "--cases"}  # of scripts, tests, torchrun
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", README))
    assert named - elsewhere <= known


def test_every_file_it_names_exists():
    root = Path(__file__).parent.parent
    for name in re.findall(r"`((?:models|data|utils|scripts|tests|benchmarks)/[\w/.]*)`", README):
        assert (root / name).exists(), name
