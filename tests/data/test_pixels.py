"""Pixels of every kind of file: as the bytes say, or refused. The files are written by hand."""

import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import deep_pixels, pixels
from data.generated import open_generated
from data.image_file import load_image
from data.open_dataset import open_dataset
from utils.errors import FileError
from utils.progress import log_once

RAMP = np.linspace(0, 1, 12 * 16).reshape(12, 16)
COLORS = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
ORIENTATION, PREMULTIPLIED, ALPHA = 274, 1, 2


def over(kind: str, levels: np.ndarray) -> np.ndarray:
    """Levels in [0, 1] over the whole range of a type."""
    if np.dtype(kind).kind == "f":
        return levels.astype(kind)
    info = np.iinfo(kind)
    return np.rint(levels * (int(info.max) - int(info.min)) + int(info.min)).astype(kind)


def tiff(samples: np.ndarray, photometric: int, extra: int | None = None, **options) -> bytes:
    """A TIFF of one strip, or of one for each color.

    Args:
        samples: (H, W) or (H, W, C).
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK, 6 YCbCr.
        extra: what the last of C means.
        options: `order`, `zipped`, `in_planes`, `more` tags.
    """
    order, zipped = options.get("order", "<"), options.get("zipped", False)
    samples = samples.astype(samples.dtype.newbyteorder(order))
    height, width, count = *samples.shape[:2], samples[0, 0].size
    planes = [samples]
    if options.get("in_planes"):
        planes = [np.ascontiguousarray(samples[..., c]) for c in range(count)]
    strips = [zlib.compress(p.tobytes()) if zipped else p.tobytes() for p in planes]
    tags = {
        256: [width], 257: [height], 258: [samples.itemsize * 8] * count, 259: [8 if zipped else 1],
        262: [photometric], 273: [0] * len(strips), 277: [count], 278: [height],
        279: [len(strip) for strip in strips], 284: [2 if options.get("in_planes") else 1],
        339: [{"u": 1, "i": 2, "f": 3}[samples.dtype.kind]] * count,
        **({} if extra is None else {338: [extra]}), **options.get("more", {}),
    }  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    end = start + 4 * sum(map(len, tags.values()))
    tags[273] = list(itertools.accumulate(map(len, strips[:-1]), initial=end))
    entries, lists = b"", b""
    for tag, values in sorted(tags.items()):
        value = values[0] if len(values) == 1 else start + len(lists)
        entries += struct.pack(f"{order}HHII", tag, 4, len(values), value)
        lists += struct.pack(f"{order}{len(values)}I", *values) if len(values) > 1 else b""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags))
    return (head + entries + bytes(4) + lists).ljust(end, b"\0") + b"".join(strips)


def png(samples: np.ndarray, bits: int, color: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of (H, W, C) samples; `color` is the standard's number of the kind."""
    rows = [format(int(value), f"0{bits}b") for value in samples.reshape(-1)]
    step = len(rows) // len(samples)
    lines = ["".join(rows[at : at + step]) for at in range(0, len(rows), step)]
    data = b"".join(
        b"\0" + int(line.ljust(-(-len(line) // 8) * 8, "0"), 2).to_bytes(-(-len(line) // 8), "big")
        for line in lines
    )
    head = struct.pack(">2I5B", samples.shape[1], len(samples), bits, color, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def read(folder: Path, data: bytes, **options) -> np.ndarray:
    """What `load_image` makes of the bytes of a file, as levels in [0, 1]."""
    (folder / "image").write_bytes(data)
    return np.asarray(load_image(folder / "image", **options)) / 255


def assert_shows(folder: Path, data: bytes, wanted: np.ndarray) -> None:
    shown = read(folder, data)
    assert shown.shape == wanted.shape
    np.testing.assert_allclose(shown, wanted, atol=1.01 / 255)


KINDS = ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f2", "f8"]
STORED = list(itertools.product("<>", (False, True), (False, True)))
READ = {("gray", kind) for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "f4")} | {
    (color, kind) for color in ("white is zero", "rgb") for kind in ("u1", "u2")
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("color", ["gray", "white is zero", "rgb", "cmyk", "rgba", "gray alpha"])
def test_a_tiff_shows_what_is_in_it_or_is_refused(tmp_path, kind, color):
    photometric = {"white is zero": 0, "rgb": 2, "rgba": 2, "cmyk": 5}.get(color, 1)
    levels = {1: RAMP, 0: RAMP}.get(photometric, COLORS)
    wanted = 1 - levels if color in ("white is zero", "cmyk") else levels
    extra = ALPHA if color in ("rgba", "gray alpha") else None
    if color not in ("gray", "white is zero", "rgb"):  # alpha 1, or no black ink
        last = np.full((*RAMP.shape, 1), extra is not None, float)
        levels = np.concatenate([levels.reshape(*RAMP.shape, -1), last], -1)
    read_kinds = 0
    for order, zipped, in_planes in STORED:
        if in_planes and levels.ndim == 2:
            continue
        how = {"order": order, "zipped": zipped, "in_planes": in_planes}
        data = tiff(over(kind, levels), photometric, extra, **how)
        try:
            shown = read(tmp_path, data)
        except FileError:
            continue
        read_kinds += 1
        np.testing.assert_allclose(shown, wanted, atol=1.01 / 255, err_msg=str(how))
    assert read_kinds or (color, kind) not in READ


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_a_turned_tiff_is_turned_back(tmp_path, orientation, zipped, kind):
    turned = [RAMP, RAMP[:, ::-1], RAMP[::-1, ::-1], RAMP[::-1], RAMP.T, np.rot90(RAMP, -1)]
    turned += [RAMP[::-1, ::-1].T, np.rot90(RAMP)]
    data = tiff(over(kind, RAMP), 1, zipped=zipped, more={ORIENTATION: [orientation]})
    assert_shows(tmp_path, data, turned[orientation - 1])


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_alpha_of_a_tiff(tmp_path, premultiplied, kind):
    alpha = np.linspace(1, 0.3, RAMP.size).reshape(*RAMP.shape, 1)
    stored = COLORS * alpha if premultiplied else COLORS
    samples = over(kind, np.concatenate([stored, alpha], -1))
    data = tiff(samples, 2, PREMULTIPLIED if premultiplied else ALPHA)
    np.testing.assert_allclose(read(tmp_path, data), COLORS * alpha + 1 - alpha, atol=4 / 255)


def test_a_palette_that_is_written_as_8_bits_is_seen(tmp_path):
    palette = [*range(256), *range(255, -1, -1), *[77] * 256]
    wanted = np.stack([RAMP, 1 - RAMP, np.full_like(RAMP, 77 / 255)], -1)
    for factor in (1, 257):
        more = {320: [factor * level for level in palette]}
        assert_shows(tmp_path, tiff(over("u1", RAMP), 3, more=more), wanted)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (tiff(over("u2", COLORS), 2, in_planes=True), "colors in planes"),
        (tiff(over("i2", RAMP), 1, order=">", zipped=True), "big-endian"),
        (tiff(over("u1", COLORS[:6]), 6, more={257: [12]}) + bytes(999), "fewer colors"),
        (tiff(over("u1", COLORS), 8), "space LAB"),
        (tiff(over("u1", RAMP), 1, more={259: [34712]}), "number 34712 in it is unknown"),
        (tiff(over("f4", COLORS), 2), "TIFF of a kind that is not read: unknown pixel mode"),
    ],
)
def test_the_kind_that_is_refused_is_named(tmp_path, data, said):
    with pytest.raises(FileError, match=said):
        read(tmp_path, data)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color", [0, 2, 4, 6])
def test_a_png_shows_what_is_in_it(tmp_path, bits, color):
    if color and bits < 8:
        pytest.skip("the standard has no such kind")
    alpha = RAMP.T.reshape(*RAMP.shape, 1)
    levels = {0: RAMP[..., None], 2: COLORS, 4: RAMP[..., None], 6: COLORS}[color]
    top = 2**bits - 1
    samples = np.rint(levels * top).astype(int)
    wanted = samples / top
    if color in (4, 6):
        samples = np.concatenate([samples, np.rint(alpha * top).astype(int)], -1)
        wanted = wanted * alpha + 1 - alpha
    wanted = wanted[..., 0] if color in (0, 4) and bits < 16 else wanted
    assert_shows(tmp_path, png(samples, bits, color), wanted.squeeze())
    if color in (0, 2):  # one color is transparent, and so white
        key = samples[7, 9]
        chunk = (b"tRNS", struct.pack(f">{len(key)}H", *key))
        wanted = wanted.reshape(samples.shape).copy()
        wanted[(samples == key).all(-1)] = 1
        assert_shows(tmp_path, png(samples, bits, color, chunk), wanted.squeeze())


@pytest.mark.parametrize("top", [1, 100, 255, 256, 1000, 4095, 65535])
@pytest.mark.parametrize("levels", [RAMP, COLORS], ids=["gray", "color"])
def test_a_ppm_shows_what_is_in_it(tmp_path, top, levels):
    samples = np.rint(levels * top).astype("u1" if top < 256 else ">u2")
    head = b"P%d\n16 12\n%d\n" % (5 if levels is RAMP else 6, top)
    assert_shows(tmp_path, head + samples.tobytes(), samples / top)


@pytest.mark.parametrize("levels", [RAMP, COLORS], ids=["gray", "color"])
def test_the_white_that_a_dark_ppm_names_counts(tmp_path, levels):
    samples = np.rint(levels * 200).astype(">u2")
    kind = 5 if levels is RAMP else 6
    assert_shows(tmp_path, b"P%d\n16 12\n4095\n" % kind + samples.tobytes(), samples / 4095)
    assert_shows(tmp_path, b"P%d\n16 12\n65535\n" % kind + samples.tobytes(), samples / 255)


@pytest.mark.parametrize("bits", [1, 4, 10, 12, 16])
def test_jpeg_2000_of_a_depth_that_pillow_scales_wrongly_is_refused(tmp_path, bits):
    Image.fromarray(over("u1", COLORS)).save(tmp_path / "a.jp2", irreversible=False)
    data = bytearray((tmp_path / "a.jp2").read_bytes())
    components = data.index(b"\xff\x4f\xff\x51") + 4 + 38
    data[components : components + 9 : 3] = bytes([bits - 1] * 3)
    with pytest.raises(FileError, match=f"JPEG 2000 of {bits} bits? "):
        read(tmp_path, bytes(data))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_what_is_transparent_everywhere_is_refused(tmp_path, mode):
    path = tmp_path / "a.png"
    if mode == "I;16":
        path.write_bytes(png(np.full((4, 4, 1), 300), 16, 0, (b"tRNS", struct.pack(">H", 300))))
    else:
        image = Image.fromarray(over("u1", COLORS)).convert(mode)
        image.putalpha(0)
        image.save(path)
    with pytest.raises(FileError, match="transparent everywhere"):
        load_image(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "I;16", "F"])
def test_bands_change_no_pixel(mode, monkeypatch):
    levels = np.linspace(0, 4000, 64 * 64).reshape(64, 64)
    if mode in ("I;16", "F"):
        kind = np.uint16 if mode == "I;16" else np.float32
        alpha = (levels / 4000).astype(np.float32)
        image: Image.Image | deep_pixels.DeepImage = deep_pixels.DeepImage(
            levels.astype(kind), alpha
        )
    else:
        image = Image.fromarray((levels % 256).astype(np.uint8)).convert("P").convert(mode)
        image.putalpha(Image.fromarray((levels / 16).astype(np.uint8)))
    whole = pixels.to_eight_bits(image)
    monkeypatch.setattr(deep_pixels, "BAND", 7 * 64)
    assert pixels.to_eight_bits(image).tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("kind", "values", "shown"),
    [
        (np.uint16, [0, 257, 0x8080, 0xFFFF], [0, 1, 128, 255]),
        (np.uint16, [0, 1, 200, 255], [0, 1, 200, 255]),  # 8 bits in a larger type
        (np.uint16, [0, 1023], [0, 255]),
        (np.uint16, [0, 2048, 4095], [0, 128, 255]),  # 12 bits, as of X-rays
        (np.uint16, [0, 5000], [0, 78]),  # 14 bits
        (np.int32, [0, 65535], [0, 255]),
        (np.int32, [0, 500_000, 1_000_000], [0, 128, 255]),
        (np.int32, [-1000, 0, 3000], [0, 64, 255]),  # Hounsfield units
        (np.float32, [0, 0.5, 1], [0, 128, 255]),
        (np.float32, [0, 128, 255], [0, 128, 255]),
        (np.float32, [-1, 0, 1], [0, 128, 255]),
        (np.float32, [0, np.nan, 1], [0, 0, 255]),
        (np.float32, [5, 5, 5], [0, 0, 0]),
    ],
)
def test_samples_of_other_depths_follow_one_rule(tmp_path, kind, values, shown):
    row = np.array([values], kind)
    assert (read(tmp_path, tiff(row, 1)) * 255).round().tolist() == [shown]
    if kind == np.uint16:
        color = np.repeat(row[..., None], 3, -1)
        for data in (tiff(color, 2), tiff(color, 2, order=">"), png(color, 16, 2)):
            assert (read(tmp_path, data)[..., 1] * 255).round().tolist() == [shown]


def write_deep_folder(folder: Path) -> None:
    """Gray and color, each with the value 1000 at the left, of which one holds 4095."""
    for number in range(8):
        samples = np.full((8, 8, 3), 1000)
        samples[:, 4:] = 4095 if number == 5 else 500
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(samples if number % 3 else samples[..., :1], 16, 2 * bool(number % 3)))


def test_one_range_holds_for_all_images_of_a_folder(tmp_path, caplog):
    caplog.set_level("INFO")
    write_deep_folder(tmp_path)
    opened = [open_dataset("folder", split, tmp_path, 8) for split in ("train", "validation")]
    shown = [images[i][0][:, 0, 0].tolist() for images in opened for i in range(len(images))]
    levels = {level for colors in shown for level in colors}
    assert levels == {round(1000 * 255 / 4095)}
    assert caplog.text.count("samples of more than 8 bits go from 0, black, to 4095, white") == 1
    read_again = [block for block, _ in open_generated(tmp_path, 8, 3).blocks(3)]
    assert set(np.concatenate(read_again)[:, 0, 0].ravel()) == levels


def test_deep_images_that_are_only_validated_on_have_one_range_too(tmp_path):
    for split, levels in (("train", [9, 9]), ("val", [1000, 1000, 4095])):
        for number, level in enumerate(levels):
            path = tmp_path / split / "a" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            samples = np.full((8, 8, 3), level)
            path.write_bytes(png(samples, 8 if split == "train" else 16, 2))
    images = open_dataset("folder", "validation", tmp_path, 8)
    assert [int(images[i][0][0, 0, 0]) for i in range(3)] == [62, 62, 255]


def test_a_folder_with_another_range_has_another_fingerprint(tmp_path):
    write_deep_folder(tmp_path)
    first = open_dataset("folder", "validation", tmp_path, 8).fingerprint
    path = tmp_path / "b" / "5.png"
    path.write_bytes(png(np.full((8, 8, 3), 9999), 16, 2))
    assert open_dataset("folder", "validation", tmp_path, 8).fingerprint != first


def test_the_rule_for_deep_samples_is_said_once(tmp_path, caplog):
    log_once.cache_clear()
    caplog.set_level("INFO")
    for _ in range(3):
        read(tmp_path, png(np.full((4, 4, 1), 300), 16, 0))
    (record,) = [r for r in caplog.records if "more than 8 bits" in r.getMessage()]
    assert "255, 1023, 4095, 16383, 65535" in record.getMessage()
