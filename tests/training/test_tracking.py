"""Numbers in a file that is not trusted blindly; wandb, for real but offline, never asking."""

import json
import math
import os
import pty
import runpy
import subprocess
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image
from tiny_stages import make_stage

from training import tracking
from training.config import LoopConfig
from training.loop import Loop
from training.run_folder import RunFolder
from training.run_record import RunRecord
from training.runs import _open_trackers
from training.stage import Position
from training.tracking import (
    MetricsFile,
    Trackers,
    WandbTracker,
)
from utils.records import read_record_lines


@pytest.fixture
def no_login(monkeypatch, tmp_path):
    """A machine on which nobody has logged in to wandb, though a file says its name."""
    (tmp_path / "netrc").write_text("# for wandb\nmachine wandb.example.org login me password x\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))


SCRIPT = """
import logging, sys
from pathlib import Path
from utils.progress import set_up_logging
from training.tracking import WandbTracker
set_up_logging()
folder = Path(sys.argv[1])
tracker = WandbTracker(folder, "toy", {"lr": 0.1, "dataset": "mnist"}, None)
tracker.log({"train/loss": 1.5}, 10)
tracker.log_image("samples", folder / "grid.png", 10)
tracker.close()
print("id", tracker.run_id)
"""


@pytest.mark.slow
@pytest.mark.parametrize("api_key", [None, "0123456789" * 4])
def test_an_offline_run_without_login_or_network(no_login, tmp_path, api_key):
    Image.new("L", (8, 8)).save(tmp_path / "grid.png")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    if api_key:
        # A key, but nobody at the address: the network is out of reach.
        environment |= {"WANDB_API_KEY": api_key, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, env=environment,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("records offline") == 1
    assert time.monotonic() - started < 100  # far from a hang; a loaded machine is slow
    (record,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    stored = record.read_bytes()
    assert b"train/loss" in stored
    assert b"dataset" in stored
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/images/*.png"))
    assert str(root).encode() not in stored  # no paths, no code


@pytest.mark.slow
@pytest.mark.parametrize("mode", [{}, {"WANDB_MODE": "online"}])
def test_on_a_terminal_nobody_is_asked_for_a_login(no_login, tmp_path, mode):
    Image.new("L", (8, 8)).save(tmp_path / "grid.png")
    keyboard, terminal = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **mode}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
    ) as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # Linux says so when the terminal has no other end
            while b"Enter your choice" not in shown and (part := os.read(keyboard, 4096)):
                shown += part
        os.close(keyboard)
        process.kill() if b"Enter your choice" in shown else process.wait()
    *_, said, last = shown.decode().splitlines()  # older versions of wandb also say that they retry
    assert said.startswith(f"wandb records offline in {tmp_path}/wandb: No API key configured.")
    assert last.startswith("id ")


class HalfWandb(BaseHTTPRequestHandler):
    """A server that lets a run begin, and takes none of its files."""

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        bucket = {"id": "1", "name": "a", "config": "{}", "project": {"name": "p", "entity": {}}}
        bucket["project"]["entity"]["name"] = "me"
        answer = {"viewer": {"entity": "me"}, "upsertBucket": {"bucket": bucket, "inserted": True}}
        is_taken = not self.path.startswith("/files/") and b"createRunFiles" not in sent
        self.send_response(200 if is_taken else 503)
        self.end_headers()
        self.wfile.write(json.dumps({"data": answer}).encode())

    def log_message(self, *_):
        pass


ENDING = """
import sys
from pathlib import Path
from training import tracking
from utils.progress import set_up_logging
set_up_logging()
assert tracking.WANDB_SETTINGS["finish_timeout"] == 60
tracking.WANDB_SETTINGS["finish_timeout"] = 1
tracker = tracking.WandbTracker(Path(sys.argv[1]), "toy", {}, None)
tracker.log({"train/loss": 1.5}, 10)
tracker.close()
"""


@pytest.mark.slow
def test_the_end_does_not_wait_for_a_network_that_is_gone(no_login, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), HalfWandb) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        done = subprocess.run(
            [sys.executable, "-c", ENDING, str(tmp_path)],
            env={**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": "0123456789" * 4},
            cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        server.shutdown()
    assert done.stdout == "wandb does not answer: `wandb sync` uploads what it has not got\n"


def test_without_wandb_it_is_not_even_imported(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    runpy.run_path(tracking.__file__)  # what it imports at its top
    run = RunFolder(tmp_path, "toy")
    record = RunRecord({}, {}, frozenset(), "")
    trackers = _open_trackers("vqgan", run, record, Position(), use_wandb=False)
    trackers.log({"loss": 1.0}, 1)
    trackers.close()
    assert "wandb" not in sys.modules
    assert read_record_lines(run.metrics("vqgan"), bool) == ([{"step": 1, "loss": 1.0}], 0)


def test_training_with_no_wandb_leaves_no_trace(trained):
    assert not (trained / "wandb").exists()


class BrokenRun:
    """A run whose process has died."""

    id, disabled, offline = "abc", False, False

    def log(self, *_, **__):
        raise ConnectionResetError("Connection lost")

    finish = log


def both_trackers(folder: Path, run_id: str | None = None) -> Trackers:
    """The numbers in a file and at wandb."""
    wandb = WandbTracker(folder, "toy", {}, run_id)
    return Trackers(MetricsFile(folder / "m.jsonl", 0), wandb)


def test_a_wandb_that_cannot_be_imported_stops_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = both_trackers(tmp_path)
    tracker.log({"loss": 1.0}, 1)
    tracker.log_image("samples", tmp_path / "absent.png", 1)
    tracker.close()
    assert read_record_lines(tmp_path / "m.jsonl", bool) == ([{"step": 1, "loss": 1.0}], 0)


@pytest.mark.parametrize("unreachable", [{None}, {None, "offline"}, set()])
def test_whatever_wandb_raises_the_numbers_are_kept(monkeypatch, tmp_path, caplog, unreachable):
    import wandb

    calls = []

    def init(mode, **options):
        calls.append((mode, options["id"], options["resume"]))
        if mode in unreachable:
            raise wandb.errors.CommError("no route")
        return BrokenRun()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "setup", lambda settings: None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = both_trackers(tmp_path, "abc")
    assert calls == [(mode, "abc", "allow") for mode in (None, "offline")[: len(calls)]]
    assert len(calls) == (2 if unreachable else 1)
    assert tracker.trackers[1].run_id == "abc"
    tracker.log({"loss": 1.0}, 1)
    tracker.log({"loss": 0.5}, 2)
    tracker.log_image("samples", tmp_path / "absent.png", 2)
    tracker.close()
    assert len((tmp_path / "m.jsonl").read_text().splitlines()) == 2
    said = [record for record in caplog.records if "continues without it" in record.message]
    assert len(said) == (0 if len(unreachable) == 2 else 1)


def rows_of(path):
    return [(row["step"], row["loss"]) for row in read_record_lines(path, bool)[0]]


def three_rows(path):
    metrics = MetricsFile(path, 0)
    for step in (1, 2, 3):
        metrics.log({"loss": step / 4}, step)
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"[1]", b"\xff\xfe", b'{"step": 2, "loss": "0.5"}', b'{"step": -2, "loss": 0.5}',
     b'{"step": true, "loss": 0.5}', b'{"loss": 0.5}', b'{"step": 2, "loss": 0.5, "checksum": "1"}',
     b"[" * 100_000],
    ids=lambda line: repr(line[:40]),
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_left_out_alone_and_said(tmp_path, caplog, damaged):
    path = tmp_path / "m.jsonl"
    first, _, third = three_rows(path)
    path.write_bytes(first + damaged + b"\n" + third)
    MetricsFile(path, 3)
    assert rows_of(path) == [(1, 0.25), (3, 0.75)]
    assert caplog.messages == [f"{path}: lines that cannot be read, left out: 1"]


def test_no_flip_of_a_line_is_taken_for_a_number(tmp_path):
    path = tmp_path / "m.jsonl"
    first, second, third = three_rows(path)
    for at in range(8 * (len(second) - 1)):
        flipped = bytearray(second)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(first + flipped + third)
        MetricsFile(path, 3)
        assert rows_of(path) in ([(1, 0.25), (3, 0.75)], [(1, 0.25), (2, 0.5), (3, 0.75)])


def test_lines_of_the_version_before_are_kept(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "loss": 0.25, "fid": NaN}\n{"step": 2, "loss": NaN}\n')
    MetricsFile(path, 1).log({"loss": 1.0}, 2)
    assert rows_of(path) == [(1, 0.25), (2, 1.0)]
    assert path.read_text().count("checksum") == 2
    assert "NaN" not in path.read_text()


def test_a_number_that_is_not_finite_is_left_out(tmp_path):
    path = tmp_path / "m.jsonl"
    MetricsFile(path, 0).log({"samples/fid": math.inf, "samples/kid": math.nan, "loss": 0.5}, 1)
    assert read_record_lines(path, bool)[0] == [{"step": 1, "loss": 0.5}]


def test_the_rows_are_on_the_disk_before_a_state_counts_them(tmp_path, monkeypatch):
    happened = []
    metrics = MetricsFile(tmp_path / "m.jsonl", 0)
    metrics.log({"loss": 1.0}, 1)

    def flush(descriptor):
        happened.append(os.path.samestat(os.fstat(descriptor), metrics.path.stat()))

    monkeypatch.setattr("training.stage.save_checkpoint", lambda *_: happened.append("state"))
    monkeypatch.setattr(os, "fsync", flush)
    save_state(tmp_path, Trackers(metrics))
    assert happened == [True, "state"]


def save_state(folder, tracker):
    """The state of a stage in training is saved."""
    stage, run = make_stage(), RunFolder(folder, "toy")
    Loop(stage, LoopConfig(4, 8), run, tracker, Position())._save_state()


# --- What the user has set for wandb ---


def disabled_by_file(folder: Path, **variables: Path) -> dict[str, str]:
    """What `wandb disabled` leaves, and the variables that say where."""
    folder.mkdir(parents=True)
    (folder / "settings").write_text("[default]\nmode = disabled\n")
    return {name: str(value) for name, value in variables.items()}


@pytest.mark.slow
def test_what_the_user_has_set_for_wandb_counts(no_login, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "grid.png")
    config, here = tmp_path / "set", tmp_path / "here"
    environments = [
        {"WANDB_MODE": "disabled"},
        disabled_by_file(config, WANDB_CONFIG_DIR=config),
        disabled_by_file(here / "wandb", WANDB_DIR=here),
        disabled_by_file(tmp_path / "wandb"),  # in the current folder
    ]
    for environment in environments:
        said, last = tracked(tmp_path, **environment)
        assert said == "wandb records nothing: it is disabled, by WANDB_MODE or by `wandb disabled`"
        assert last == "id None"
    # The variable counts more than the files.
    said, _ = tracked(tmp_path, WANDB_MODE="offline")
    assert said.startswith(f"wandb records offline in {tmp_path}/wandb (")
    (said, _) = tracked(tmp_path, WANDB_MODE="offline", WANDB_DIR=str(here))
    assert said.startswith(f"wandb records offline in {here}/wandb (")


@pytest.mark.slow
def test_its_log_goes_to_a_file_also_without_a_home_folder(no_login, monkeypatch, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "grid.png")
    monkeypatch.delenv("WANDB_CACHE_DIR")
    tracked(tmp_path, WANDB_MODE="offline", HOME="/proc/nowhere", XDG_CACHE_HOME="")
    assert list(tmp_path.glob("wandb/wandb/logs/core-debug-*.log"))


def test_without_a_home_folder_only_a_setting_of_wandb_is_changed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    variables = {"HOME": "/proc/nowhere"}
    monkeypatch.setattr(os, "environ", variables)
    WandbTracker(tmp_path, "toy", {}, None)
    assert variables == {"HOME": "/proc/nowhere", "WANDB_CACHE_DIR": f"{tmp_path}/wandb"}


def tracked(folder: Path, **environment: str) -> list[str]:
    """Track a toy run in a process of its own; returns its log and its id."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        check=True,
    )  # fmt: skip
    assert " INFO " not in result.stderr
    return result.stdout.splitlines()


def test_an_account_without_a_home_folder_trains_without_wandb(monkeypatch, tmp_path, caplog):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(Path, "expanduser", lambda path: home())
    tracker = both_trackers(tmp_path)
    tracker.log({"loss": 1.0}, 1)
    assert "loss" in (tmp_path / "m.jsonl").read_text()
