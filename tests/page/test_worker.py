"""The thread that owns the networks: turns, ends, pauses and errors."""

import itertools
import threading

import pytest

from page import worker as module
from page.checks import RequestError
from page.worker import Job, Worker
from utils.errors import UserError


class Tab:
    """A tab with a Job of some steps; `log` is shared, so that it shows the order."""

    def __init__(self, worker, log, name, steps, reads=True):
        self.log, self.name, self.reads = log, name, reads
        self.over = threading.Event()
        self.job = Job(name, lambda: ({"event": "step", "n": n} for n in steps), self.take)
        worker.submit(self.job)

    def take(self, event):
        if event is None:
            self.over.set()
            return
        self.log.append((self.name, event.get("n", event.get("reason", event.get("message")))))
        if self.reads:
            self.job.was_read()


def run(worker, *tabs):
    """Do the work until all Jobs of the tabs are over."""
    worker.run(lambda: all(tab.over.is_set() for tab in tabs))


def test_tabs_take_turns():
    worker, log = Worker(), []
    run(worker, *[Tab(worker, log, name, range(3)) for name in "abc"])
    assert log == [(name, step) for step in range(3) for name in "abc"]


def test_a_newer_job_of_a_tab_ends_the_older_at_its_next_step():
    worker, log = Worker(), []

    def steps():
        yield 0
        tabs.append(Tab(worker, log, "a", [10, 11]))
        yield from range(1, 100)

    tabs = [Tab(worker, log, "a", steps())]
    worker.run(lambda: len(tabs) == 2 and all(tab.over.is_set() for tab in tabs))
    assert log == [
        ("a", 0),
        ("a", 1),
        ("a", "a newer request of the same tab"),
        ("a", 10),
        ("a", 11),
    ]


def test_a_slow_reader_pauses_its_own_job_alone(monkeypatch):
    worker, log = Worker(), []
    slow = Tab(worker, log, "slow", range(100), reads=False)
    run(worker, Tab(worker, log, "quick", range(50)))
    assert log.count(("quick", 49)) == 1
    assert sum(name == "slow" for name, _ in log) == module.MOST_UNREAD
    # It goes on as it is read, and ends if nobody reads for long.
    slow.job.was_read()
    run(worker, Tab(worker, log, "other", range(3)))
    assert log[-1] == ("other", 2)
    assert ("slow", module.MOST_UNREAD) in log
    monkeypatch.setattr(module, "PATIENCE_SECONDS", -1)
    run(worker, slow)
    assert log[-1] == ("slow", "nobody reads it")


def test_what_fails_is_told_and_others_go_on(caplog):
    def failing(error):
        yield 0
        raise error

    worker, log = Worker(), []
    run(
        worker,
        Tab(worker, log, "user", failing(UserError("no such class"))),
        Tab(worker, log, "memory", failing(RuntimeError("CUDA out of memory"))),
        Tab(worker, log, "bug", failing(ZeroDivisionError("oh\nno"))),
        Tab(worker, log, "good", range(3)),
    )
    assert ("user", "no such class") in log
    assert ("memory", "out of memory: make fewer images at once") in log
    assert ("bug", "the server failed: ZeroDivisionError: oh no") in log
    assert log[-1] == ("good", 2)
    assert [record.message for record in caplog.records] == ["a request failed"]


def test_calls_come_between_steps():
    worker, log = Worker(), []
    futures = []

    def steps():
        for n in range(3):
            futures.append(worker.call(lambda: log.append("call")))
            yield n

    run(worker, Tab(worker, log, "a", steps()))
    assert log == [("a", 0), "call", ("a", 1), "call", ("a", 2), "call"]
    failed = worker.call(lambda: 1 / 0)
    rounds = itertools.count()
    worker.run(lambda: next(rounds) > 1)
    with pytest.raises(ZeroDivisionError):
        failed.result(0)


def test_a_small_job_need_not_wait_for_large_ones(monkeypatch):
    """A large Job's step takes a second here, a small one's no time."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    worker, log = Worker(), []

    def large():
        for n in range(20):
            now[0] += 1
            yield n

    for number in range(20):
        Tab(worker, log, number, large())
    rounds = itertools.count()
    worker.run(lambda: next(rounds) > 5)
    small = Tab(worker, log, "small", range(8))
    before = len(log)
    run(worker, small)
    assert len(log) - before < 8 + module.MOST_AT_ONCE


def test_what_nobody_reads_makes_room(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    worker, log = Worker(), []
    tabs = [Tab(worker, log, n, range(9), reads=False) for n in range(module.MOST_JOBS)]
    rounds = itertools.count()
    worker.run(lambda: next(rounds) > 3)
    now[0] += 2 * module.STALE_SECONDS
    good = Tab(worker, log, "good", range(3))
    run(worker, good)
    assert ("good", 2) in log
    assert sum(tab.over.is_set() for tab in tabs) == 1
    assert [reason for _, reason in log if type(reason) is str] == ["nobody reads it"]


def test_a_worker_that_is_closed_tells_all_who_wait():
    worker, log = Worker(), []
    tab = Tab(worker, log, "a", range(9))
    call = worker.call(lambda: 1)
    worker.close()
    assert tab.over.is_set()
    assert log == [("a", "the server ends")]
    for ask in (call.result, lambda: worker.call(int), lambda: Tab(worker, log, "b", [])):
        with pytest.raises(RequestError, match="the server ends"):
            ask()


def test_jobs_are_bounded():
    worker, log = Worker(), []
    for number in range(module.MOST_JOBS):
        Tab(worker, log, str(number), [0])
    with pytest.raises(RequestError, match="busy with 64 requests"):
        Tab(worker, log, "one more", [0])
