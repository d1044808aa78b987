"""The rules of the house: which file may know what. docs/architecture.md tells them in words.

Every rule is a function from the files of the program to complaints. Each is tried twice: the
program gives none, and a copy of it with one line that breaks the rule gives one.
"""

import ast
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_TRANSFORMER, write_images
from PIL import Image, ImageFile
from tiny_stages import VQGAN
from torch import nn

from commands.flags import flags_of_settings
from commands.modes import MODES
from commands.options import GROUPS, OPTIONS
from commands.parser import build_parser
from data.datasets import DATASETS
from MaskGIT import main
from metrics.scores import METRICS
from models.open import families_of
from models.registry import FAMILIES
from models.samplers import SAMPLERS
from models.sampling import CHOICES
from models.schedules import CUMULATIVE_SCHEDULES, GUIDANCE_SCHEDULES, MASK_SCHEDULES
from models.tokenizer import Tokenizer
from models.vqgan.network import VQModel
from utils.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[1]
FLOORS = {  # what a folder may import, beside itself
    "MaskGIT": {"commands", "page", "training", "metrics", "models", "data", "utils"},
    "commands": {"page", "training", "metrics", "models", "data", "utils"},
    "page": {"training", "metrics", "models", "data", "utils"},
    "training": {"models", "data", "utils"},
    "metrics": {"models", "data", "utils"},
    "models": {"utils"},
    "data": {"utils"},
    "utils": set(),
}
MOST_LINES_OF_STORY = 300
LONGEST_FUNCTION, LONG_FUNCTION = 60, 30
MOST_INNER_IMPORTS = 10
HEAVY = {
    *("torch", "torchvision", "medmnist", "wandb", "tqdm", "torchmetrics", "scipy"),
    *("matplotlib", "starlette", "uvicorn"),
}
HOMES = {
    "argparse": {"commands.parser", "commands.kinds", "commands.option"},
    "wandb": {"training.tracking"},
    "huggingface_hub": {"utils.hub"},
    "matplotlib": {"utils.plots"},
    "matplotlib.pyplot": set(),  # it has a state, and may open windows
    "starlette": {"page.server"},
    "uvicorn": {"page.connections"},
}

ENTRY = ("MaskGIT.py", "train")
CHANGES: list[tuple[Any, str]] = [  # of an image from its file to its loss, as calls of libraries
    *((Image, "open"), (ImageFile.ImageFile, "load"), (Image.Image, "resize")),
    *((nn.Conv2d, "forward"), (F, "group_norm"), (torch.Tensor, "argmin")),  # -> tokens
    *((torch.Tensor, "index_select"), (torch.Tensor, "masked_fill")),  # taken, hidden
    *((F, "embedding"), (F, "scaled_dot_product_attention"), (F, "cross_entropy")),
]

Files = dict[str, str]  # name of the module -> its text
Rule = Callable[[Files], Iterator[str]]


@cache
def program() -> Files:
    """The program's own files."""
    files = {"MaskGIT": (ROOT / "MaskGIT.py").read_text()}
    for folder in FLOORS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            files[name] = path.read_text()
    return files


@cache
def parsed(text: str) -> ast.Module:
    """Parse a file; most tests change a single one of them."""
    return ast.parse(text)


@cache
def imports_in(text: str) -> frozenset[str]:
    return frozenset(imports_of(parsed(text)))


def imports_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def strings_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def below_commands(files: Files) -> dict[str, ast.Module]:
    return {
        name: parsed(text)
        for name, text in files.items()
        if name.split(".")[0] not in ("MaskGIT", "commands")
    }


def imports_go_down(files: Files) -> Iterator[str]:
    """Rule 1: by whatever detour, no file reaches a folder that its own may not import."""
    direct = {name: imports_in(text) & files.keys() for name, text in files.items()}
    for name in files:
        reached, waiting = set(), [name]
        while waiting:
            for found in direct[waiting.pop()] - reached:
                reached.add(found)
                waiting.append(found)
        own = name.split(".")[0]
        for found in sorted(reached):
            folder = found.split(".")[0]
            if folder != own and folder not in FLOORS[own]:
                yield f"{name} reaches {found}"


def no_flag_below_commands(files: Files) -> Iterator[str]:
    """Rule 2: no string there holds a flag."""
    for name, tree in below_commands(files).items():
        for text in strings_of(tree):
            if re.search(r"--[a-z]", text):
                yield f"{name}: {text[:60]!r}"


def settings_in_messages_are_known(files: Files) -> Iterator[str]:
    """Rule 2: what a message there has in backticks is one setting or mode, if it is any."""
    known = flags_of_settings().keys() | {mode.name for mode in MODES}
    fields = {fill.field for option in OPTIONS.values() for fill in option.fills}
    ambiguous = (fields | OPTIONS.keys()) - known
    for name, tree in below_commands(files).items():
        docs = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        }
        for text in strings_of(tree):
            for mention in re.findall(r"`([\w.]+)`", text) if text not in docs else ():
                is_config_field = re.match(r"[A-Z]\w+Config\.", mention)
                if mention in ambiguous or (is_config_field and mention not in known):
                    yield f"{name}: `{mention}` is not a single setting"


def no_list_of_options(files: Files) -> Iterator[str]:
    """Rule 3: only the table lists options; a list of three names elsewhere is another table."""
    for name, text in files.items():
        if name == "commands.options":
            continue
        for names in collections_in(text):
            found = names & OPTIONS.keys() - {"dataset", "size", "channels", "labels", "images"}
            if len(found) > 2 and name.split(".")[0] in ("MaskGIT", "commands"):
                yield f"{name} lists options: {sorted(found)}"


@cache
def collections_in(text: str) -> list[set[str]]:
    return [names for names in collections_of(parsed(text)) if names]


def collections_of(tree: ast.AST) -> Iterator[set[str]]:
    for node in ast.walk(tree):
        items: list[ast.expr | None] = []
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            items = [*node.elts]
        elif isinstance(node, ast.Dict) and all(map(is_literal, node.values)):
            items = [*node.keys]
        yield {i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str)}


def is_literal(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant | ast.Tuple | ast.List | ast.Set | ast.Dict)


def jobs_are_resolved_once(files: Files) -> Iterator[str]:
    """Rule 4: only commands.resolve resolves, and no function rebinds the Job that it gets."""
    for name, text in files.items():
        for function in functions_of(parsed(text)):
            gets_job = "job" in {argument.arg for argument in function.args.args}
            for node in ast.walk(function):
                is_bound = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
                if gets_job and is_bound and node.id == "job":
                    yield f"{name}.{function.name} rebinds its job"
                if isinstance(node, ast.Call) and name.startswith("commands"):
                    called = ast.unparse(node.func)
                    is_path = "path" in called.lower()
                    if called.endswith(".resolve") and not is_path and name != "commands.resolve":
                        yield f"{name}.{function.name} calls {called}"


def few_imports_inside_functions(files: Files) -> Iterator[str]:
    """Rule 5: at most ten, each with its reason in a comment (in MaskGIT.py: in the docstring)."""
    found = []
    for name, text in files.items():
        lines = text.splitlines()
        for function in functions_of(parsed(text)):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    found.append(name)
                    around = lines[node.lineno - 2] + lines[node.lineno - 1]
                    if name != "MaskGIT" and "#" not in around:
                        yield f"{name}.{function.name} does not say why it imports"
    if len(found) > MOST_INNER_IMPORTS:
        yield f"{len(found)} imports inside functions: {found}"


def no_registry_twice(files: Files) -> Iterator[str]:
    """Rule 6: no file but its own lists three or more names of a registry."""
    registries = {
        "models.schedules": set(MASK_SCHEDULES),
        "models.samplers": set(SAMPLERS),
        "MaskGIT": {mode.name for mode in MODES},
        "data.datasets": set(DATASETS),
        "metrics.scores": set(METRICS),
    }
    for name, text in files.items():
        for names in collections_in(text):
            for home, registry in registries.items():
                if name != home and len(names & registry) > (3 if home == "MaskGIT" else 2):
                    yield f"{name} lists {sorted(names & registry)} of {home}"


def one_name_per_thing(files: Files) -> Iterator[str]:
    """Rule 7: a setting whose option has another name is called by its own name below commands."""
    fields = {fill.field for option in OPTIONS.values() for fill in option.fills}
    flags_only = {o.name for o in OPTIONS.values() if o.fills and o.name not in fields} - {"size"}
    flags_only -= {"step", "warmup"}  # ordinary words
    for name, tree in below_commands(files).items():
        for node in ast.walk(tree):
            words = {
                getattr(node, "id", None),
                getattr(node, "attr", None),
                getattr(node, "arg", None),
            }
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words |= set(re.findall(r"\w+", node.value))
            for word in words & flags_only:
                yield f"{name} says {word}"


def story_and_functions_are_short(files: Files) -> Iterator[str]:
    lengths = []
    if len(files["MaskGIT"].splitlines()) > MOST_LINES_OF_STORY:
        yield "MaskGIT.py is no longer a short story"
    for name, text in files.items():
        for function in functions_of(parsed(text)):
            length = (function.end_lineno or 0) - function.lineno + 1
            lengths.append(length)
            if length > LONGEST_FUNCTION:
                yield f"{name}.{function.name} has {length} lines"
    if sorted(lengths)[int(0.9 * len(lengths))] > LONG_FUNCTION:
        yield "one function in ten is long"


def packages_have_one_home(files: Files) -> Iterator[str]:
    for name, text in files.items():
        for package in HOMES.keys() & imports_in(text):
            if name not in HOMES[package]:
                yield f"{name} imports {package}"


def families_are_known_to_few(files: Files) -> Iterator[str]:
    """Rule 8: only the table, the stage that trains a family, and other families import it."""
    folders = {f"models.{name}" for names in FAMILIES.values() for name in names}
    of_stage = {
        "training.config",
        "training.vqgan_stage",
        "training.vqgan_losses",
        "training.codebook",
    }
    may = {"commands.options", "commands.train_vae", *of_stage}
    for name, text in files.items():
        is_of_family = ".".join(name.split(".")[:2]) in folders
        for imported in imports_in(text):
            home = ".".join(imported.split(".")[:2])
            if home in folders and name not in may and not is_of_family:
                yield f"{name} imports {imported}"


BROKEN: list[tuple[Rule, str, str]] = [
    (imports_go_down, "utils.files", "import data.spec"),
    (imports_go_down, "models.cells", "from data.datasets import DATASETS"),
    (imports_go_down, "training.ema", "import metrics.scores"),
    (imports_go_down, "page.worker", "import commands.options"),
    (imports_go_down, "metrics.scores", "import page.run_reader"),
    (no_flag_below_commands, "data.spec", "TEXT = 'see --data_dir'"),
    (settings_in_messages_are_known, "data.spec", "TEXT = 'lower `dropout`'"),
    (settings_in_messages_are_known, "data.spec", "TEXT = 'lower `TransformerConfig.depht`'"),
    (no_list_of_options, "commands.sweep", "NAMES = ('cfg_w', 'r_temp', 'step')"),
    (jobs_are_resolved_once, "commands.edit", "def run(job):\n    job = replace(job)"),
    (jobs_are_resolved_once, "commands.edit", "def run(job):\n    sweep.resolve(job)"),
    (few_imports_inside_functions, "data.spec", "def f():\n    import torch"),
    (
        few_imports_inside_functions,
        "MaskGIT",
        "def f():\n" + "".join(f"    import m{i}\n" for i in range(MOST_INNER_IMPORTS + 1)),
    ),
    (no_registry_twice, "commands.options", "S = ['confidence', 'moment', 'halton']"),
    (one_name_per_thing, "models.decoding", "def f(cfg_w): ..."),
    (one_name_per_thing, "models.decoding", "TEXT = 'the r_temp of the plan'"),
    (story_and_functions_are_short, "MaskGIT", "\n" * MOST_LINES_OF_STORY),
    (story_and_functions_are_short, "data.spec", "def f():" + "\n    x = 1" * LONGEST_FUNCTION),
    (families_are_known_to_few, "models.model", "import models.vqgan.network"),
    (families_are_known_to_few, "training.loop", "from models.maskgit import config"),
    (packages_have_one_home, "utils.files", "import argparse"),
    (packages_have_one_home, "metrics.scores", "from matplotlib import figure"),
    (packages_have_one_home, "utils.plots", "import matplotlib.pyplot"),
    (packages_have_one_home, "page.run_reader", "import starlette"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in BROKEN))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_program_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(program())) == []


@pytest.mark.parametrize(
    ("rule", "name", "line"),
    BROKEN,
    ids=[f"{rule.__name__}-{name}-{i}" for i, (rule, name, _) in enumerate(BROKEN)],
)
def test_a_broken_rule_is_seen(rule: Rule, name: str, line: str) -> None:
    files = program()
    assert list(rule({**files, name: f"{files[name]}\n{line}\n"}))


def test_the_parser_has_the_options_of_the_table_and_the_modes_and_no_others() -> None:
    actions = build_parser()._actions
    names = {action.dest for action in actions} - {"help", "former"}
    assert names == OPTIONS.keys() | {mode.name for mode in MODES}
    shown = [option.name for group in GROUPS for option in group.options]
    assert len(shown) == len(set(shown))


def test_every_option_names_modes_that_exist() -> None:
    names = {mode.name for mode in MODES}
    for option in OPTIONS.values():
        assert option.modes, option.name
        assert option.modes <= names, option.name


def test_defaults_that_fill_several_fields_agree() -> None:
    for option in OPTIONS.values():
        for fill in option.fills:
            if option.name != "size":  # the dataset's own
                value = option.default_value
                value = fill.convert(tuple(value) if isinstance(value, list) else value)
                assert value == getattr(fill.config, fill.field), (option.name, fill)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_every_mode_has_a_file_and_an_immutable_job(mode) -> None:
    module = mode.module()
    made = get_type_hints(module.resolve)["return"]
    for job in getattr(made, "__args__", (made,)):
        assert is_dataclass(job)
        assert job.__dataclass_params__.frozen, job
    is_in_the_story = mode.name in ("train_vae", "train", "sample")
    assert hasattr(module, "run") != is_in_the_story


def test_the_command_line_takes_its_names_from_the_registries() -> None:
    assert CHOICES["sampler"] == tuple(SAMPLERS)
    assert CHOICES["schedule"] == (*MASK_SCHEDULES, *CUMULATIVE_SCHEDULES)
    assert CHOICES["guidance_schedule"] == tuple(GUIDANCE_SCHEDULES)
    assert OPTIONS["dataset"].choices == tuple(DATASETS)
    for kind, names in FAMILIES.items():
        assert [family.name for family in families_of(kind)] == list(names)
        assert OPTIONS[kind].choices == names.keys()


def test_nothing_heavy_before_the_arguments_are_parsed() -> None:
    """The table of datasets needs not even numpy; for the help nothing slow is loaded."""
    code = (
        "import sys, data.datasets\n"
        f"assert not {HEAVY | {'numpy', 'PIL'}} & set(sys.modules)\n"
        "import MaskGIT, commands.options, commands.parser, commands.flags\n"
        "try: MaskGIT.main(['--train', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=ROOT)


def section_of_the_guide(title: str) -> str:
    guide = (ROOT / "docs/architecture.md").read_text()
    return guide.split(f"\n## {title}\n")[1].split("\n## ")[0]


def files_to_read(section: str) -> list[str]:
    """The files of the table in a section."""
    return re.findall(r"^\| `(\S+\.py)` \|", section, re.MULTILINE)


def test_the_files_to_read_to_open_a_checkpoint_are_few() -> None:
    assert len(files_to_read(section_of_the_guide("A checkpoint"))) == 8


@pytest.mark.parametrize(("title", "most_lines"), [("A training step", 800), ("Decoding", 900)])
def test_the_files_to_read_are_few_and_short(title: str, most_lines: int) -> None:
    section = section_of_the_guide(title)
    assert f"{most_lines} lines" in section
    files = files_to_read(section)
    assert 1 < len(files) <= 6
    assert sum(len((ROOT / file).read_text().splitlines()) for file in files) <= most_lines


def running() -> Iterator[tuple[str, str, int]]:
    """File, name and line of each of the program's functions on the stack."""
    for frame, line in traceback.walk_stack(sys._getframe()):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).with_suffix("").parts[0] in FLOORS:
            yield path.relative_to(ROOT).as_posix(), frame.f_code.co_name, line


def test_the_walk_of_an_image_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training, by its files on the stack whenever an image, or what it became, is changed."""
    config = replace(VQGAN, image_size=8, image_channels=3)
    contents = {"dataset": "folder", "step": 0, "tokenizer": Tokenizer(VQModel(config)).entry()}
    save_checkpoint(tmp_path / "VQGAN.pt", "vqgan", contents)
    write_images(tmp_path / "images", ("a", "b"))  # of 16 pixels
    files: set[str] = set()
    lines: dict[str, int] = {}  # of `train`, where a change is made first

    def seen(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found = list(running())
            here = [line for file, function, line in found if (file, function) == ENTRY]
            if here and CHANGES[-1][1] not in lines:
                lines.setdefault(name, here[0])
                files.update(file for file, _, _ in found)
            return change(*args, **kwargs)

        return call

    for owner, name in CHANGES:
        monkeypatch.setattr(owner, name, seen(name, getattr(owner, name)))
    main(
        f"--train --dataset folder --data_dir {tmp_path}/images --output_dir {tmp_path} --n_epochs "
        f"1 --no_wandb --checkpoint_vae {tmp_path}/VQGAN.pt {TINY_TRANSFORMER}".split()
    )
    assert lines.keys() == {name for _, name in CHANGES}
    assert len(set(lines.values())) == 2, "the walk comes back to the entry once"
    section = section_of_the_guide("An image, from disk to loss")
    table = "".join(line for line in section.splitlines() if line.startswith("|"))
    assert files == set(re.findall(r"`(\S+\.py)`", table))
    assert len(files) <= 14
    assert f"These {len(files)} files" in section


@pytest.mark.parametrize(("file", "most_lines"), [("examples/minimal.py", 150), ("README.md", 130)])
def test_what_is_read_first_is_short(file: str, most_lines: int) -> None:
    assert len((ROOT / file).read_text().splitlines()) <= most_lines


def test_the_guide_names_files_that_exist() -> None:
    guide = (ROOT / "docs/architecture.md").read_text()
    for file in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", guide):
        assert (ROOT / file).is_file(), file


def test_package_files_are_empty() -> None:
    for name, text in program().items():
        if name.endswith("__init__"):
            assert text == "", name
