"""Kill the real command line at exact system calls, let calls fail, flip bits that it reads again.

    python tests/harness/faults.py --kills 300 --errors 200 --flips 500

The program is run for training, stage 1, sampling, editing and sweeping. faults.c, compiled and
preloaded, counts the calls that change files. Each case takes a random one of them. After a
kill or an error the same command must come to the end of an undisturbed run, bit for bit. A flip in
a file that is read again must be refused in one line, or leave what an undisturbed run leaves.
Needs a C compiler.
"""

import argparse
import csv
import ctypes
import errno
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("faults.c")
KILLS = (1000, 1001)  # KILL_BEFORE, KILL_INSIDE of faults.c
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EACCES, -errno.ENOSPC, -errno.EIO)
NEVER = 10**9
FAILED = "FAILED"


@dataclass(frozen=True)
class Work:
    """A command line, and what it leaves.

    Attributes:
        command: without --output_dir.
        result: a folder -> everything that must be equal, by name.
        prepared: the folder as it is before the command, or None for an empty one.
    """

    command: str
    result: Callable[[Path], dict[str, Any]]
    prepared: Path | None = None


def preload() -> None:
    """Start this script again with faults.c preloaded."""
    library = Path(tempfile.mkdtemp()) / "faults.so"
    compiler = os.environ.get("CC", "cc")
    flags = ["-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run([compiler, *flags], check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def features() -> Any:
    """A feature network: three by three means of the image, and no logits."""
    import torch

    class Features(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(images.float(), 3).flatten(1)

    return torch.jit.trace(Features(), torch.zeros(2, 1, 16, 16, dtype=torch.uint8))


def pictures_of(folder: Path) -> dict[str, Any]:
    """All pictures of the edits below a folder."""
    return {p.name: p.read_bytes() for p in (folder / "fashionmnist" / "edits").rglob("*.png")}


def sweep_of(folder: Path) -> dict[str, Any]:
    """The rows of a sweep without their times, and its pictures."""
    sweep = folder / "fashionmnist" / "sweep"
    with (sweep / "sweep.csv").open() as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["step"]))
    varied = ("images_per_s", "seconds", "checksum")
    kept = [{k: v for k, v in row.items() if k not in varied} for row in rows]
    return {"rows": kept, **{p.name: p.read_bytes() for p in sweep.rglob("*.png")}}


def stage_1_of(folder: Path) -> dict[str, Any]:
    """The weights of stage 1."""
    import crash
    import torch

    found: dict[str, Any] = {}
    for path in (folder / "fashionmnist").glob("*.pt"):
        found |= crash.flat(torch.load(path, weights_only=True)["contents"], path.name)
    return found


def make_works(base: Path) -> dict[str, Work]:
    """The commands, on 120 real images; a trained model is made first."""
    import crash
    import torch
    from conftest import TINY_CODES, TINY_VQGAN

    crash.load_modes()
    inputs = crash.write_inputs(base)
    train = f"{crash.TRAIN} --n_epochs 2 {inputs}"
    made = base / "made"
    crash.clear(made)
    assert crash.run_to_the_end(f"{train} --output_dir {made}", made) == 0
    model = shutil.copy(made / "fashionmnist" / "MaskGIT_fashionmnist.pt", base / "model.pt")
    torch.jit.save(features(), base / "net.pt")
    of_model = f"--checkpoint {model} --data_dir {base}/data --batch_size 10"
    stage_1 = (
        f"--train_vae --resume --dataset fashionmnist --data_dir {base}/data --no_wandb "
        f"--size 8 {TINY_VQGAN} {TINY_CODES} --batch_size_vae 20 --n_epochs_vae 2 "
        "--sample_and_save_freq 1 --precision fp32"
    )
    edit = f"--edit {of_model} --init_image fashionmnist:3 --mask_box 0,0,16,8 --num_samples 12"
    sweep = (
        f"--sweep step=2,4 {of_model} --num_samples 20 --reference validation "
        f"--features {base}/net.pt"
    )
    return {
        "training": Work(train, crash.state_of),
        "stage 1": Work(stage_1, stage_1_of),
        "sampling": Work(f"--sample {of_model} --num_samples 35", crash.samples_of),
        "editing": Work(edit, pictures_of),
        "sweep": Work(sweep, sweep_of),
    }


def run(work: Work, folder: Path, at: int = NEVER, how: int = KILLS[0]) -> tuple[int, int, str]:
    """Run a command in a child with a fault.

    Returns:
        Its exit code (negative: the signal), the calls that were counted (of a child that ends by
        itself), and what it printed.
    """
    import crash

    counted = folder.with_name(f"{folder.name}.count")

    def arm() -> None:
        library = ctypes.CDLL(None)
        library.fault_arm(f"{folder}/".encode(), ctypes.c_long(at), how)
        real_exit = os._exit

        def leave(code: int) -> None:
            library.fault_count.restype = ctypes.c_long
            counts = library.fault_count()
            library.fault_arm(b"", ctypes.c_long(NEVER), KILLS[0])
            counted.write_text(str(counts))
            real_exit(code)

        os._exit = leave  # type: ignore[assignment]

    counted.unlink(missing_ok=True)
    begin = time.monotonic()
    child = crash.start(f"{work.command} --output_dir {folder}", folder.parent, arm)
    while (code := crash.outcome(child)) is None:
        assert time.monotonic() - begin < crash.LONGEST_WAIT, f"hangs: {work.command}"
        time.sleep(0.002)
    calls = int(counted.read_text()) if counted.is_file() else 0
    return code, calls, (folder.parent / "output.txt").read_text()


def count_outcomes(case: Callable[[], str], count: int) -> Counter[str]:
    """Run a case so often and count how it ended; what fails is printed and counted as FAILED."""
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        try:
            outcomes[case()] += 1
        except AssertionError as error:
            outcomes[FAILED] += 1
            print(error, file=sys.stderr, flush=True)  # noqa: T201
    return outcomes


Straight = tuple[dict[str, Any], int]
"""What a command leaves in an empty folder, and how many calls it makes."""


def undisturbed(work: Work, folder: Path) -> Straight:
    """Run a command in an empty folder, without a fault."""
    import crash

    crash.clear(folder)
    code, calls, said = run(work, folder)
    assert code == 0, said
    return work.result(folder), calls


def kill_or_fail(
    name: str, work: Work, folder: Path, straight: Straight, count: int, hows: tuple[int, ...],
    chance: random.Random,
) -> Counter[str]:  # fmt: skip
    """Let `count` calls of a command go wrong, each in a run of its own, and finish it after.

    A run fails if it prints a traceback, cannot be finished, or leaves something else.
    """
    import crash

    expected, calls = straight

    def case() -> str:
        crash.clear(folder)
        at, how = chance.randint(1, calls), chance.choice(hows)
        code, _, said = run(work, folder, at, how)
        what = f"{name}, call {at} of {calls}, fault {how}: exit code {code}\n{said}"
        if how in KILLS:
            assert code in (-9, 0), what
        else:
            assert code in (0, 2), what
            assert "Traceback" not in said, what
            if code:
                assert said.count("MaskGIT.py: error: ") == 1, what
        again_code, _, again = run(work, folder)
        assert again_code == 0, f"{what}\nand again:\n{again}"
        check_result(work, folder, expected, what)
        left = [path for path in folder.rglob("*.partial*") if path.is_file()]
        assert not left, f"{what}\nleft behind: {left}"
        return "killed" if code == -9 else "refused" if code else "went on"

    return count_outcomes(case, count)


def flip(
    name: str, work: Work, folder: Path, straight: Straight, count: int, chance: random.Random
) -> Counter[str]:
    """Flip one bit of a file that a stopped command reads again, and go on.

    A run fails if the flip is neither refused in one line nor without effect. Of a file of lines
    the damaged line may be left out, if that is said.
    """
    import crash

    from training.tracking import is_row
    from utils.records import read_record_lines

    stopped = folder.with_name("stopped")
    expected, calls = straight
    numbers = itertools.count()

    def case() -> str:
        # A new stop at a random call every ten flips.
        if next(numbers) % 10 == 0:
            crash.clear(folder)
            run(work, folder, chance.randint(calls // 4, calls), KILLS[0])
            shutil.rmtree(stopped, ignore_errors=True)
            shutil.copytree(folder, stopped)
        shutil.rmtree(folder)
        shutil.copytree(stopped, folder)
        files = files_read_again(folder)
        if not files:
            return "nothing to read again"
        file = chance.choice(files)
        content = bytearray(file.read_bytes())
        at, bit = chance.randrange(len(content)), chance.randrange(8)
        content[at] ^= 1 << bit
        file.write_bytes(bytes(content))
        code, _, said = run(work, folder)
        # A finished run leaves its rows alone; who reads them next must notice.
        untouched = file.name == "metrics.jsonl" and file.read_bytes() == content
        what = f"{name}, bit {bit} of byte {at} of {file.relative_to(folder)}: {code}\n{said}"
        assert code in (0, 2), what
        assert "Traceback" not in said, what
        if code == 2:
            assert said.count("MaskGIT.py: error: ") == 1, what
            return "refused"
        if untouched:
            assert read_record_lines(file, is_row)[1] == 1, what
            content[at] ^= 1 << bit
            file.write_bytes(bytes(content))
            check_result(work, folder, expected, what)
            return "noticed by the next reader"
        if "damaged rows, measured again" in said:
            # The row comes last now, also on the sheet.
            sheet = {"sweep.png": work.result(folder)["sweep.png"]}
            check_result(work, folder, expected | sheet, what)
            return "measured again"
        if "lines that cannot be read, left out" in said:
            rows = work.result(folder).get("metrics", [])
            kept = [row for row in expected.get("metrics", []) if row in rows]
            check_result(work, folder, {**expected, **({"metrics": kept} if kept else {})}, what)
            return "left out and said"
        check_result(work, folder, expected, what)
        return "without effect"

    return count_outcomes(case, count)


def files_read_again(folder: Path) -> list[Path]:
    """Files with contents, but no pictures and no kept checkpoints, which a run only writes."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]
    read = [p for p in files if p.suffix not in (".png", ".gif") and "_step_" not in p.name]
    return read or files


def check_result(work: Work, folder: Path, expected: dict[str, Any], what: str) -> None:
    """Compare what a command left; AssertionError that says after what."""
    import crash

    try:
        crash.check_equal(work.result(folder), expected)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{what}") from error


def main() -> None:
    """Try each class of fault on every command, and print how many cases ended how.

    Exits with 1 if a case failed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--errors", type=int, default=20)
    parser.add_argument("--flips", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="COMMAND", help="of these commands, by name")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        works = make_works(base)
        failed = 0
        for name, work in works.items():
            if options.only and name not in options.only:
                continue
            shares = (-(-n // len(works)) for n in (options.kills, options.errors, options.flips))
            kills, errors, flips = shares
            folder = base / "out"
            straight = undisturbed(work, folder)
            said = {
                "kills": kill_or_fail(name, work, folder, straight, kills, KILLS, chance),
                "errors": kill_or_fail(name, work, folder, straight, errors, ERRORS, chance),
                "flips": flip(name, work, folder, straight, flips, chance),
            }
            for kind, outcomes in said.items():
                counts = ", ".join(f"{count} {how}" for how, count in sorted(outcomes.items()))
                print(f"{name}: {sum(outcomes.values())} {kind}: {counts}", flush=True)  # noqa: T201
                failed += outcomes[FAILED]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    if "faults.so" not in os.environ.get("LD_PRELOAD", ""):
        preload()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
