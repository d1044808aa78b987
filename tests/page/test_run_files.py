"""What others may have put into a folder of runs: it is refused, and hides no other run."""

import os
import threading

import pytest

from page import run_reader as module
from page.catalog import Catalog, id_of
from page.checks import RequestError
from page.run_files import names_inside, open_inside
from page.run_reader import RunReader

ROW = b'{"step": 1, "train/loss": 1.5}\n'


@pytest.fixture
def output(tmp_path):
    (tmp_path / "secret.txt").write_bytes(ROW)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.png").write_bytes(ROW)
    (tmp_path / "runs" / "good").mkdir(parents=True)
    (tmp_path / "runs" / "good" / "metrics.jsonl").write_bytes(ROW)
    return tmp_path / "runs"


def reader(output):
    return RunReader(lambda: sorted(output.iterdir()), ["step"])


def put(run, kind, name):
    """Put something odd into a run under the name of one of its files."""
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        path.symlink_to(run.parents[1] / "secret.txt")
    elif kind == "zeros":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "link to its own file":
        (run / "own.txt").write_bytes(ROW)
        path.symlink_to("own.txt")
    elif kind == "large":
        path.touch()
        os.truncate(path, 1 << 40)


@pytest.mark.parametrize(
    "kind", ["link", "zeros", "pipe", "folder", "loop", "link to its own file", "large"]
)
def test_only_regular_files_of_the_run_are_read(output, kind):
    """And none of them blocks, or is read for ever."""
    run = output / "odd"
    names = ("metrics.jsonl", "reconstructions.png", "samples/maskgit_step_0000003.png")
    for name in (*names, "sweep/sweep.csv"):
        put(run, kind, name)
    runs, odd = reader(output), id_of(run)
    described = {one["name"]: one for one in runs.described()}
    assert described.keys() == {"good", "odd"}
    looks = [
        lambda: runs.reconstructions(odd),
        lambda: runs.preview(odd, "maskgit", 3),
        lambda: runs.sweep(odd),
        lambda: runs.strip(odd, 0),
    ]
    for look in looks:
        with pytest.raises(RequestError) as refusal:
            look()
        assert refusal.value.status == 404
    if kind == "large":  # its zeros are not a line
        assert runs.rows(odd, "maskgit", 0, 0)["rows"] == []
    else:
        with pytest.raises(RequestError):
            runs.rows(odd, "maskgit", 0, 0)
    assert runs.rows(id_of(output / "good"), "maskgit", 0, 0)["rows"] == [
        {"step": 1, "train/loss": 1.5}
    ]


@pytest.mark.parametrize("place", ["samples", "samples/images"])
def test_a_folder_that_is_a_link_is_not_entered(output, place):
    run = output / "odd"
    (run / place).parent.mkdir(parents=True)
    (run / place).symlink_to(output.parent / "elsewhere")
    assert names_inside(run, run / place) == []
    with pytest.raises(OSError, match="director"), open_inside(run, run / place / "secret.png"):
        pass
    # The folder of the run itself may lie on another disk.
    (output / "linked").symlink_to(output / "good")
    assert reader(output).rows(id_of(output / "linked"), "maskgit", 0, 0)["rows"]


@pytest.mark.parametrize(
    ("odd", "count"),
    [
        (b'{"step": 1' + b"0" * 400 + b"}\n", 0),
        (b'{"step": 9007199254740993}\n', 0),
        (b'{"step": ' + b"9" * 5000 + b"}\n", 0),
        (b'{"step": 2, "\\ud800": 1.0}\n', 1),
        (b'{"step": 2, "x": 1e999, "y": NaN}\n', 1),
        (b"[" * 100_000 + b"\n", 0),
        (b"\x00" * 3_000_000 + b"\n", 0),
        (b"\xff\xfe\n", 0),
    ],
    ids=["huge", "inexact", "digits", "half a pair", "infinite", "deep", "long", "bytes"],
)
def test_an_odd_line_costs_itself_alone(output, monkeypatch, odd, count):
    monkeypatch.setattr(module, "MOST_LOOK", 2 << 20)  # a line may be longer than one look
    file = output / "good" / "metrics.jsonl"
    file.write_bytes(ROW + odd + ROW)
    runs, rows, version = reader(output), [], 0
    for _ in range(4):
        got = runs.rows(id_of(output / "good"), "maskgit", version, len(rows))
        rows, version = rows[: got["start"]] + got["rows"], got["version"]
    assert len(rows) == 2 + count


def test_a_pipe_is_not_offered_as_a_model(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "link.pt").symlink_to("/dev/zero")
    (tmp_path / "model.pt").touch()
    catalog = Catalog(lambda: sorted(tmp_path.iterdir()), load=lambda path: pytest.fail(str(path)))
    assert [file.path for file in catalog.files()] == [tmp_path / "model.pt"]


def test_a_run_that_cannot_be_described_hides_no_other(output, monkeypatch, caplog):
    (output / "odd").mkdir()
    usual = RunReader._describe

    def describe(self, run_id, run):
        if run.path.name == "odd":
            raise ValueError("of an odd kind")
        return usual(self, run_id, run)

    monkeypatch.setattr(RunReader, "_describe", describe)
    assert [run["name"] for run in reader(output).described()] == ["good"]
    assert "of an odd kind" in caplog.text


def test_a_growing_file_is_read_by_several_threads(output):
    with (output / "good" / "metrics.jsonl").open("wb") as file:
        file.writelines(b'{"step": %d}\n' % step for step in range(2000))
    runs, good = reader(output), id_of(output / "good")
    looks = [threading.Thread(target=runs.rows, args=(good, "maskgit", 0, 0)) for _ in range(8)]
    for look in looks:
        look.start()
    for look in looks:
        look.join()
    rows = runs.rows(good, "maskgit", 0, 0)["rows"]
    assert [row["step"] for row in rows] == list(range(2000))
