"""The small tools: files, locks, images, seeds, devices, averages."""

import errno
import hashlib
import json
import logging
import os
import re
import stat
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data.generated import write_npz, write_pngs
from models.labels import parse_labels
from training.ema import EMA
from utils import device, files
from utils.device import choose_device, choose_precision
from utils.errors import UserError, counted, errors_on_one_line, is_out_of_memory
from utils.files import (
    atomic_write,
    exclusive_lock,
    make_folder,
    read_with_digest,
    remove_leftovers,
    reserve_space,
    temporary_folder,
    write_json_atomic,
)
from utils.pictures import from_uint8, save_grid, save_png, tile, to_uint8
from utils.progress import set_up_logging
from utils.records import read_record, write_record
from utils.seeding import derive_seed, rng
from utils.torch_file import read_torch_file


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_previous_file(tmp_path, error):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": 1})

    def fail():
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_data_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    path, real, flushed = tmp_path / "run" / "a.json", tmp_path / "disk" / "a.json", []
    for each in (path, real):
        each.parent.mkdir()
    real.write_bytes(b"old")
    path.symlink_to(real)

    def note(descriptor):
        found = os.fstat(descriptor)
        is_folder = os.path.samestat(found, real.parent.stat())
        flushed.append("folder" if is_folder else found.st_size)
        flushed.append(path.read_bytes())

    monkeypatch.setattr(files.os, "fsync", note)
    with atomic_write(path) as file:
        file.write(b"newer")
    assert flushed == [5, b"old", "folder", b"newer"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError("6 requested and 2 written")], ids=str
)  # the second as numpy says it
def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch, error):
    monkeypatch.setattr(files.os, "fsync", Mock(side_effect=error))
    with pytest.raises(UserError, match=rf"cannot write .*a\.json: {error.strerror or error};"):
        write_json_atomic(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_leftovers_of_the_dead_alone_are_deleted(tmp_path, dead):
    here = files._machine()
    ages = {  # hours since the last change
        f".dead.pt.{here}-{dead}.partial": 0,
        f".alive.pt.{here}-{os.getppid()}.partial": 99,
        f".elsewhere.pt.other-machine-4026531836-{dead}.partial": 23,
        f".forgotten.pt.other-machine-4026531836-{os.getppid()}.partial": 25,
        f".own.pt.{here}-{os.getpid()}.partial": 0,
        f".same_number.pt.{here}-{os.getpid()}.partial": 99,
        f".impossible.pt.{here}-{10**30}.partial": 0,
        f".before.pt.{os.getppid()}.partial": 23,  # of the version before
        f".long_before.pt.{os.getppid()}.partial": 25,
        ".foreign.pt.partial": 99,
        "model.pt": 99,
    }
    for name, hours in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - hours * 3600,) * 2)
    for number in (dead, os.getppid()):
        (tmp_path / f".folder.abc.{here}-{number}.partial" / "deep").mkdir(parents=True)
    kept = tmp_path / f".folder.abc.{here}-{os.getppid()}.partial"
    (tmp_path / f".link.{here}-{dead}.partial").symlink_to(kept)
    remove_leftovers(tmp_path)
    left = {path.name.split(".")[1] for path in tmp_path.iterdir()} - {"link"}
    assert left == {"alive", "before", "elsewhere", "folder", "foreign", "own", "pt"}
    assert (kept / "deep").is_dir()


def test_files_of_a_process_of_another_user_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "kill", Mock(side_effect=PermissionError))
    left = tmp_path / f".a.pt.{files._machine()}-{os.getppid()}.partial"
    left.touch()
    remove_leftovers(tmp_path)
    assert left.exists()


@pytest.mark.parametrize("host", ["", "...", "node_3.local", "k\xfcche", "a" * 300])
def test_files_of_every_machine_are_recognized(tmp_path, monkeypatch, host):
    monkeypatch.setattr(files.socket, "gethostname", lambda: host)
    monkeypatch.setattr(files, "_machine", files._machine.__wrapped__)
    with atomic_write(tmp_path / "a.pt"):
        (partial,) = tmp_path.iterdir()
        assert files.UNFINISHED.fullmatch(partial.name)["machine"] == f"{files._machine()}-"
        monkeypatch.setattr(os, "getpid", os.getppid)  # to another process it is not its own
        monkeypatch.setattr(files, "_is_running", lambda number: False)
        remove_leftovers(tmp_path)
        assert not partial.exists()
        partial.touch()


def test_whoever_writes_in_a_folder_first_removes_the_leftovers_there(tmp_path, dead):
    disk = tmp_path / "disk"
    disk.mkdir()
    left = disk / f".strip.png.{files._machine()}-{dead}.partial"
    left.touch()
    (tmp_path / "a.json").symlink_to("disk/a.json")
    write_json_atomic(tmp_path / "a.json", {})
    assert not left.exists()


def test_missing_folders_above_a_file_are_made(tmp_path):
    write_json_atomic(tmp_path / "one" / "two" / "a.json", {})
    assert (tmp_path / "one" / "two" / "a.json").read_text() == "{}\n"


def test_another_space_of_process_numbers_is_another_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_machine", lambda: "host-4026532999")  # of a container
    with atomic_write(tmp_path / "a.npz"):
        (unfinished,) = tmp_path.iterdir()
        monkeypatch.setattr(files, "_machine", lambda: "host-4026531836")
        remove_leftovers(tmp_path)
        assert unfinished.exists()


@pytest.mark.parametrize("name", ["idx", "out[1]", "**"])
def test_a_temporary_folder_goes_at_the_end_and_after_a_kill_at_the_next_start(
    tmp_path, dead, name
):
    left = tmp_path / f".{name}.x1.{files._machine()}-{dead}.partial"
    (left / "raw").mkdir(parents=True)
    other = tmp_path / f".other.x1.{files._machine()}-{dead}.partial"
    other.mkdir()
    with temporary_folder(tmp_path, name) as folder:
        (folder / "file").touch()
        assert set(tmp_path.iterdir()) == {folder, other}
        with temporary_folder(tmp_path, name):
            assert folder.is_dir()
    assert list(tmp_path.iterdir()) == [other]


# --- Records


def flips(content):
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


SETTINGS = {"maskgit": {"heads": 4, "lr": 1e-4, "betas": [0.9, 0.95], "labels": None}}


def test_no_flip_of_a_record_is_believed(tmp_path):
    path = tmp_path / "config.json"
    write_record(path, SETTINGS)
    whole = path.read_bytes()
    assert json.loads(whole)["maskgit"] == SETTINGS["maskgit"]  # for people too
    said = []
    for content in flips(whole):
        path.write_bytes(content)
        try:
            assert read_record(path, {"maskgit"}) == SETTINGS
        except UserError as error:
            said.append(str(error))
    assert all(re.match(r".*config\.json is damaged \(.*\); restore it", line) for line in said)
    assert len(said) > 8 * len(b"".join(whole.split()))  # the others change spaces into spaces


@pytest.mark.parametrize(
    ("content", "said"),
    [("[1", "Expecting"), ("[1]", "it is not a JSON object"), ("", "Expecting value"),
     ('{"maskgat": {}}', "its entry 'maskgat' is unknown"), ("[" * 100_000, "recursion"),
     ('{"maskgit": {}, "checksum": "0"}', "its checksum is that of something else"),
     ('{"maskgit": {}, "checksum": null}', "its checksum is that of something else")],
    ids=range(7),
)  # fmt: skip
def test_damaged_records_are_named(tmp_path, content, said):
    assert read_record(tmp_path / "none.json") == {}
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match=rf"bad\.json is damaged \(.*{said}"):
        read_record(tmp_path / "bad.json", {"maskgit"})


def test_a_record_of_somebody_else_is_not_called_damaged(tmp_path, monkeypatch):
    write_record(tmp_path / "config.json", SETTINGS)
    refuse = Mock(side_effect=PermissionError(errno.EACCES, "Permission denied"))
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot read .*config\.json: Permission denied$"):
        read_record(tmp_path / "config.json")


def test_a_record_is_read_without_its_checksum_as_the_version_before_wrote_it(tmp_path):
    path = tmp_path / "config.json"
    write_record(path, SETTINGS)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "checksum" not in line))
    assert read_record(path, {"maskgit"}) == SETTINGS
    text = path.read_text()
    for encoding in ("utf-8-sig", "utf-16"):  # as some editors of Windows save it
        path.write_text(text, encoding, newline="\r\n")
        assert read_record(path, {"maskgit"}) == SETTINGS


def test_a_file_that_changes_while_it_is_read_has_no_digest(tmp_path, monkeypatch):
    path = tmp_path / "net.pt"
    whole = b"one" * 2**19  # more than is read at once
    path.write_bytes(whole)
    assert read_with_digest(path, Path.read_bytes) == (whole, hashlib.sha256(whole).hexdigest())

    def replaced(path):
        content = path.read_bytes()
        (tmp_path / "other").write_bytes(b"two")
        (tmp_path / "other").replace(path)
        return content

    def appended(path):
        content = path.read_bytes()
        path.write_bytes(content + b"!")
        return content

    for read in (replaced, appended):
        with pytest.raises(UserError, match=r"net\.pt was changed or replaced while it was read"):
            read_with_digest(path, read)
    monkeypatch.setattr(files, "file_digest", appended)
    with pytest.raises(UserError, match=r"net\.pt was changed or replaced while it was read"):
        read_with_digest(path, Path.read_bytes)
    with pytest.raises(UserError, match=r"checkpoint not found: .*none\.pt"):
        read_with_digest(tmp_path / "none.pt", read_torch_file)


def test_a_sparse_file_gets_all_of_its_blocks(tmp_path):
    path, size = tmp_path / "tokens", 1 << 20
    path.touch()
    os.truncate(path, size)
    reserve_space(path)
    assert path.stat().st_blocks * 512 >= size
    assert path.read_bytes() == bytes(size)


def test_a_folder_is_made_with_those_above_and_must_be_writable(tmp_path, monkeypatch):
    folder = tmp_path / "one" / "two"
    assert make_folder(folder) == folder
    assert folder.is_dir()
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (folder, os.W_OK))
    with pytest.raises(UserError, match=r"cannot write to the folder .*two: no permission to wr"):
        make_folder(folder)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/folder"):
        make_folder(tmp_path / "file" / "folder")


def test_the_kernel_releases_a_lock_when_its_owner_is_killed(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from utils.files import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1]), 'taken'):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="taken"), exclusive_lock(lock, "taken"):
            pass
        owner.kill()
        owner.wait()
    with exclusive_lock(lock, "taken"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told_and_used(monkeypatch, tmp_path, caplog, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with exclusive_lock(tmp_path / "lock", "taken"):
        assert "cannot be locked" in caplog.text
    assert (tmp_path / "lock").read_bytes() == b""  # a soft lock would leave its owner here


def test_a_lock_excludes_other_holders_in_this_process(tmp_path):
    lock = tmp_path / "lock"
    for _ in range(2):
        with exclusive_lock(lock, "taken"):
            with pytest.raises(UserError, match="taken"), exclusive_lock(lock, "taken"):
                pass
            with pytest.raises(UserError, match="taken"), exclusive_lock(lock, "taken"):
                pass  # the refused one has released nothing
        assert list(tmp_path.iterdir()) == [lock]


@pytest.mark.filterwarnings("ignore:This process")  # a fork of a process with threads
def test_a_forked_process_neither_keeps_nor_releases_a_lock(tmp_path):
    lock = tmp_path / "lock"
    with exclusive_lock(lock, "taken"):
        go_on, wait = os.pipe()
        ended, orphan = os.fork(), os.fork()
        if not ended:
            os._exit(0)
        if not orphan:
            os.close(wait)
            os.read(go_on, 1)
            os._exit(0)
        os.waitpid(ended, 0)
        with pytest.raises(UserError, match="taken"), exclusive_lock(lock, "taken"):
            pass
    with exclusive_lock(lock, "taken"):
        pass
    os.close(wait)
    os.waitpid(orphan, 0)


def test_a_lock_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(UserError, match="absent"), exclusive_lock(tmp_path / "absent/lock", ""):
        pass


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_disk_that_cannot_flush_folders_is_used(monkeypatch, tmp_path, number):
    flush = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr("os.fsync", refuse)
    said = (
        r"the new .*a\.json is in place, but its folder cannot be flushed to the disk "
        r"\(Input/output error\): whether a power cut could undo it is not known"
    )
    wrong = number == errno.EIO
    with pytest.raises(UserError, match=said) if wrong else nullcontext():
        write_json_atomic(tmp_path / "a.json", {"a": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_messages_are_rewritten_before_they_are_shown(capsys, monkeypatch):
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])
    set_up_logging(rewrite=lambda message: message.replace("`lr`", "--lr"))
    logging.getLogger("anything").info("see %s", "`lr`")
    root.setLevel(level)
    assert capsys.readouterr().out == "see --lr\n"


NAMES = (
    "\x1b[2Jcat",
    "\x9b31m",
    "a\rb",
    "\u202ebackwards",
    "\x07\x7f",
)  # of a checkpoint's classes


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_commands_the_terminal(capsys, monkeypatch, name):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    set_up_logging()
    logging.getLogger("x").info("class %s\n\tKatze, chat\u00a0noir, \u732b", name)
    with pytest.raises(SystemExit), errors_on_one_line("it"):
        parse_labels(["dog\n"], [name, "\u732b"])
    out, err = capsys.readouterr()
    assert out.replace("\n\t", "").strip().replace("\u00a0", " ").isprintable()
    assert err.count("\n") == 1
    assert err.strip().isprintable()
    assert ascii(name[0])[1:-1] in out
    assert "\u732b" in err
    with pytest.raises(SystemExit), errors_on_one_line("it"):
        raise FileNotFoundError(2, "No such file", f"a\nb\t{name}")
    err = capsys.readouterr().err
    assert err.rstrip("\n").isprintable()
    assert r"error: a\nb\t" in err


def test_bytes_and_floats_round_trip():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = from_uint8(levels)
    assert images.min() == -1
    assert images.max() == 1
    assert (to_uint8(images)[0, :, :, 0] == levels[0, 0].numpy()).all()
    assert to_uint8(torch.tensor([[[[-9.0, 9.0]]]])).ravel().tolist() == [0, 255]


def test_pngs_keep_gray_and_color(tmp_path):
    for channels, mode in ((1, "L"), (3, "RGB")):
        image = np.random.default_rng(0).integers(0, 256, (5, 4, channels)).astype(np.uint8)
        save_png(tmp_path / "a.png", image)
        with Image.open(tmp_path / "a.png") as stored:
            assert stored.mode == mode
            assert (np.asarray(stored).reshape(image.shape) == image).all()


def test_a_sheet_has_every_image_in_its_cell(tmp_path):
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, 1).repeat(4, 2)
    sheet = tile(images, columns=2, padding=1)
    assert sheet.shape == (3 * 4 + 1, 2 * 5 + 1, 1)
    for index in range(5):
        top, left = 1 + index // 2 * 4, 1 + index % 2 * 5
        assert (sheet[top : top + 3, left : left + 4] == index).all()
    assert (sheet[9:12, 6:10] == 255).all()
    save_grid(tmp_path / "grid.png", images)
    with Image.open(tmp_path / "grid.png") as stored:
        assert stored.size[0] > 3 * 60  # small images are enlarged


def test_samples_on_disk(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3)).astype(np.uint8)
    labels = np.arange(7)
    blocks = [(images[:3], labels[:3]), (images[3:6], labels[3:6]), (images[6:], labels[6:])]
    passed = write_pngs(tmp_path / "png", blocks, range(3, 10))
    kept = write_npz(tmp_path / "a.npz", passed, 7, "test", {"more": labels}, keep=4)
    assert (kept == images[:4]).all()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert (stored["arr_0"] == images).all()
        assert (stored["arr_1"] == labels).all()
        assert (stored["more"] == labels).all()
    names = sorted(path.name for path in (tmp_path / "png").iterdir())
    assert names == [f"{number:06d}.png" for number in range(3, 10)]
    for _ in range(2):  # without numbers, they always count from 0
        list(write_pngs(tmp_path / "again", blocks))
    assert len(list((tmp_path / "again").iterdir())) == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "again", "png"]


def test_randomness_is_a_function_of_seed_purpose_and_indices():
    def draw(*key):
        return rng(*key).random(4).tolist()

    assert draw(0, "masks", 3) == draw(0, "masks", 3)
    keys = [(0, "masks", 3), (1, "masks", 3), (0, "views", 3), (0, "masks", 4), (0, "masks")]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    assert 0 <= derive_seed(5, "dropout", 1, 2) < 2**63


def test_averaging_starts_quickly():
    module = nn.LayerNorm(2)
    average = EMA(module, decay=0.9)
    with torch.no_grad():
        module.weight.fill_(3)
    average.update(0)  # decay 1 / 10
    assert average.module.weight.tolist() == pytest.approx([0.1 + 0.9 * 3] * 2)
    assert not average.module.training
    assert not average.module.weight.requires_grad


@pytest.mark.parametrize(
    ("error", "said"),
    [(ModuleNotFoundError("No module named 'torch'"), "pip install -r requirements.txt"),
     (ImportError("cannot import name 'a' from 'b'"), "pip install -r requirements.txt"),
     (ImportError("c.so: failed to map segment from shared object"), "raise the limit (ulimit -v)"),
     (MemoryError(), "raise the limit (ulimit -v)")],
    ids=str,
)  # fmt: skip
def test_a_package_that_cannot_be_loaded_is_one_line(capsys, error, said):
    with pytest.raises(SystemExit) as stop, errors_on_one_line("it"):
        raise error
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("it: error: ")
    assert line.endswith(f"{said}\n")


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(1, "class", "1 class"), (2, "class", "2 classes"), (0, "image", "0 images"),
     (3, "batch", "3 batches"), (1, "batch", "1 batch"), (1.0, "epoch", "1 epoch"),
     (0.25, "epoch", "0.25 epochs"), (1234.5, "epoch", "1234 epochs"),
     (12345, "step", "12345 steps"), (999.7, "epoch", "1000 epochs")],
)  # fmt: skip
def test_a_number_and_its_noun_agree(count, noun, text):
    assert counted(count, noun) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("Expected all tensors to be on the same device", False),
    ],
)
def test_a_full_memory_is_recognized(text, expected):
    assert is_out_of_memory(RuntimeError(text)) is expected


def test_devices_and_precisions():
    cpu = choose_device("cpu")
    assert choose_precision("fp32", cpu) == torch.float32
    assert choose_precision("bf16", cpu) == torch.bfloat16
    assert choose_precision("auto", cpu) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("amx", "avx512", "torch_uses", "vendor", "expected"),
    [
        (True, True, "AVX512", "GenuineIntel", torch.bfloat16),
        (False, True, "AVX512", "GenuineIntel", torch.float32),  # there it has half of the speed
        (False, True, "AVX512", "AuthenticAMD", torch.bfloat16),
        (False, True, "AVX512", None, torch.bfloat16),
        (False, False, "AVX512", "AuthenticAMD", torch.float32),
        (True, True, "AVX2", "GenuineIntel", torch.float32),  # by ATEN_CPU_CAPABILITY
    ],
)
def test_bfloat16_is_chosen_where_it_is_faster(
    monkeypatch, tmp_path, amx, avx512, torch_uses, vendor, expected
):
    info = tmp_path / "cpuinfo"
    if vendor:
        info.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(device, "CPU_INFO", info)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: torch_uses)
    assert choose_precision("auto", torch.device("cpu")) == expected
    for name in ("tpu", "cuda:99", "cuda:x", "cpu:1"):
        with pytest.raises(UserError, match=name):
            choose_device(name)
