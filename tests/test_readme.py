"""What the README and docs/ say is what the program does."""

import re
from pathlib import Path

import numpy as np

import data.datasets
from commands.modes import MODES
from commands.options import GROUPS, OPTIONS
from data.datasets import DATASETS
from data.spec import VIEWS, DatasetSpec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text() for page in DOCS.rglob("*.md")}
EVERYTHING = "\n".join([README, *PAGES.values()])


def table_of_datasets() -> str:
    """The table as Markdown, as docs/datasets.md shows it."""
    head = "| dataset | classes | channels | size | views | splits | source | license | files |"
    lines = [head, "| --- " * head.count(" |") + "|"]
    for spec in DATASETS.values():
        source = f"<{spec.source}>" if "://" in spec.source else spec.source
        cells = (
            f"`{spec.name}`",
            spec.num_classes or "sub-folders, or 1",
            spec.channels,
            spec.size,
            VIEWS[spec.flips],
            " / ".join(spec.splits.values()),
            source,
            spec.license,
            ", ".join(f"`{file}`" for file in spec.files),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_datasets_is_the_table_of_the_program():
    assert table_of_datasets() in PAGES["datasets.md"], f"it must be:\n{table_of_datasets()}"


def test_the_sizes_and_channels_of_the_datasets_are_those_of_the_program():
    rows = re.findall(r"\| (32|64|128) \|(.*)\|(.*)\|\n", README)
    named = {
        (int(size), channels, name)
        for size, gray, color in rows
        for channels, cell in ((1, gray), (3, color))
        for name in re.findall(r"`(\w+)`", cell)
    }
    assert named == {(spec.size, spec.channels, spec.name) for spec in DATASETS.values()}


def test_the_example_runs(trained):
    (code,) = re.findall(r"```python\n(import numpy.*?)```", README, re.DOTALL)
    code = code.replace("runs/demo/MaskGIT_fashionmnist.pt", str(trained / "MaskGIT_mnist.pt"))
    code = code.replace("sneaker", "3").replace("bag", "4")  # classes of the tests' model
    assert len(code.strip().splitlines()) <= 8
    names: dict = {}
    exec(code, names)
    assert (names["images"].shape, names["images"].dtype) == ((2, 32, 32, 1), np.uint8)
    assert names["variants"].shape == (4, 32, 32, 1)
    assert (names["variants"][:, 16:] == names["images"][1, 16:]).all()
    assert names["hidden"][0] == 2 * 64
    assert names["hidden"][-1] == 0


def test_the_row_of_a_new_dataset_makes_one():
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["datasets.md"], re.DOTALL)
    (row,) = eval(code, vars(data.datasets).copy())
    assert isinstance(row, DatasetSpec)


def table_of_options():
    """Write all options as the Markdown tables of docs/options.md."""
    lines = []
    for group in GROUPS:
        lines += [f"## {group.title[0].upper()}{group.title[1:]}", ""]
        lines += ["| option | | default | with --resume |", "| --- | --- | --- | --- |"]
        for option in group.options:
            default = f"`{option.default_text}`" if option.default_text else ""
            text = option.help.replace("|", "\\|")
            if option.choices and default:
                text += ": " + ", ".join(f"`{choice}`" for choice in option.choices)
            lines.append(f"| `{option.usage}` | {text} | {default} | {option.resume.value} |")
        lines.append("")
    return "\n".join(lines)


def test_the_table_of_options_is_that_of_the_program():
    assert table_of_options() in PAGES["options.md"], f"it must be:\n{table_of_options()}"


def test_every_option_they_name_exists():
    known = {mode.flag for mode in MODES} | {option.flag for option in OPTIONS.values()}
    known |= {"--help", "--version"}
    of_scripts_and_torchrun = {
        "--fast",
        "--gpu",
        "--lowest",
        "--signal",
        "--nproc_per_node",
        "--gpus-per-task",
        "--kills",
        "--errors",
        "--flips",
        "--cases",
        "--rounds",
        "--halves",
        "--epochs",
        "--steps",
    }
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", EVERYTHING))
    assert named - of_scripts_and_torchrun <= known


def test_every_file_they_name_exists():
    names = re.findall(
        r"`((?:commands|page|training|metrics|models|data|utils|scripts|tests|benchmarks|examples)/[\w/.]*)`",
        EVERYTHING,
    )
    files = "\n".join(path.read_text() for path in ROOT.glob("[cdmptu]*/*.py"))
    names += re.findall(r"requirements(?:-\w+)?\.txt", EVERYTHING + files)
    for name in names:
        assert (ROOT / name).exists(), name


def test_every_link_between_them_leads_to_a_file_and_every_page_is_reached():
    pages = {ROOT / "README.md", *(DOCS / name for name in PAGES)}
    linked = {
        (page.parent / target).resolve()
        for page in [*pages, ROOT / "CHANGELOG.md"]
        for target in re.findall(r"(?:\]\(|src=\")([\w./]+)[\")]", page.read_text())
    }
    assert [path for path in linked if not path.exists()] == []
    assert pages - linked <= {ROOT / "README.md"}
