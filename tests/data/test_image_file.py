"""Image files of other people: damage, strange kinds, sizes and EXIF data, read or named."""

import io
import os
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import image_file
from data.image_file import load_image, problems
from utils.errors import FileError

ROOT = Path(__file__).parents[2]


def blocks(size: int = 128) -> Image.Image:
    """Colored squares, so that every format stores something for every part."""
    levels = np.random.default_rng(0).integers(0, 256, (size // 8, size // 8, 3), np.uint8)
    return Image.fromarray(levels.repeat(8, axis=0).repeat(8, axis=1))


def encoded(kind: str, **options) -> bytes:
    file = io.BytesIO()
    blocks().save(file, kind, **options)
    return file.getvalue()


def cut_with_end_mark(data: bytes, mark: bytes) -> bytes:
    return data[: len(data) // 2] + mark


def with_changed_bytes(data: bytes, at: int) -> bytes:
    return data[:at] + bytes(byte ^ 0x5A for byte in data[at : at + 8]) + data[at + 8 :]


JPEG, PNG = encoded("JPEG"), encoded("PNG")
DAMAGED = {
    **{
        f"half.{kind.lower()}": (data := encoded(kind))[: len(data) // 2]
        for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
    },
    "marked.jpg": cut_with_end_mark(JPEG, b"\xff\xd9"),
    "marked_gray.jpg": cut_with_end_mark(encoded("JPEG", subsampling=0), b"\xff\xd9"),
    "marked.png": cut_with_end_mark(PNG, PNG[-12:]),
    "changed.png": with_changed_bytes(PNG, PNG.index(b"IDAT") + 60),
    "changed.gif": with_changed_bytes(data := encoded("GIF"), len(data) // 3),
    "empty.png": b"",
    "page.jpg": b"<!DOCTYPE html><p>not found",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_is_refused_wherever_it_is_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(FileError, match=f"cannot read the image .*{name}: .") as error:
        load_image(path)
    assert "\n" not in str(error.value)
    assert [str(found) for found in problems([str(path)])] == [str(error.value)]


@pytest.mark.parametrize("level", [0, 6])
def test_a_png_with_a_flipped_bit_shows_no_other_pixels(tmp_path, level):
    whole = encoded("PNG", compress_level=level)
    for at in range(whole.index(b"IDAT") + 4, len(whole) - 16, len(whole) // 40):
        data = bytearray(whole)
        data[at] ^= 1
        (tmp_path / "flip.png").write_bytes(data)
        with suppress(FileError):
            assert load_image(tmp_path / "flip.png").tobytes() == blocks().tobytes()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_gray_jpeg_is_not_taken_for_a_damaged_one(tmp_path, options):
    path = tmp_path / "gray.jpg"
    Image.new("RGB", (20, 20), (128, 128, 128)).save(path, **options)
    assert load_image(path).getpixel((19, 19)) == (128, 128, 128)


def test_what_is_in_place_of_an_image_is_said(tmp_path):
    for name, content, said in [
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("b.png", b"  <html><body>", "a web page"),
        ("c.png", b"", "it is empty"),
        ("d.png", b"GIMP", "none of the formats AVIF, BMP"),
        ("e.jpg", b"\xff\x0a" + bytes(40), "it is JPEG XL; convert it"),
        ("f.jpg", b"\0\0\0\x0cJXL \r\n\x87\n", "it is JPEG XL; convert it"),
        ("g.png", bytes(128) + b"DICM", "it is DICOM; convert it"),
        ("h.png", b"<?xml version='1.0'?><svg/>", "it is an SVG drawing; convert it"),
        ("i.png", b"<!DOCTYPE svg><svg/>", "it is an SVG drawing; convert it"),
        ("j.jpg", b"\0\0\0\x20ftypisom", "it is a film"),
        ("j.avif", encoded("AVIF")[:60], "damaged, or AVIF of a kind"),
        ("k.png", PNG[:20], "Truncated File Read"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=said):
            load_image(tmp_path / name)


def test_heic_is_named_with_the_package_that_reads_it(tmp_path):
    brands = ("heic", "heix", "mif1")
    for brand in brands:
        content = b"\0\0\0\x18ftyp" + brand.encode() + bytes(99)
        (tmp_path / f"{brand}.jpg").write_bytes(content)
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"  # as if it were not installed
        "from data.image_file import load_image\n"
        "for path in sys.argv[1:]:\n"
        "    try: load_image(path)\n"
        "    except Exception as error: print(error)"
    )
    files = [str(tmp_path / f"{brand}.jpg") for brand in brands]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True)
    assert done.stdout.count(": pip install -r requirements-heif.txt") == 3, done.stderr


@pytest.mark.skipif(not image_file.READS_HEIF, reason="pillow-heif is not installed")
def test_heic_is_read_where_its_package_is_installed(tmp_path):
    image_file._formats()
    levels = np.linspace(0, 255, 64 * 48).reshape(64, 48).astype(np.uint8)
    Image.fromarray(levels).convert("RGB").save(tmp_path / "a.heic", "HEIF", quality=-1)
    shown = np.asarray(load_image(tmp_path / "a.heic")).astype(int)
    assert np.abs(shown - levels[..., None]).max() <= 2
    (tmp_path / "cut.heic").write_bytes((tmp_path / "a.heic").read_bytes()[:60])
    with pytest.raises(FileError, match="damaged, or"):
        load_image(tmp_path / "cut.heic")


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk, before its pixels."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return PNG[:33] + struct.pack(">I", len(content)) + kind + content + checksum + PNG[33:]


@pytest.mark.parametrize(
    "chunk",
    [
        (b"iCCP", b"p\0\0" + zlib.compress(bytes(3 << 20))),
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20))),
        (b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
        (b"tEXt", b"k\0" + bytes(65 << 20)),
        (b"pHYs", b"short"),
        (b"zTXt", b"damaged"),
    ],
    ids=lambda chunk: chunk[0].decode(),
)
def test_text_and_profile_cost_no_image(tmp_path, chunk):
    (tmp_path / "a.png").write_bytes(with_chunk(*chunk))
    assert load_image(tmp_path / "a.png").tobytes() == blocks().tobytes()


@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "PDF"])
def test_formats_outside_the_list_are_not_opened(tmp_path, kind, monkeypatch):
    """An EPS that is called .png would start Ghostscript."""
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program"))
    blocks().save(tmp_path / "image.png", kind)
    with pytest.raises(FileError, match="none of the formats"):
        load_image(tmp_path / "image.png")


def exif_jpeg(tag: int, kind: int, count: int, value: bytes, orientation: int = 8) -> bytes:
    """A JPEG of 20 x 10 pixels that is turned, with one more EXIF tag."""
    tags = sorted([(0x0112, 3, 1, struct.pack("<HH", orientation, 0)), (tag, kind, count, value)])
    entries = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in tags)
    head = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2)
    exif = head + entries + bytes(4) + bytes(range(80))
    file = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(file, "JPEG")
    data = file.getvalue()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


@pytest.mark.parametrize("kind", range(14))
@pytest.mark.parametrize("tag", [0x0131, 0x02BC, 0x8769, 0x010E])
def test_odd_exif_data_do_not_hinder(tmp_path, tag, kind):
    path = tmp_path / "phone.jpg"
    path.write_bytes(exif_jpeg(tag, kind, 4, struct.pack("<I", 8)))
    assert load_image(path).size == (10, 20)


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, orientation):
    path = tmp_path / "phone.jpg"
    path.write_bytes(exif_jpeg(0x0131, 2, 4, b"abc\0", orientation))
    assert load_image(path).size == (20, 10)


def test_whatever_is_raised_names_the_file(tmp_path, monkeypatch):
    blocks().save(tmp_path / "a.png")
    for error in (AttributeError("odd"), MemoryError(), RecursionError(), AssertionError()):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(image_file, "to_eight_bits", fail)
        with pytest.raises(FileError, match=r"a\.png: ."):
            load_image(tmp_path / "a.png")


def test_a_pipe_a_folder_and_a_device_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "pipe.png", tmp_path / "folder.png", Path("/dev/zero")):
        with pytest.raises(FileError, match="is not a file"):
            load_image(path)


def huge_png(width: int, height: int) -> bytes:
    """A PNG that says it is very large."""
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_too_many_pixels_are_refused(tmp_path):
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png(20_000, 20_000))
    with pytest.raises(FileError) as error:
        load_image(path)
    assert "it has 400,000,000 pixels, more than 178,956,970" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_a_large_image_takes_little_more_than_its_pixels(tmp_path, mode):
    side = 3000
    color = 0 if mode == "I;16" else (0, 0, 0, 200)
    Image.new(mode, (side, side), color).save(tmp_path / "large.png", compress_level=1)
    code = (
        "import resource, sys; from data.image_file import load_image; "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak(); "
        "load_image(sys.argv[1]); print((peak() - before) * 1024)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 * side**2  # it was 26 bytes a pixel


def test_ordinary_images_are_read_as_pillow_shows_them(tmp_path):
    for kind in ("png", "jpg", "webp", "bmp", "gif", "tiff", "jp2", "avif", "ppm"):
        for mode in ("L", "RGB"):
            blocks().convert(mode).save(tmp_path / f"a.{kind}")
            with Image.open(tmp_path / f"a.{kind}") as theirs:
                wanted = theirs.convert("L" if theirs.mode in ("L", "1") else "RGB")
            assert load_image(tmp_path / f"a.{kind}").tobytes() == wanted.tobytes(), (kind, mode)
