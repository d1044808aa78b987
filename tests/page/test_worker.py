"""The thread that owns the networks: turns, ends, pauses and errors."""

import itertools
import signal
import sys
import threading
from contextlib import suppress

import pytest

from page import worker as module
from page.checks import RequestError
from page.worker import Job, Worker
from utils.errors import UserError
from utils.signals import end_on_signals


class Tab:
    """A tab with a Job of some steps; `log` is shared, so that it shows the order."""

    def __init__(self, worker, log, name, steps, reads=True):
        self.log, self.name, self.reads = log, name, reads
        self.over = threading.Event()
        self.job = Job(name, ({"event": "step", "n": n} for n in steps), self.take)
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


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows what a test writes into it."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def work(clock, steps, seconds=1.0):
    """Steps that take some seconds each."""
    for n in range(steps):
        clock[0] += seconds
        yield n


def test_tabs_take_turns(clock):
    worker, log = Worker(), []
    run(worker, *[Tab(worker, log, name, work(clock, 3)) for name in "abc"])
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


def test_a_slow_reader_pauses_its_own_job_alone():
    worker, log = Worker(), []
    slow = Tab(worker, log, "slow", range(100), reads=False)
    run(worker, Tab(worker, log, "quick", range(50)))
    assert log.count(("quick", 49)) == 1
    assert sum(name == "slow" for name, _ in log) == module.MOST_UNREAD
    # It goes on as it is read.
    slow.job.was_read()
    run(worker, Tab(worker, log, "other", range(3)))
    assert log[-1] == ("other", 2)
    assert ("slow", module.MOST_UNREAD) in log


def test_what_fails_is_reported_and_others_go_on(caplog):
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
    assert ("good", 2) in log
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


@pytest.mark.parametrize("reads", [True, False])
def test_a_new_job_gets_its_share_of_the_time_however_many_wait(clock, reads):
    """Its steps are short; those of the others, who perhaps pause in turn, take a second."""
    worker, log = Worker(), []
    for number in range(module.MOST_JOBS - 1):
        Tab(worker, log, number, work(clock, 20), reads)
    rounds = itertools.count()
    worker.run(lambda: next(rounds) > 9)
    before = clock[0]
    run(worker, Tab(worker, log, "new", work(clock, 20, seconds=0.1)))
    others = clock[0] - before - 2
    assert others <= (module.MOST_AT_ONCE - 1) * (2 * 2 + 1)


@pytest.mark.parametrize("unread", [None, 5])
def test_too_many_jobs_end_one_that_is_not_read_or_the_oldest(unread):
    worker, log = Worker(), []
    tabs = [Tab(worker, log, n, range(9), n != unread) for n in range(module.MOST_JOBS)]
    if unread is not None:
        for event in range(module.MOST_UNREAD):
            assert tabs[unread].job.step(), event
    new = Tab(worker, log, "new", range(3))
    run(worker, new, *(tab for tab in tabs if tab.reads))
    assert ("new", 2) in log
    ended = [(name, said) for name, said in log if type(said) is str]
    assert ended == [(unread or 0, "the server is busy with newer requests")]


def test_a_worker_that_is_closed_tells_all_who_wait():
    worker, log = Worker(), []
    tab = Tab(worker, log, "a", range(9))
    call = worker.call(lambda: 1)
    worker.close()
    assert tab.over.is_set()
    assert log == [("a", "the server is ending")]
    for ask in (call.result, lambda: worker.call(int), lambda: Tab(worker, log, "b", [])):
        with pytest.raises(RequestError, match="the server is ending"):
            ask()


def test_ctrl_c_at_any_moment_leaves_no_lock_behind():
    """Threads that ask for something after it would wait forever."""
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for number in range(200):
            worker, is_over = Worker(), threading.Event()
            waking = threading.Thread(target=keep_waking, args=(worker, is_over), daemon=True)
            waking.start()
            with pytest.raises(KeyboardInterrupt):
                run_until_alarm(worker, seconds=1e-4 + number * 1e-5)
            is_over.set()
            waking.join(10)
            assert not waking.is_alive(), number
    finally:
        sys.setswitchinterval(interval)
        signal.signal(signal.SIGALRM, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_in_a_destructor_ends_the_work(number):
    """Python drops what is raised there; an archive that is closed is an example."""

    def interrupted():
        with suppress(KeyboardInterrupt):
            signal.raise_signal(number)

    worker, rounds = Worker(), itertools.count()
    worker.call(interrupted)
    with pytest.raises(KeyboardInterrupt), end_on_signals():
        worker.run(lambda: next(rounds) > 9)


def run_until_alarm(worker, seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    worker.run(lambda: False)


def keep_waking(worker, is_over):
    """Wake a worker all the time, as the readers of streams do."""
    while not is_over.is_set():
        worker.wake()
