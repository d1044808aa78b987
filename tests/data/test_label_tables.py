"""Labels in tables beside images, in the layouts of Hugging Face and Kaggle."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from data.open_dataset import open_dataset
from data.spec import Split
from utils.errors import UserError

NAMES = [f"{number:03d}" for number in range(8)]
CLASS = {name: ["cat", "dog"][number % 2] for number, name in enumerate(NAMES)}
EVERY = {int(name): label for name, label in CLASS.items()}


def put(folder: Path, names: Sequence[str] = NAMES) -> None:
    """Write images whose green level is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (9, 8), (50, int(name), 0)).save(folder / f"{name}.png")


def table(*columns: str, form: str = "{}.png", names: Sequence[str] = NAMES) -> str:
    """A table of images with their class in all columns but the first."""
    rows = [[form.format(name), *[CLASS[name]] * len(columns[1:])] for name in names]
    return "\n".join(map(",".join, [columns, *rows]))


def labels(folder: Path, split: Split) -> dict[int, str]:
    """The class of each image by its number."""
    images = open_dataset("folder", split, folder, 8)
    items = [images[index] for index in range(len(images))]
    return {int(pixels[1, 0, 0]): images.class_names[label] for pixels, label in items}


def all_labels(folder: Path) -> dict[int, str]:
    return labels(folder, "train") | labels(folder, "validation")


MARKS = {"cat": "1.0,0", "dog": "0.0,1"}
LINES = [{"file_name": f"{n}.png", "text": f"a {n}", "label": CLASS[n], "box": [1]} for n in NAMES]
TABLES = [
    ("metadata.csv", table("file_name", "label")),
    ("metadata.csv", table("file_name", "pet")),
    ("metadata.csv", table("file_name", "label").replace(",", ";")),
    ("metadata.csv", "\ufeff" + table("file_name", "label").replace("\n", "\r\n")),
    ("metadata.csv", table("file_name", "label", form="./{}.png")),
    ("metadata.csv", 'file_name,text,label\n000.png,"a cat,\nasleep",cat' + table("", "", "")),
    ("labels.csv", table("id", "breed", form="{}")),
    ("labels.csv", "n,image,Class\n" + "\n".join(f"9,{n}.png,{CLASS[n]}" for n in NAMES)),
    ("labels.csv", "image,cat,dog\n" + "\n".join(f"{n},{MARKS[CLASS[n]]}" for n in NAMES)),
    ("train.csv", table("image_id", "label")),
    ("metadata.jsonl", "\n".join(map(json.dumps, LINES))),
    ("labels.csv", table("image", "text", "pet")),
    ("labels.csv", ",image,pet\n" + "\n".join(f"{n},{n}.png,{CLASS[n]}" for n in NAMES)),
    ("labels.csv", table("file", "label").replace(",", "|")),
    ("labels.csv", table("file", "label").replace(",", ', "').replace("\n", '"\n') + '"'),
    ("labels.csv", "sep=;\n" + table("file", "label").replace(",", ";")),
    ("labels.csv", table("file", "label", form="{}.JPG")),
    ("labels.csv", table("file", "label", form="/home/somebody/pets/{}.png")),
    ("labels.csv", table("file", "label", form="D:\\pets\\{}.png")),
    ("labels.csv", table("file", "label", form="../pets/{}.jpeg")),
    ("trainLabels.csv", table("image", "level", form="{}")),
    ("Pets_metadata.tsv", table("image", "label").replace(",", "\t")),
    (
        "labels.csv",
        table("image", "cat", "dog", names=[])
        + "".join(f"\n{n},{CLASS[n] == 'cat'},{CLASS[n] == 'dog'}" for n in NAMES),
    ),
]


@pytest.mark.parametrize(("name", "text"), TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_table_beside_the_images_has_their_classes(tmp_path, caplog, name, text, encoding):
    caplog.set_level("INFO")
    put(tmp_path)
    (tmp_path / name).write_text(text, encoding, newline="")
    assert all_labels(tmp_path) == EVERY
    assert caplog.text.count(f"{name}: classes from ") == 1


@pytest.mark.parametrize("place", ["images", "images/part_1"])
def test_images_may_be_in_folders_below_the_table(tmp_path, place):
    put(tmp_path / place, NAMES[:4])
    put(tmp_path / "images" / "part_2", NAMES[4:])
    (tmp_path / "labels.csv").write_text(table("id", "label", form="{}"))
    assert all_labels(tmp_path) == EVERY


def test_splits_may_have_a_table_each(tmp_path):
    for split, names in (("train", NAMES[:6]), ("validation", NAMES[6:])):
        put(tmp_path / split, names)
        (tmp_path / split / "metadata.csv").write_text(table("file_name", "label", names=names))
    assert labels(tmp_path, "train") == {number: EVERY[number] for number in range(6)}
    assert labels(tmp_path, "validation") == {number: EVERY[number] for number in (6, 7)}


def test_one_table_may_name_the_images_of_both_splits(tmp_path):
    put(tmp_path / "train", NAMES[:6])
    put(tmp_path / "test", NAMES[6:])
    (tmp_path / "test" / "007.png").rename(tmp_path / "test" / "000.png")  # as one of train
    rows = table("file_name", "label", form="train/{}.png", names=NAMES[:6])
    (tmp_path / "metadata.csv").write_text(rows + "\ntest/000.png,dog\ntest/006.png,cat")
    assert labels(tmp_path, "train") == {number: EVERY[number] for number in range(6)}
    assert labels(tmp_path, "validation") == {number: EVERY[number] for number in (6, 7)}


@pytest.mark.parametrize("place", ["/data/pets/", "C:\\pets\\"])
def test_paths_on_another_machine_keep_the_splits_apart(tmp_path, place):
    put(tmp_path / "train", NAMES[:6])
    put(tmp_path / "test", NAMES[:2])  # other images of the same names
    rows = table("file_name", "label", form=place + "train/{}.png", names=NAMES[:6])
    other = "".join(f"\n{place}test/{name}.png,{CLASS[name]}" for name in NAMES[1::-1])
    (tmp_path / "metadata.csv").write_text(rows + other)
    assert labels(tmp_path, "train") == {number: EVERY[number] for number in range(6)}
    assert labels(tmp_path, "validation") == {number: EVERY[number] for number in range(2)}


def test_tables_of_test_images_say_nothing_about_others(tmp_path):
    put(tmp_path)
    for name in ("test_labels.csv", "sample_submission.csv", "val_metadata.csv"):
        (tmp_path / name).write_text(table("file", "label"))
    assert set(all_labels(tmp_path).values()) == {"images"}


def test_numbers_that_pandas_made_floats_are_the_same_classes(tmp_path):
    put(tmp_path / "train", NAMES[:6])
    put(tmp_path / "test", NAMES[6:])
    for split, names, form in (("train", NAMES[:6], "{}"), ("test", NAMES[6:], "{}.0")):
        rows = [f"{name}.png,{form.format(int(name) % 2)}" for name in names]
        (tmp_path / split / "labels.csv").write_text("\n".join(["file,label", *rows]))
    assert all_labels(tmp_path) == {number: str(number % 2) for number in EVERY}


@pytest.mark.parametrize("missing", ["", "NaN", "null"])
@pytest.mark.parametrize("name", ["labels.csv", "metadata.jsonl"])
def test_an_image_without_a_class_is_left_out(tmp_path, missing, name):
    put(tmp_path)
    text = table("file", "label").replace("007.png,dog", f"007.png,{missing}")
    if name == "metadata.jsonl":
        lines = [json.dumps({"file": f"{n}.png", "label": CLASS[n]}) for n in NAMES[:-1]]
        text = "\n".join([*lines, '{"file": "007.png", "label": %s}' % (missing or '""')])
    (tmp_path / name).write_text(text)
    assert all_labels(tmp_path) == {number: EVERY[number] for number in range(7)}


def test_test_images_of_the_same_names_are_not_labeled(tmp_path, caplog):
    caplog.set_level("INFO")
    put(tmp_path / "train")
    put(tmp_path / "test")
    (tmp_path / "labels.csv").write_text(table("id", "breed", form="{}"))
    assert all_labels(tmp_path) == EVERY
    assert "not used are the folders test" in caplog.text


def test_rows_and_images_without_each_other_are_said(tmp_path, caplog):
    caplog.set_level("INFO")
    put(tmp_path)
    text = table("file_name", "label", names=NAMES[:-2]) + "\n999.png,cat\n006.png,"
    (tmp_path / "metadata.csv").write_text(text)
    assert all_labels(tmp_path) == {number: EVERY[number] for number in range(6)}
    assert "rows that name no image here, or several (1): 999.png" in caplog.text
    assert "left out: 2 in no row of metadata.csv" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("labels.csv", table("id", "label", "category"), "several columns .*: label, category;"),
        ("labels.csv", table("id", "one", "two"), "several columns .*: one, two;"),
        ("labels.csv", table("id", "label") + "\n000.png,dog", "the classes cat and dog; keep one"),
        (
            "labels.csv",
            table("000.png", "cat", names=NAMES[1:]),
            "no line with the names of its col",
        ),
        ("metadata.jsonl", '{"file_name"', "cannot read .*metadata.jsonl: "),
        ("metadata.jsonl", "[1]", "metadata.jsonl: each line of it must be a JSON object"),
    ],
)
def test_an_unclear_table_is_named(tmp_path, caplog, name, text, said):
    put(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        open_dataset("folder", "train", tmp_path, 8)


@pytest.mark.parametrize(("column", "form"), [("text", "{}"), ("sentence", "{}"), ("text", "one")])
def test_captions_are_not_classes(tmp_path, caplog, column, form):
    caplog.set_level("INFO")
    put(tmp_path)
    rows = "\n".join(f"{name}.png,a picture of {form.format(name)}" for name in NAMES)
    (tmp_path / "metadata.csv").write_text(f"file_name,{column}\n{rows}")
    assert set(all_labels(tmp_path).values()) == {"images"}
    assert f"none of its columns holds classes (file_name, {column})" in caplog.text


def test_what_is_no_single_value_is_no_class(tmp_path):
    put(tmp_path)
    lines = [{"file_name": f"{n}.png", "objects": {"bbox": []}, "label": ["a"]} for n in NAMES]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert set(all_labels(tmp_path).values()) == {"images"}


def test_a_table_that_is_not_utf_8_is_named(tmp_path):
    put(tmp_path)
    (tmp_path / "labels.csv").write_bytes(
        table("id", "label").replace("cat", "ca\xf1").encode("latin-1")
    )
    with pytest.raises(UserError, match=r"labels\.csv: it is not UTF-8 .*; save it as UTF-8"):
        open_dataset("folder", "train", tmp_path, 8)


@pytest.mark.parametrize("columns", [("id", "label"), ("id", "label", "class")])
def test_a_table_that_repeats_the_sub_folders_or_is_unclear_changes_nothing(tmp_path, columns):
    for number, name in enumerate(("cat", "dog")):
        put(tmp_path / name, NAMES[number::2])
    before = open_dataset("folder", "train", tmp_path, 8)
    (tmp_path / "labels.csv").write_text(table(*columns))
    after = open_dataset("folder", "train", tmp_path, 8)
    assert after.class_names == ("cat", "dog")
    assert after.fingerprint == before.fingerprint


def test_another_class_in_the_table_makes_another_fingerprint(tmp_path):
    put(tmp_path)
    (tmp_path / "labels.csv").write_text(table("id", "label"))
    before = open_dataset("folder", "train", tmp_path, 8).fingerprint
    (tmp_path / "labels.csv").write_text(table("id", "label").replace("dog", "wolf"))
    assert open_dataset("folder", "train", tmp_path, 8).fingerprint != before
