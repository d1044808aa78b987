"""What long work says about itself."""

import logging

import pytest

from utils import progress
from utils.progress import progress_bar


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("lines", "said"),
    [(True, ["200 of 400 images, 84 s left", "350 of 400 images, 21 s left"]), (False, [])],
)
def test_without_a_terminal_a_line_a_minute_is_logged(clock, monkeypatch, caplog, lines, said):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False)
    with (
        caplog.at_level(logging.INFO),
        progress_bar("encoding", 400, done=50, unit="image", lines=lines) as bar,
    ):
        for _ in range(7):
            clock[0] += 21
            bar.update(50)
    first, *later = caplog.messages
    assert first == "encoding: 350 images"
    assert len(later) == len(said)
    for message, text in zip(later, said, strict=True):
        assert message == f"encoding: {text}"


def test_a_minute_without_any_work_is_no_reason_to_fail(clock, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False)
    with progress_bar("encoding", 400, done=50) as bar:
        clock[0] += 61
        bar.update(0)
    assert bar.n == 50


def test_a_bar_also_shows_less_than_one_unit(monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with progress_bar("sampling", 1, unit="block") as bar:
        bar.mininterval = 0
        bar.update(0.125)
        assert bar.last_print_n == 0.125
        assert " 0/1 " in str(bar)
        bar.update(0.8749999)
        assert " 1/1 " in str(bar)
