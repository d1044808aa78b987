"""The table of a sweep is what was measured, or it says what is not."""

import math
import os

import numpy as np
import pytest
from PIL import Image

from metrics.sweep_table import SweepTable, varied
from utils.errors import UserError

PROTOCOL = {"images": 1000, "seed": 1}
SETTINGS = [{"step": step, "cfg_w": 1.5} for step in (2, 4, 8)]


def measured(folder, settings=SETTINGS):
    """A table with these rows."""
    table = SweepTable(folder, PROTOCOL)
    for setting in settings:
        images = np.full((12, 8, 8, 1), setting["step"], np.uint8)
        list(table.keep_strip(setting, iter([(images, np.zeros(12))])))
        table.add(setting, {"fid": 100 / setting["step"], "seconds": 0.25})
    table.draw_sheet(["step", "cfg_w"])
    return table


def flips(content, step=1):
    for bit in range(0, 8 * len(content), step):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


def test_rows_are_found_again(tmp_path):
    measured(tmp_path)
    table = SweepTable(tmp_path, PROTOCOL)
    assert table.find(SETTINGS[1]) == {"step": "4", "cfg_w": "1.5", "fid": "25", "seconds": "0.25"}
    assert table.find({"step": 4, "cfg_w": 2.0}) is None
    assert varied(SETTINGS, SETTINGS[0]) == ["step"]
    assert table.show(SETTINGS[2], ["step", "fid", "kid"]) == "step=8 fid=12.5"


def test_the_best_row_is_the_lowest_or_the_highest(tmp_path):
    table = SweepTable(tmp_path, PROTOCOL)
    scores = [(3, 0.5), (2, math.nan), (4, 0.75), (5, 0.25)]
    for step, (fid, recall) in enumerate(scores):
        table.add({"step": step}, {"fid": fid, "recall": recall})
    assert [table.best(score)["step"] for score in ("fid", "recall")] == ["1", "2"]
    with pytest.raises(UserError, match=r"sweep\.csv has no class_accuracy"):
        table.best("class_accuracy")


def test_a_score_that_is_not_finite_is_an_empty_cell(tmp_path):
    (setting, *_), table = SETTINGS, SweepTable(tmp_path, PROTOCOL)
    list(table.keep_strip(setting, iter([(np.zeros((12, 8, 8, 1), np.uint8), np.zeros(12))])))
    table.add(setting, {"fid": math.inf, "kid": math.nan, "seconds": 1.0})
    expected = {"step": "2", "cfg_w": "1.5", "fid": "", "kid": "", "seconds": "1"}
    assert SweepTable(tmp_path, PROTOCOL).find(setting) == expected  # it is not measured again
    table.draw_sheet([*setting])
    assert height(table.sheet) > 8


def test_no_flip_of_the_table_is_believed(tmp_path, caplog):
    rows = measured(tmp_path).rows
    path = tmp_path / "sweep.csv"
    whole = path.read_bytes()
    for content in flips(whole):
        caplog.clear()
        path.write_bytes(content)
        try:
            found = SweepTable(tmp_path, PROTOCOL).rows
        except UserError as error:
            assert str(error).startswith(f"{path} is damaged")  # noqa: PT017
            continue
        assert all(row in rows for row in found)
        lost = len(rows) - len(found)
        assert (lost > 0) == bool(caplog.messages)
        if lost:
            assert caplog.messages[0].startswith(f"{path}: ")


def test_a_flip_of_a_name_is_refused_and_loses_no_row(tmp_path):
    measured(tmp_path)
    path = tmp_path / "sweep.csv"
    text = path.read_text()
    for name in ("step", "cfg_w", "fid", "checksum"):
        path.write_text(text.replace(name, "x" + name[1:]))
        with pytest.raises(UserError, match=r"sweep\.csv is damaged"):
            SweepTable(tmp_path, PROTOCOL)
    assert path.read_text() == text.replace("checksum", "xhecksum")


def test_no_flip_of_the_protocol_is_believed(tmp_path):
    measured(tmp_path)
    path = tmp_path / "protocol.json"
    whole = path.read_bytes()
    for content in flips(whole):
        path.write_bytes(content)
        try:
            SweepTable(tmp_path, PROTOCOL)
        except UserError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017
    path.write_bytes(whole.replace(b'"seed": 1', b'"seed": 2'))
    with pytest.raises(UserError, match=r"protocol\.json is damaged"):
        SweepTable(tmp_path, PROTOCOL)


def test_a_table_of_the_version_before_is_continued(tmp_path):
    (tmp_path / "sweep.csv").write_text("step,cfg_w,fid,seconds\n2,1.5,50,0.25\n")
    (tmp_path / "protocol.json").write_text('{"images": 1000, "seed": 1}')
    table = measured(tmp_path, SETTINGS[1:])
    assert [row["step"] for row in table.rows] == ["2", "4", "8"]
    assert SweepTable(tmp_path, PROTOCOL).rows == table.rows
    assert (tmp_path / "sweep.csv").read_text().count(",") == 4 * 4


def height(path):
    with Image.open(path) as picture:
        return picture.height


@pytest.mark.parametrize("age", ["older", "missing"])
def test_a_sheet_that_is_older_than_its_table_is_drawn_again(tmp_path, age):
    table = measured(tmp_path)
    full = height(table.sheet)
    Image.new("L", (8, 8)).save(table.sheet)
    table.draw_sheet(["step", "cfg_w"])
    assert height(table.sheet) == 8  # it is as new as the table
    before = table.csv.stat().st_mtime - 1
    os.utime(table.sheet, (before, before))
    if age == "missing":
        table.sheet.unlink()
    SweepTable(tmp_path, PROTOCOL).draw_sheet(["step", "cfg_w"])
    assert height(table.sheet) == full


def test_a_damaged_strip_is_left_out_and_said(tmp_path, caplog):
    table = measured(tmp_path)
    full, (strip, *_) = height(table.sheet), sorted((tmp_path / "strips").iterdir())
    whole, sheet = strip.read_bytes(), table.sheet.read_bytes()
    noticed = 0
    for content in flips(whole, 5):
        strip.write_bytes(content)
        table.sheet.unlink()
        caplog.clear()
        table.draw_sheet(["step", "cfg_w"])
        if table.sheet.read_bytes() != sheet:
            assert height(table.sheet) < full
            assert caplog.messages == [f"{table.sheet} lacks 1 strip"]
            noticed += 1
    assert noticed > 8 * len(whole) / 5 - 30  # the others are in the mark at the end


def test_a_table_of_a_time_before_a_setting_goes_on(tmp_path):
    """Its rows have the setting's default."""
    table = SweepTable(tmp_path, PROTOCOL)
    table.add({"step": 4}, {"fid": 2.0, "seconds": 1.0})
    later = SweepTable(tmp_path, PROTOCOL, {"step": 8, "start_share": 0.0})
    assert later.find({"step": 4, "start_share": 0.0})
    assert later.find({"step": 4, "start_share": 0.5}) is None
    later.add({"step": 4, "start_share": 0.5}, {"fid": 1.0, "seconds": 1.0})
    rows = SweepTable(tmp_path, PROTOCOL).rows
    assert [row["start_share"] for row in rows] == ["0.0", "0.5"]
    assert later.best("fid")["start_share"] == "0.5"
