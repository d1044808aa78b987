"""--look on a folder where much is wrong, and the line at every start."""

import numpy as np
import pytest
from PIL import Image

from data.problems import Look, problems_of_copies
from MaskGIT import main


def put(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def noise(seed, height=16, width=16):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def odd(tmp_path):
    folder = tmp_path / "odd"
    for number in range(25):
        put(folder / "train" / "many" / f"{number:02}.png", noise(number))
    put(folder / "train" / "many" / "again.png", noise(3))
    put(folder / "train" / "many" / "tall.png", noise(90, 60, 20))
    put(folder / "val" / "many" / "twin.png", noise(4))
    put(folder / "val" / "many" / "other.png", noise(91))
    (folder / "train" / "nothing").mkdir()
    put(folder / "train" / "two\nlines" / "one.png", noise(92))
    drawing = np.full((16, 16, 4), 255, np.uint8)
    drawing[..., 3] = np.eye(16) * 255
    put(folder / "train" / "few" / "drawn.png", Image.fromarray(drawing))
    edged = Image.new("RGB", (18, 16))
    edged.putpixel((0, 0), (255, 0, 0))  # where the crop cuts
    put(folder / "train" / "few" / "black.png", edged)
    return folder


FOUND = (
    "few (2)",
    "folders without images: nothing",
    "training images that repeat others (1): many/03.png = many/again.png",
    "validation images that are also training images (1): many/04.png = many/twin.png",
    "1 all black: few/black.png",
    "1 all white: few/drawn.png (1 drawn on transparent ground: another --background shows them)",
    "1 lose more than 30% to the crop (--fit pad keeps all): many/tall.png",
)


def look(folder, tmp_path, capsys, options=""):
    main(
        f"--look --dataset folder --data_dir {folder} --size 16 --output_dir {tmp_path}/runs "
        f"{options}".split()
    )
    return capsys.readouterr().out.replace("many/again.png = many/03.png", FOUND[2][-29:])


def test_a_look_names_everything_that_is_odd(odd, tmp_path, capsys):
    out = look(odd, tmp_path, capsys)
    for text in FOUND:
        assert text in out
    assert "few/black.png (" not in out  # it is opaque
    assert "\ntwo\\nlines                      1          0\n" in out
    with Image.open(tmp_path / "runs" / "folder" / "look.png") as sheet:
        assert sheet.width > sheet.height


def test_of_many_copies_three_pairs_are_shown_and_the_others_counted():
    train = [Look(f"{number}.png", bytes([number % 5]), None, 0) for number in range(10)]
    others = [one._replace(name=f"held_out/{one.name}") for one in train[:5]]
    repeats, twins = problems_of_copies(train, others)
    for text in (repeats, twins):
        assert text.count(" = ") == 3
        assert "(5): " in text
        assert " and 2 more" in text


def test_what_it_proposes_helps(odd, tmp_path, capsys):
    out = look(odd, tmp_path, capsys, "--fit pad --background gray")
    assert "lose more" not in out
    assert "all white" not in out


def test_results_among_the_images_are_refused(tmp_path, refusal, monkeypatch):
    """At the next start they would be images of a class "runs", or the only images of all."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        put(tmp_path / f"pets/{number % 2}/{number}.png", noise(number))
    here = "--look --dataset folder --data_dir . --size 16"
    said = refusal(lambda: main(here.split()))
    assert "--output_dir runs is among the images of --data_dir ., so" in said
    elsewhere = f"{here} --output_dir {tmp_path.parent / 'elsewhere'}"
    said = refusal(lambda: main(f"{elsewhere} --cache_dir cache".split()))
    assert "--cache_dir cache is among the images of --data_dir ., so" in said
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]
    main(elsewhere.split())


def test_classes_whose_names_look_alike_are_named(tmp_path, capsys):
    """Two spellings of one accent, and two cases: perhaps the same class from two machines."""
    for name in ("\u00e9cru", "e\u0301cru", "cat", "Cat ", "dog"):
        for number in range(2):
            put(tmp_path / "alike" / name / f"{number}.png", noise(number))
    out = look(tmp_path / "alike", tmp_path, capsys)
    assert "classes whose names look alike: 'Cat ' = 'cat', 'e\u0301cru' = '\u00e9cru'" in out


def test_nothing_odd_is_said_too(tmp_path, capsys):
    for number in range(30):
        put(tmp_path / "fine" / f"{number}.png", noise(number))
    assert "nothing odd was found" in look(tmp_path / "fine", tmp_path, capsys)


def test_every_start_says_it_in_one_line(odd, tmp_path, capsys):
    main(
        f"--train_vae --dry_run --dataset folder --data_dir {odd} --size 16 --channels 32 "
        f"--perceptual_weight 0 --output_dir {tmp_path}/runs".split()
    )
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "training images of" in one]
    assert line.startswith("30 training images of 16 pixels, 1 to 27 in a class, 2 validation")
    for text in (*FOUND[:2], *FOUND[4:], "files that repeat others: 2", "(--look says more)"):
        assert text in line


def test_classes_of_one_size_have_one_number(tmp_path, capsys):
    for split in ("train", "val"):
        put(tmp_path / "images" / split / "fine" / "0.png", noise(0))
    main(
        f"--train_vae --dry_run --dataset folder --data_dir {tmp_path}/images --size 16 "
        f"--channels 32 --perceptual_weight 0 --output_dir {tmp_path}/runs".split()
    )
    said = "1 training image of 16 pixels, 1 in a class, 1 validation image"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("color", ["nocolor", "#12", ""])
def test_a_background_that_is_no_color_is_one_line(refusal, color):
    command = ["--look", "--dataset", "folder", "--background", color]
    assert "needs a color" in refusal(lambda: main(command))
