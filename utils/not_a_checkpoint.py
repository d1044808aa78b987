"""Says what a file or folder is that was given as a checkpoint and is something else."""

import re
from contextlib import suppress
from pathlib import Path

BEGINNINGS = {  # the first bytes of files that are not checkpoints, and what to say
    b"\x89HDF": "it is a file of HDF5, as Keras writes it",
    b"\x93NUMPY": "it is an array of numpy",
    b"GGUF": "it is a file of GGUF",
}
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")
"""The first bytes of gzip, bzip2, xz, zstd, 7z and rar."""

ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")  # of checkpoints, usually
COPY = re.compile(r"_(best|best_fid|step_\d+)$")  # in stems of other checkpoints of a run


def what_it_is(beginning: bytes) -> str:
    """Say what a file is if it is not a checkpoint."""
    if beginning.startswith(PACKED):
        return "it is packed: unpack it first"
    for start, text in BEGINNINGS.items():
        if beginning.startswith(start):
            return text
    if beginning[257:262] == b"ustar":
        first = beginning[:100].rstrip(b"\0").decode(errors="replace")
        return f"it is a tar archive, with {first}: unpack it first, or save it again with torch"
    if b'"weight_map"' in beginning:
        return "it is the list of a checkpoint in parts, which must be saved as one file"
    try:
        text = beginning.decode()
    except UnicodeDecodeError:
        text = ""
    if text and all(letter.isprintable() or letter.isspace() for letter in text):
        return f"it is a text that begins with {' '.join(text.split())[:40]!r}"
    return "it is not a file of torch.save or safetensors"


def checkpoints_in(folder: Path, pattern: str = "*") -> list[Path]:
    """List the files in a folder that are checkpoints by their names.

    A resume state is none, and what a run keeps beside its result does not count.
    """
    names: list[Path] = []
    with suppress(OSError):  # its name may be too long; whoever opens it says so
        names = [one for one in folder.glob(pattern) if one.name.endswith(ENDINGS)]
    found = sorted(one for one in names if not one.name.startswith("resume_"))
    stems = {one.stem for one in found}
    return [one for one in found if COPY.sub("", one.stem) not in stems - {one.stem}]


def what_is_in(folder: Path) -> str:
    """Say what is in a folder that was given as a checkpoint."""
    if (folder / "data.pkl").exists():
        return " with the records of a checkpoint that was unpacked: download it again, and keep it"
    files = checkpoints_in(folder) or checkpoints_in(folder, "*/*")  # of the folder of all runs
    found = ", ".join(str(one.relative_to(folder)) for one in files[:3])
    return f"; name the checkpoint in it: {found}" if found else " without a checkpoint"
