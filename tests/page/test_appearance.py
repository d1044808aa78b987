"""How all views look in a browser."""

import io
import re

import numpy as np
import pytest
from PIL import Image

WIDTHS = (320, 1440)


def views(page, training_is_there):
    """Show every view with all that is folded; waits for what the last one reads."""
    page.run("for (const d of document.querySelectorAll('details')) d.open = true")
    for view in ("generate", "edit", "training"):
        page.show(view)
        if view == "training":
            page.wait(training_is_there)
        yield view


def test_every_word_is_explained(page):
    page.generate()
    for _ in views(page, "document.querySelectorAll('#charts .why').length > 4"):
        texts = page.get(
            "[...document.querySelectorAll('.why')].filter((one) => one.checkVisibility())"
            ".map((one) => { one.click(); const text = document.getElementById('tip').textContent;"
            " one.click(); return text; })"
        )
        assert len(texts) > 5
        for text in texts:
            assert re.fullmatch(r"[A-Z\d].{15,}\.", text), text


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_and_everything_has_a_name(page, width):
    page.open("generate", width)
    page.generate()
    assert page.is_in_view("#groups .group")
    for _ in views(page, "document.querySelectorAll('#heat button').length === 4"):
        assert page.get("document.documentElement.scrollWidth") <= width
        nameless = page.get(
            "[...document.querySelectorAll('button, input, select, canvas[tabindex], a')]"
            ".filter((one) => one.checkVisibility() && !(one.ariaLabel"
            " || one.textContent.trim() && one.tagName !== 'SELECT'"
            " || [...one.labels ?? []].some((label) => label.textContent.trim())))"
            ".map((one) => one.outerHTML)"
        )
        assert nameless == []
        narrow = page.get(
            "[...document.querySelectorAll('input:not([type=checkbox]), select')]"
            ".filter((one) => one.checkVisibility() && one.clientWidth < 60).map(({ id }) => id)"
        )
        assert narrow == []
        # No name of an option is broken after its dashes.
        assert page.get(
            "[...document.querySelectorAll('.sampling label')]"
            ".every((one) => !one.checkVisibility() || one.clientHeight < 30)"
        )


def test_in_a_window_of_middle_width_the_controls_are_beside_the_picture(page):
    page.open(width=1024)
    page.generate()
    boxes = page.get(
        "['#watch-canvas', '#step', '#plan', '#command'].map((one) => {"
        " const { left, right } = document.querySelector(one).getBoundingClientRect();"
        " return [left, right]; })"
    )
    (_, canvas), (_, step), (plan, _), (command, _) = boxes
    assert max(canvas, step) < min(plan, command)


def line_strengths(page, selector):
    """How dark each line between the columns of a canvas is on the screen, over its width."""
    shown = Image.open(io.BytesIO(page.screenshot(selector))).convert("L")
    row = np.asarray(shown, float)[round(shown.height * 4.5 / 8)]
    middles = np.round((np.arange(8) + 0.5) * shown.width / 8).astype(int)
    return [part.sum() for part in np.split(row.max() - row, middles)[1:-1]]


@pytest.mark.parametrize("width", [390, 1024])
def test_all_lines_between_cells_are_seen_alike(page, width):
    page.generate()
    page.scrub("#step", 0)
    page.resize(width)
    canvases = ("#watch-canvas", "#groups .tile canvas", "#film canvas")
    assert page.get("document.getElementById('watch-canvas').clientHeight") < 450  # half the window
    for view, selectors in (("generate", canvases), ("edit", ("#canvas",))):
        page.show(view)
        for selector in selectors:
            strengths = line_strengths(page, selector)
            assert len(strengths) == 7
            assert min(strengths) > 0.7 * max(strengths), (selector, strengths)
