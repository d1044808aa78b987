"""Heat maps show the best score of each cell, and stand beside the strips of a sweep."""

import math
import sys

import numpy as np
from PIL import Image

from metrics.better import BETTER
from metrics.heat_maps import best_values, heat_maps, values_of
from metrics.sweep_table import SweepTable

# Every setting of three options; the scores tell their numbers apart.
ROWS = [
    {
        "step": step, "cfg_w": cfg_w, "sampler": sampler,
        "fid": f"{float(step) + 100 * float(cfg_w) + offset}",
        "precision": f"{float(step) + 100 * float(cfg_w) + offset}",
    }
    for step in ("8", "16", "4")
    for cfg_w in ("0.0", "10.0", "3.0")
    for sampler, offset in (("moment", 0.5), ("halton", 0.0))
]  # fmt: skip


def test_numbers_are_sorted_as_numbers_and_words_stay_as_they_come():
    assert values_of(ROWS, "step") == ["4", "8", "16"]
    assert values_of(ROWS, "cfg_w") == ["0.0", "3.0", "10.0"]
    assert values_of(ROWS, "sampler") == ["moment", "halton"]
    assert values_of([{"mask_value": "3"}, {"mask_value": ""}], "mask_value") == ["3", ""]


def test_a_cell_shows_the_best_over_the_other_options():
    assert BETTER["fid"] is min
    assert BETTER["precision"] is max
    values = np.add.outer([0, 300, 1000], [4, 8, 16])  # (cfg_w, step)
    assert (best_values(ROWS, "cfg_w", "step", "fid") == values).all()
    assert (best_values(ROWS, "cfg_w", "step", "precision") == values + 0.5).all()
    assert (best_values(ROWS, "step", "sampler", "fid") == [[4.5, 4], [8.5, 8], [16.5, 16]]).all()


def test_what_was_not_measured_is_a_gap():
    rows = [
        {"a": "1", "b": "1", "fid": "2"},
        {"a": "2", "b": "2", "fid": "nan"},
        {"a": "2", "b": "1", "fid": ""},
        {"a": "2", "b": "1", "fid": "3"},
    ]
    values = best_values(rows, "a", "b", "fid")
    assert values[0, 0] == 2
    assert values[1, 0] == 3
    assert [math.isnan(value) for value in values[:, 1]] == [True, True]
    assert len(heat_maps(rows, ["a", "b"], ["fid"])) == 1


def test_a_picture_for_each_pair_of_options():
    assert len(heat_maps(ROWS, ["step", "cfg_w", "sampler"], ["fid"])) == 3
    (one,) = heat_maps(ROWS, ["step", "cfg_w"], ["fid"])
    (two,) = heat_maps(ROWS, ["step", "cfg_w"], ["fid", "precision"])
    assert two.shape[1] > 1.9 * one.shape[1]
    assert heat_maps(ROWS, ["step"], ["fid"]) == []
    # Scores without a number have no map.
    (same,) = heat_maps(
        [{**row, "kid": "", "recall": "nan"} for row in ROWS],
        ["step", "cfg_w"],
        ["fid", "kid", "recall"],
    )
    assert (same == one).all()
    assert heat_maps([{**row, "kid": "nan"} for row in ROWS], ["step", "cfg_w"], ["kid"]) == []


def test_the_best_cell_has_a_frame_in_its_place():
    """The values rise with both options, so the best FID is at the top left."""
    orange = [0xD5, 0x5E, 0x00]  # nothing else has this colour
    centres = {}
    for score in ("fid", "precision"):
        (image,) = heat_maps(ROWS, ["step", "cfg_w"], [score])
        rows, columns = np.nonzero(abs(image.astype(int) - orange).max(-1) < 8)
        centres[score] = rows.mean(), columns.mean()
    assert centres["fid"][0] < centres["precision"][0]
    assert centres["fid"][1] < centres["precision"][1]


SETTINGS = [{"step": step, "cfg_w": weight} for step in (2, 4) for weight in (0.0, 1.5)]


def table_of(folder, settings=SETTINGS):
    table = SweepTable(folder, {"images": 10})
    for setting in settings:
        images = np.full((12, 8, 8, 1), setting["step"], np.uint8)
        list(table.keep_strip(setting, iter([(images, np.zeros(12))])))
        scores = {"fid": 1 / setting["step"], "kid": 0.1, "kid_std": 0.01, "seconds": 0.25}
        table.add(setting, scores)
    table.draw_sheet(["step", "cfg_w"])
    return table


def size(path):
    with Image.open(path) as picture:
        return picture.size


def test_they_stand_beside_the_strips_of_a_sweep_over_two_options(tmp_path):
    one = table_of(tmp_path / "one", SETTINGS[:2])
    two = table_of(tmp_path / "two")
    (maps,) = heat_maps(two.rows, ["step", "cfg_w"], ["fid", "kid"])
    assert size(two.sheet)[0] == size(one.sheet)[0] + maps.shape[1]
    with Image.open(two.sheet) as sheet:
        left = sheet.width - maps.shape[1]
        assert (np.asarray(sheet)[: len(maps), left:] == maps).all()
        with Image.open(one.sheet) as strips:
            assert (np.asarray(sheet)[: strips.height // 2, : left - 60].max() == 255).all()


def test_without_matplotlib_the_strips_are_drawn_and_it_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    table = table_of(tmp_path)
    told = "matplotlib is missing: pip install -r requirements-plots.txt"
    assert caplog.messages == [f"cannot draw the heat maps of {table.sheet}: {told}"]
    table.sheet.unlink()
    table.draw_sheet(["step", "cfg_w"])
    assert len(caplog.messages) == 1
    assert size(table.sheet)[1] == 4 * (16 + 40)  # titles and strips


def test_a_sheet_that_is_drawn_late_shows_every_row(tmp_path):
    table = table_of(tmp_path)  # faster than drawing is allowed to be
    assert size(table.sheet)[1] >= 4 * 16
    sheet = table.sheet.read_bytes()
    SweepTable(tmp_path, {"images": 10}).draw_sheet(["step", "cfg_w"])
    assert table.sheet.read_bytes() == sheet
