"""Charts are drawn in our own style, and whatever fails there ends nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError
from utils.plots import MOST_OF_THE_TIME, DrawingBudget, draw, draw_or_warn, plotting_obstacle


def line(sheet):
    """Paints a chart whose title no font has, and which would be wrong mathematics."""
    axes = sheet.add_subplot()
    axes.plot([0, 1], [0, 1])
    axes.set_title("a_$_{ 象")


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def test_a_chart_has_its_size_and_is_not_empty():
    image = draw(2.005, 1.5, line)
    assert (image.shape, image.dtype) == ((180, 240, 3), np.uint8)
    assert (image[0, 0] == 255).all()
    assert image.min() < 100


def test_settings_of_the_user_change_nothing():
    import matplotlib

    usual = draw(2, 1, line)
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30}):
        assert (draw(2, 1, line) == usual).all()
        assert matplotlib.rcParams["font.size"] == 30


def test_drawing_loads_no_pyplot_and_no_window():
    code = (
        "import sys, utils.plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "utils.plots.draw(2, 1, lambda sheet: sheet.add_subplot())\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'tkinter' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("without_matplotlib")
def test_without_matplotlib_a_line_says_how_to_get_it(caplog):
    said = "matplotlib is missing: pip install -r requirements-plots.txt"
    assert plotting_obstacle() == said
    with pytest.raises(UserError, match=said):
        draw(2, 1, line)
    assert not draw_or_warn("a.png", lambda: draw(2, 1, line))
    assert caplog.messages == [f"cannot draw a.png: {said}"]


def test_a_matplotlib_that_cannot_be_imported_is_said_to_be_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delattr("matplotlib.figure")
    with pytest.raises(UserError, match=r"matplotlib is broken \(.*figure.*\): pip install"):
        draw(2, 1, line)


def test_whatever_a_drawing_raises_is_one_line(caplog):
    assert not draw_or_warn("a.png", lambda: draw(2, 1, lambda _: [][1]))
    assert caplog.messages == ["cannot draw a.png: list index out of range"]


def test_drawing_takes_its_share_of_the_time_and_no_more():
    now, drawn_seconds = 0.0, 0.0
    budget = DrawingBudget(lambda: now)
    for second in range(2000):
        if budget.may_draw():
            with budget.drawing():
                now += 0.7  # a drawing takes longer than its share of a second
                drawn_seconds += 0.7
        now = max(now, second)
    assert 0.8 * MOST_OF_THE_TIME < drawn_seconds / now < 1.1 * MOST_OF_THE_TIME


def test_neither_a_backend_nor_a_home_that_is_not_here_spoils_imports_of_matplotlib(tmp_path):
    code = (
        "import sys, MaskGIT\n"
        "try: MaskGIT.main(['--reconstruct', '--checkpoint_vae', sys.argv[1]])\n"
        "except SystemExit as end: assert end.code == 2  # it is a folder\n"
        "import utils.plots, torchmetrics, matplotlib.pyplot\n"
        "print(utils.plots.draw(1, 1, lambda sheet: None).shape)"
    )
    root, backend = str(Path(__file__).parents[2]), "module://not_installed.backend"
    shown = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=True,
        text=True,
        capture_output=True,
        env={
            **os.environ,
            "MPLBACKEND": backend,
            "MPLCONFIGDIR": "/dev/null/a",
            "PYTHONPATH": root,
        },
    )
    assert shown.stderr.count("\n") == 1, shown.stderr
    assert shown.stdout == "(120, 120, 3)\n"
