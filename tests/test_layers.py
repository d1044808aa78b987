"""Imports go one way, and heavy or private packages stay where they belong."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFIGS = {"models.vqgan.config", "models.maskgit.config"}
HEAVY = {"torch", "torchvision", "medmnist", "numpy", "wandb", "tqdm", "torchmetrics", "scipy"}


def modules():
    for folder in ("models", "data", "utils"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path
    yield "MaskGIT", ROOT / "MaskGIT.py"


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def test_imports_go_one_way():
    allowed = {
        "models": {"models", "utils"},
        "data": {"data", "utils"},
        "utils": {"utils"},
        "MaskGIT": {"models", "data", "utils"},
    }
    for name, path in modules():
        ours = {i for i in imports(path) if i.split(".")[0] in ("models", "data", "utils")}
        if name.startswith("utils."):
            ours -= CONFIGS
        package = name.split(".")[0]
        wrong = {i for i in ours if i.split(".")[0] not in allowed[package]}
        assert not wrong, f"{name} imports {wrong}"


def test_packages_with_one_home():
    homes = {"argparse": "utils.options", "wandb": "utils.tracking"}
    for name, path in modules():
        for package, home in homes.items():
            assert name == home or package not in imports(path), f"{name} imports {package}"


def test_nothing_heavy_before_the_arguments_are_parsed():
    for name in ("MaskGIT", "utils.options", "utils.refusals", *CONFIGS, "data.datasets"):
        path = ROOT / (name.replace(".", "/") + ".py")
        heavy = {i for i in imports(path, top_level_only=True) if i.split(".")[0] in HEAVY}
        assert not heavy, f"{name} imports {heavy}"


def test_package_files_are_empty():
    for path in ROOT.glob("*/**/__init__.py"):
        if path.relative_to(ROOT).parts[0] in ("models", "data", "utils"):
            assert path.read_text() == "", path
