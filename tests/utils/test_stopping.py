"""How a program ends: signals, streams that nobody reads, and processes that read images."""

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from utils.errors import FieldError, UserError, errors_on_one_line
from utils.progress import progress_bar
from utils.signals import Stopped, end_if_asked, end_on_signals, exit_code, stop_on_signals
from utils.workers import batches_of, check_workers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
        (signal.SIGHUP, 129, "stopped by SIGHUP"),
        (signal.SIGUSR1, 138, "stopped by SIGUSR1"),
        (signal.SIGINT, 130, "stopped"),
    ],
)
def test_a_signal_ends_the_program_tidily_and_in_one_line(capsys, number, code, said):
    tidied = []

    def work():
        with errors_on_one_line("it"), end_on_signals():
            try:
                get(number)
            finally:
                tidied.append(True)

    before = signal.getsignal(number)
    signal.signal(number, signal.default_int_handler)  # pytest may run in the background
    with pytest.raises(SystemExit) as stop:
        work()
    signal.signal(number, before)
    assert stop.value.code == code
    assert capsys.readouterr().err == f"it: {said}\n"
    assert tidied


def get(number):
    """Get a signal."""
    os.kill(os.getpid(), number)
    time.sleep(5)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("goes_on", [stop_on_signals, partial(progress_bar, "work", 1), ExitStack])
def test_a_signal_that_a_library_swallows_is_remembered(number, goes_on):
    def work():
        bar = progress_bar("work", 9)
        with end_on_signals():
            with suppress(BaseException):  # as a library does, and Python in a destructor
                get(number)
            with goes_on():
                bar.update()
                pytest.fail("went on")

    with pytest.raises(KeyboardInterrupt) as stop:
        work()
    assert getattr(stop.value, "signal_number", signal.SIGINT) == number
    end_if_asked()  # the next program in this process knows nothing of it


def test_an_error_after_a_swallowed_signal_is_the_signals():
    def work():
        with end_on_signals():
            with suppress(BaseException):  # an import that is cut off
                get(signal.SIGTERM)
            raise AttributeError("half a module has no such name")

    with pytest.raises(Stopped) as stop:
        work()
    assert stop.value.signal_number == signal.SIGTERM


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with end_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ignored_signals_stay_ignored_after_ctrl_c():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sigint = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), end_on_signals():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGINT, sigint)


def test_one_of_several_processes_leaves_signals_to_the_system():
    before = signal.getsignal(signal.SIGTERM)
    with end_on_signals(is_alone=False):
        assert signal.getsignal(signal.SIGTERM) is before


def test_exit_codes_are_those_of_a_shell():
    codes = [exit_code(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE)]
    assert codes == [143, 138, 141]


def test_a_closed_pipe_ends_without_a_word(capsys):
    for error in (BrokenPipeError(errno.EPIPE, "Broken pipe"), Stopped(signal.SIGPIPE)):
        with pytest.raises(SystemExit) as stop, errors_on_one_line("it"):
            raise error
        assert stop.value.code == 141
    assert capsys.readouterr().err == ""


# --- Streams ---

CLOSED = """
import os, sys
from utils.streams import open_standard_streams
open_standard_streams("it")
print("a line")
sys.stderr.write("to stderr\\n")
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(1, b"for people")
os.write(2, b"for people")
assert file > 2, file
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
def test_a_closed_stream_is_never_the_number_of_a_file(tmp_path, closed):
    path = tmp_path / "file"
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {" ".join(f"{n}>&-" for n in closed)}', "sh",
         sys.executable, "-c", CLOSED, str(path)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert path.read_text() == ""
    if closed == "1":
        assert done.stderr.startswith("it: stdout is closed, so its messages are lost")


# --- Processes that read images ---


class Numbers(Dataset):
    """Numbers as images; one of the workers may do something at number 5."""

    def __init__(self, deed=None):
        self.deed = deed

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index == 5 and self.deed:
            self.deed()
        return torch.full((4,), index)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_shared_memory():
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")


def open_too_much():
    raise OSError(errno.EMFILE, "Too many open files")


def open_a_thread():
    raise RuntimeError("can't start new thread")


def read_only(*_):
    raise OSError(errno.EROFS, "Read-only file system")


def read(deed=None, **options):
    batches = batches_of(Numbers(deed), 2, batch_size=2, **options)
    return [batch[0, 0].item() for batch in batches]


def test_workers_read_everything_in_order():
    assert read() == list(range(0, 40, 2))


def test_more_workers_than_cores_are_no_reason_for_a_warning(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert next(batches_of(Numbers(), 2, batch_size=2))[0, 0] == 0


@pytest.fixture(params=["fork", "forkserver"])
def _method(request):
    """The default way to start processes, before Python 3.14 and since."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere SIGTERM ends them")
@pytest.mark.usefixtures("_method")
def test_workers_live_on_when_all_processes_are_asked_to_stop():
    """As systemd, docker and Ctrl-C do it."""
    batches = batches_of(Numbers(), 2, batch_size=2)
    before = set(multiprocessing.active_children())
    found = [next(batches)[0, 0].item()]
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    for number in ("TERM", "INT", "HUP", "USR1"):  # by another process than the main one
        subprocess.run(["kill", f"-{number}", *(str(worker.pid) for worker in workers)], check=True)
    time.sleep(0.2)
    assert all(worker.is_alive() for worker in workers)
    found += [batch[0, 0].item() for batch in batches]
    assert found == list(range(0, 40, 2))


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        (die, "a process that reads images was killed, .* fewer `num_workers` than 2"),
        (fill_the_shared_memory, "`num_workers` 2: no room .*unable to allocate shared memory"),
        (open_too_much, "`num_workers` 2: no room .*Too many open files"),
        (open_a_thread, "`num_workers` 2: no room .*new thread"),
    ],
)
def test_what_happens_to_workers_is_one_line(deed, said):
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(UserError, match=said) as raised:
        read(deed)
    assert "\n" not in str(raised.value)
    assert signal.getsignal(signal.SIGCHLD) is before


def test_a_worker_that_cannot_be_started_ends_the_others(monkeypatch, capfd):
    """A container may allow few processes. Those that run would wait forever."""
    other = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    other.start()
    before, fork = set(multiprocessing.active_children()), os.fork

    def fork_once():
        if set(multiprocessing.active_children()) - before:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", fork_once)
    called = []  # that of torch would raise an error, at any point
    handler = signal.signal(signal.SIGCHLD, lambda *_: called.append("handler"))
    try:
        with pytest.raises(FieldError, match=r"no room .* \(ulimit -u\)"):
            read()
        for worker in set(multiprocessing.active_children()) - before:
            worker.join(60)
    finally:
        signal.signal(signal.SIGCHLD, handler)
    assert not called
    assert other.is_alive()
    other.kill()
    assert capfd.readouterr().err == ""


def test_workers_obey_the_main_process_when_it_ends():
    """Python ends them so, where an error keeps the loader alive until the end."""
    batches = batches_of(Numbers(), 2, batch_size=2)
    before = set(multiprocessing.active_children())
    next(batches)
    workers = set(multiprocessing.active_children()) - before
    for worker in workers:
        worker.terminate()
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_mistakes_in_a_worker_are_not_taken_for_a_lack_of_room():
    def mistake():
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        read(mistake)


def test_workers_without_room_are_refused_before_anything_is_done(monkeypatch):
    check_workers(0, 10**15)
    check_workers(2, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(FieldError, match=r"`num_workers` 2: .* need 5000\.0 MB of shared memory"):
        check_workers(2, 10**9)  # two batches ahead for each, and one in use
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        patch.setattr("_multiprocessing.SemLock", read_only)
        with pytest.raises(FieldError, match=r"shm cannot be used \(Read-only file system\)"):
            check_workers(2, 1000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (39, 39))
    with pytest.raises(FieldError, match="about 40 open files and a process may have 39"):
        check_workers(2, 1000)


def test_a_missing_package_is_one_line():
    """-S hides the installed packages."""
    command = [sys.executable, "-S", "-E", str(ROOT / "MaskGIT.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "pip install -r requirements.txt" in result.stderr
    assert result.stderr.count("\n") == 1
