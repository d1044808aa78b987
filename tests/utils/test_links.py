"""Names that are links: those of the user lead to the file, those of others to nothing."""

import os
import re

import pytest
from PIL import Image

from data.checked_images import NOTES, examined
from data.publish import claim, new_folder, publish
from training.tracking import MetricsFile
from utils import files
from utils.errors import UserError
from utils.files import (
    atomic_write,
    exclusive_lock,
    make_folder,
    replace_file,
    reserve_space,
    write_json_atomic,
)
from utils.links import open_own


def put(path, content=b"new"):
    with atomic_write(path) as file:
        file.write(content)


def publish_grid(folder):
    """A sampling's results take their places."""
    with claim(folder, "sampling"):
        made = new_folder(folder)
        (made / "images").mkdir()
        (made / "grid.png").write_bytes(b"new")
        publish(folder, ("grid.png",))


# Every way in which the program opens a file to write to it: the name, and what writes.
DOORS = {
    "checkpoint": ("a.pt", lambda run: put(run / "a.pt")),
    "record": ("config.json", lambda run: write_json_atomic(run / "config.json", {})),
    "numbers": ("m.jsonl", lambda run: MetricsFile(run / "m.jsonl", 9).log({"loss": 1.0}, 1)),
    "results": ("grid.png", publish_grid),
}


@pytest.fixture
def strangers_link(tmp_path, monkeypatch):
    """Makes links that belong to somebody else, as far as the program sees."""
    theirs = set()
    lstat = type(tmp_path).lstat

    def owned(path):
        found = lstat(path)
        if path not in theirs:
            return found
        return os.stat_result((*found[:4], os.geteuid() + 1, *found[5:]))

    monkeypatch.setattr(type(tmp_path), "lstat", owned)

    def make(link, target):
        link.symlink_to(target)
        theirs.add(link)

    return make


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("relative", [False, True])
def test_what_a_link_of_the_user_names_is_written(tmp_path, door, relative):
    run, disk = tmp_path / "run", tmp_path / "disk"
    name, write = DOORS[door]
    disk.mkdir()
    run.mkdir()
    (disk / "first").symlink_to(f"real-{name}")
    (run / name).symlink_to("../disk/first" if relative else disk / "first")
    (disk / f"real-{name}").write_bytes(b"")
    write(run)
    assert (run / name).is_symlink()
    assert (disk / f"real-{name}").stat().st_size > 0
    assert sorted(path.name for path in disk.iterdir()) == ["first", f"real-{name}"]


def test_what_takes_the_place_behind_a_link_is_gone_where_it_was(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "a.npz").symlink_to("disk/a.npz")
    (tmp_path / "made").write_bytes(b"new")
    replace_file(tmp_path / "made", tmp_path / "a.npz")
    assert (tmp_path / "disk" / "a.npz").read_bytes() == b"new"
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "a.npz"}


@pytest.mark.parametrize("door", DOORS)
def test_nothing_is_written_through_the_link_of_another(tmp_path, door, strangers_link):
    run, diary = tmp_path / "run", tmp_path / "diary"
    name, write = DOORS[door]
    run.mkdir()
    diary.write_bytes(b"ten years of notes")
    strangers_link(run / name, diary)
    write(run)
    assert diary.read_bytes() == b"ten years of notes"
    assert not (run / name).is_symlink()
    assert (run / name).stat().st_size > 0


def test_notes_of_checked_images_do_not_go_through_the_link_of_another(tmp_path, strangers_link):
    diary = tmp_path / "diary"
    diary.write_bytes(b"ten years of notes")
    strangers_link(tmp_path / NOTES, diary)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    assert examined(tmp_path, ("a.png",), notes=tmp_path)[0] == {}
    assert diary.read_bytes() == b"ten years of notes"


def test_a_link_that_comes_while_a_training_appends_is_not_followed(tmp_path, strangers_link):
    diary, path = tmp_path / "diary", tmp_path / "m.jsonl"
    diary.write_bytes(b"notes")
    metrics = MetricsFile(path, 0)
    path.unlink()
    strangers_link(path, diary)
    with pytest.raises(UserError, match=r"m\.jsonl: it is a link that another user made"):
        metrics.log({"loss": 1.0}, 1)
    with (
        pytest.raises(UserError, match="it is a link that another user made"),
        exclusive_lock(path, "taken"),
    ):
        pass
    with pytest.raises(OSError, match="it is a link that another user made"):
        reserve_space(path)
    assert diary.read_bytes() == b"notes"


def test_the_name_of_an_unfinished_file_cannot_be_guessed_and_is_made_new(tmp_path, monkeypatch):
    names = set()
    for _ in range(2):
        with atomic_write(tmp_path / "a.pt") as file:
            (partial,) = tmp_path.glob(".a.pt.*.partial")
            assert files.UNFINISHED.fullmatch(partial.name)["process"] == str(os.getpid())
            names.add(partial.name)
            file.write(b"first")
    assert len(names) == 2
    # Even who guesses it gets nothing.
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "guessed")
    diary = tmp_path / "diary"
    diary.write_bytes(b"notes")
    ending = re.sub(r"^\.a\.pt\.\w{8}", "", names.pop())
    (tmp_path / f".a.pt.guessed{ending}").symlink_to(diary)
    with pytest.raises(UserError, match="File exists; what was there before is intact"):
        put(tmp_path / "a.pt")
    assert diary.read_bytes() == b"notes"
    assert (tmp_path / "a.pt").read_bytes() == b"first"


def test_a_folder_that_is_the_link_of_another_is_refused(tmp_path, strangers_link):
    (tmp_path / "home").mkdir()
    (tmp_path / "own").symlink_to("home")
    assert make_folder(tmp_path / "own").is_dir()
    strangers_link(tmp_path / "samples", tmp_path / "home")
    with pytest.raises(UserError, match="samples: it is a link that another user made"):
        make_folder(tmp_path / "samples")


def test_pipes_devices_and_folders_are_no_places_for_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(UserError, match=r"cannot write .*: it is not a regular file"):
            put(tmp_path / name)
        with pytest.raises(OSError, match=r"regular|directory|device"):
            open_own(tmp_path / name, "ab")
    assert (tmp_path / "pipe").is_fifo()


def test_links_in_a_circle_and_to_a_disk_that_is_gone_are_said_or_replaced(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    put(tmp_path / "circle")
    assert (tmp_path / "circle").read_bytes() == b"new"
    (tmp_path / "gone").symlink_to("disk/a.pt")
    with pytest.raises(UserError, match="gone: No such file or directory"):
        put(tmp_path / "gone")
    assert not (tmp_path / "disk").exists()
