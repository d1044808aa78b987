"""The view "Training" in a browser."""

import re
import shutil

import numpy as np
import pytest
from page_browser import By, Keys, Select

from training.run_folder import RunFiles
from training.tracking import MetricsFile
from utils.files import exclusive_lock
from utils.pictures import save_png


def test_a_run_is_followed_while_it_trains(page, runs):
    run = RunFiles(runs / "live")
    run.samples.mkdir(parents=True)

    def shows(step):
        at = "document.querySelector('#charts .read')?.firstChild.textContent"
        page.wait(f"{at} === 'step {step}'")

    try:
        with exclusive_lock(run.lock, "busy"):
            file = MetricsFile(run.metrics("maskgit"), 0)

            def train(step):
                done = {"train/progress": step / 100, "train/images": 32.0 * step}
                row = {"train/loss": 5 / step, "train/images_per_second": 9.0, **done}
                file.log(row, step)
                save_png(run.preview("maskgit", step), np.zeros((8, 8, 1), np.uint8))

            train(10)
            page.open("training")
            page.wait("document.querySelector('.run .live') !== null")
            for box in page.all(".run"):
                name = box.find_element(By.CSS_SELECTOR, "span").text
                if (name == "live") != box.find_element(By.CSS_SELECTOR, "input").is_selected():
                    box.click()
            shows(10)
            for step in (20, 30):
                train(step)
                shows(step)
            assert "left" in page.one(".run .live").text
            # Its previews come, too: the slider stays at the newest one.
            page.wait("document.getElementById('preview-at').textContent === 'step 30'")
            page.wait("document.getElementById('preview').naturalWidth > 0")
            page.scrub("#preview-step", 0)
            assert page.one("#preview-at").text == "step 10"
        page.wait("document.querySelector('.run .live') === null")
        assert "at 30 %" in page.one("#runs").text
    finally:
        shutil.rmtree(runs / "live")


def test_several_runs_are_overlaid(page, runs):
    shutil.copytree(runs / "mnist", runs / "second")
    config = runs / "second" / "config.json"
    config.write_text(config.read_text().replace('"batch_size": 16', '"batch_size": 17'))
    try:
        page.open("training")
        page.wait("document.querySelectorAll('.run').length === 2")
        for box in page.all(".run input:not(:checked)"):
            box.click()
        page.wait("document.querySelectorAll('.run input:checked').length === 2")
        page.wait("document.querySelectorAll('#charts .chart:first-child .line').length === 2")
        colors = page.get(
            "[...document.querySelectorAll('#charts .chart:first-child .line')]"
            ".map((line) => line.getAttribute('stroke'))"
        )
        assert len(set(colors)) == 2
        page.wait("document.querySelectorAll('#difference-table tr').length === 2")
        row = page.one("#difference-table tr:last-child")
        assert row.text.split() == ["batch_size", "16", "17"]
        # Later looks leave the table alone, and so what is selected in it.
        looks = "performance.getEntriesByType('resource').filter(({ name }) => /rows/.test(name))"
        before = page.get(f"{looks}.length")
        page.wait(f"{looks}.length >= {before + 4}")
        assert row.is_displayed()
        assert {note.text.split()[0] for note in page.all(".run small")} == {"finished"}
        # One cursor for all charts, by the arrows too, over any of three axes.
        places = (
            "[...document.querySelectorAll('#charts .read')].map((o) => o.firstChild.textContent)"
        )
        for unit in ("step", "epoch", "hours"):
            Select(page.one("#chart-unit")).select_by_value(unit)
            page.one("#charts .chart:nth-child(2) [tabindex]").send_keys(Keys.ARROW_LEFT)
            said = set(page.get(places))
            assert len(said) == 1
            assert re.fullmatch(rf"{unit} [\d.e-]+", said.pop())
        page.click("#chart-isLog")
        page.scrub("#chart-smoothing", 0.5)
        assert len(page.all("#charts .chart:first-child .line")) == 2
    finally:
        shutil.rmtree(runs / "second")


@pytest.mark.usefixtures("sweep")
def test_the_cells_of_a_sweep_show_their_images(page):
    page.open("training")
    page.wait("document.querySelectorAll('#heat button').length === 4")
    texts = {button.text: button for button in page.all("#heat button")}
    assert texts.keys() == {"1.5", "1.25", "1", "none"}
    page.run("arguments[0].click()", texts["1"])
    page.wait("document.querySelector('#strip img').naturalWidth > 0")
    assert "step 8, cfg_w 0, fid 1" in page.one("#strip figcaption").text
    assert len(page.all("#sweep-table tr")) == 5
    # The best cell has a frame, whichever way the score shown goes.
    for score, best, better in (
        ("fid", ["1"], "lower is better"),
        ("recall", ["0.5"], "higher is better"),
        ("seconds", [], ""),
    ):
        Select(page.one("#sweep-score")).select_by_value(score)
        assert [button.text for button in page.all("#heat .best")] == best
        assert page.one("#better").text == better


def test_the_ticks_of_a_chart_are_few_and_inside(page):
    """Also where numbers are too large for a step between two of them."""
    lows, widths = (0, 113, 2**53, 2**60, 1e300), (0, 1, 3, 1e-9, 1e300)
    ranges = [(low, low + width) for low in lows for width in widths]
    ticks = page.driver.execute_async_script(
        "const [ranges, done] = arguments; import('./charts.js').then(({ ticks }) =>"
        " done(ranges.map(([low, high]) => ticks(low, high, 4))))",
        ranges,
    )
    for (low, high), found in zip(ranges, ticks, strict=True):
        assert len(found) <= 16, (low, high)
        assert found == sorted(found), (low, high)
        assert all(low - 1e-9 * (1 + low) <= at <= high * (1 + 1e-9) + 1e-9 for at in found)
        if high - low > low * 1e-6:
            assert len(found) >= 2, (low, high)
