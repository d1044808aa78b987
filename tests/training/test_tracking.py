"""wandb, for real but offline: it records, never asks, and stays away when told to."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from training.tracking import WandbTracker, open_trackers


@pytest.fixture
def no_login(monkeypatch, tmp_path):
    """A machine on which nobody has logged in to wandb."""
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


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


def test_without_wandb_it_is_not_even_imported(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from training.tracking import open_trackers\n"
        f"path = Path({str(tmp_path / 'm.jsonl')!r})\n"
        "tracker, run_id = open_trackers(path, 0, None, 'a', {}, None)\n"
        "tracker.log({'loss': 1.0}, 1); tracker.close()\n"
        "assert run_id is None and 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"step": 1, "loss": 1.0}


def test_training_with_no_wandb_leaves_no_trace(trained):
    assert not (trained / "wandb").exists()


class BrokenRun:
    """A run whose process has died."""

    id = "abc"

    def log(self, *_, **__):
        raise ConnectionResetError("Connection lost")

    finish = log


def test_a_wandb_that_cannot_be_imported_stops_nothing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker, _ = open_trackers(tmp_path / "m.jsonl", 0, tmp_path, "toy", {}, None)
    tracker.log({"loss": 1.0}, 1)
    tracker.log_image("samples", tmp_path / "absent.png", 1)
    tracker.close()
    assert json.loads((tmp_path / "m.jsonl").read_text()) == {"step": 1, "loss": 1.0}


@pytest.mark.parametrize("unreachable", [{"online"}, {"online", "offline"}, set()])
def test_whatever_wandb_raises_the_numbers_are_kept(monkeypatch, tmp_path, caplog, unreachable):
    import wandb

    calls = []

    def init(mode, **options):
        calls.append((mode, options["id"], options["resume"]))
        if mode in unreachable:
            raise wandb.errors.CommError("no route")
        return BrokenRun()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "key")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker, run_id = open_trackers(tmp_path / "m.jsonl", 0, tmp_path, "toy", {}, "abc")
    assert calls == [(mode, "abc", "allow") for mode in ("online", "offline")[: len(calls)]]
    assert len(calls) == (2 if unreachable else 1)
    assert run_id == "abc"
    assert isinstance(tracker.trackers[1], WandbTracker)
    tracker.log({"loss": 1.0}, 1)
    tracker.log({"loss": 0.5}, 2)
    tracker.log_image("samples", tmp_path / "absent.png", 2)
    tracker.close()
    assert len((tmp_path / "m.jsonl").read_text().splitlines()) == 2
    told = [record for record in caplog.records if "left out" in record.message]
    assert len(told) == (0 if len(unreachable) == 2 else 1)
