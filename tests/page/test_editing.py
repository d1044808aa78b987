"""The view "Edit" and the tour in a browser."""

import numpy as np
from page_browser import ActionChains, Keys
from PIL import Image


def test_cells_are_painted_and_regenerated(page):
    page.open("edit")
    assert not page.one("#edit-go").is_enabled()
    page.fill("#validation-index", 9)
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 9')")
    assert page.one("#edit-class").get_attribute("value") == "9"
    # Brush, rectangle, eraser, move, undo, invert, clear.
    page.drag((0, 0), (3, 0))
    assert page.num_marked() == 4
    page.click("[data-tool=rectangle]")
    page.drag((4, 4), (6, 5))
    assert page.num_marked() == 10
    page.click("[data-tool=eraser]")
    page.drag((3, 0), (2, 0))
    assert page.num_marked() == 8
    page.click("#invert")
    assert page.num_marked() == 56
    page.click("#undo")
    assert page.num_marked() == 8
    page.click("[data-tool=move]")
    page.drag((4, 4), (6, 4))
    assert page.num_marked() == 16 + 6  # two columns; two of the painted cells lie in them
    page.click("#edit-go")
    page.wait_for_group(1, "#variants")
    command = page.one("#command").text
    assert "--init_image mnist:9" in command
    assert "--outpaint left=8" in command
    assert len(page.all("#variants .tile")) == 4
    # A variant becomes the next original.
    page.click("#variants .tile:nth-child(3)")
    page.click("#edit-this")
    page.wait(
        "Math.abs(document.getElementById('easel').getBoundingClientRect().top) < innerHeight / 2"
    )
    assert page.num_marked() == 0
    assert page.one("#canvas-state").text.startswith("9 · 2:")
    page.click("[data-tool=brush]")
    page.drag((1, 6), (5, 6))
    page.fill("#editing input[name=grow]", 1)
    page.click("#editing input[name=keep_decoded]")
    page.click("#edit-go")
    page.wait_for_group(2, "#variants")
    for option in ("--mask_grow 1", "--no_composite"):
        assert option in page.one("#command").text
    assert "--init_image original.png" in page.one("#command").text
    assert page.one("#command-note a").get_attribute("download") == "original.png"
    page.click("#clear")
    assert page.num_marked() == 0


def test_in_a_narrow_window_the_page_goes_to_the_image_that_is_taken(page):
    page.open("edit", 390)
    assert not page.is_in_view("#canvas")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    page.wait("document.getElementById('canvas').getBoundingClientRect().top < innerHeight / 2")
    assert page.is_in_view("#canvas")


def test_the_keyboard_paints_and_moves(page):
    page.open("edit")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    canvas = page.one("#canvas")
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.SPACE, Keys.ARROW_DOWN, Keys.SPACE)
    assert page.num_marked() == 2
    canvas.send_keys(Keys.SPACE)
    assert page.num_marked() == 1
    canvas.send_keys(Keys.CONTROL, "z")
    assert page.num_marked() == 2
    page.click("#undo")
    page.scrub("#brush-size", 3)
    canvas.send_keys(Keys.SPACE)
    assert page.num_marked() == 9
    page.click("#undo")
    page.one("[data-tool=brush]").send_keys(*[Keys.ARROW_RIGHT] * 3)
    assert page.run("return document.activeElement.dataset.tool") == "move"
    canvas.send_keys(Keys.ARROW_DOWN)
    assert page.num_marked() == 8


def test_a_file_is_opened_and_a_bad_one_is_refused(page, tmp_path):
    page.open("edit")
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 30:] = 255
    Image.fromarray(picture).save(tmp_path / "half.png")
    page.one("#file").send_keys(str(tmp_path / "half.png"))
    page.wait("document.getElementById('canvas-state').textContent.includes('60 \u00d7 40')")
    shown = page.pixels("#canvas")
    assert shown[10, 10, 0] == 0
    assert shown[10, -10, 0] == 255
    (tmp_path / "half.png").write_text("no image")
    page.one("#file").send_keys(str(tmp_path / "half.png"))
    page.wait("!document.getElementById('message').hidden")
    assert "cannot read the image" in page.message()
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(17 << 20)
    page.one("#file").send_keys(str(tmp_path / "large.png"))
    page.wait("document.getElementById('message').textContent.includes('16 MB')")


def test_a_dropped_file_is_opened(page):
    page.open("edit")
    page.run(
        "const c = new OffscreenCanvas(50, 50); c.getContext('2d').fillRect(0, 0, 50, 50);"
        "c.convertToBlob().then((blob) => { const data = new DataTransfer();"
        " data.items.add(new File([blob], 'x.png'));"
        " document.getElementById('easel').dispatchEvent("
        "  new DragEvent('drop', { bubbles: true, dataTransfer: data })); })"
    )
    page.wait("document.getElementById('canvas-state').textContent.includes('50 \u00d7 50')")


def test_a_photo_is_pasted_and_cut_and_undo_brings_it_back(page):
    page.run(
        "const c = new OffscreenCanvas(300, 200); const context = c.getContext('2d');"
        "context.fillRect(0, 0, 300, 200);"
        "context.fillStyle = '#fff'; context.fillRect(0, 0, 100, 100);"
        "c.convertToBlob().then((blob) => { const data = new DataTransfer();"
        " data.items.add(new File([blob], 'x.png', { type: 'image/png' }));"
        " document.body.dispatchEvent("
        "  new ClipboardEvent('paste', { bubbles: true, clipboardData: data })); })"
    )
    page.wait("document.getElementById('canvas-state').textContent.includes('300 \u00d7 200')")
    page.wait("!document.getElementById('edit').hidden")
    page.drag((0, 0), (2, 0))
    assert page.num_marked() == 3
    # Turned once, the white square is in the right upper corner.
    page.click("#crop")
    page.wait("!document.getElementById('cropper').hidden")
    page.click("#turn")
    page.scrub("#crop-size", 100)
    canvas = page.one("#canvas")
    canvas.send_keys(*[Keys.ARROW_RIGHT] * 20, *[Keys.ARROW_UP] * 40)
    assert page.one("#canvas-state").text.startswith("100 \u00d7 100 of 200 \u00d7 300")
    page.click("#crop-take")
    page.wait("document.getElementById('canvas-state').textContent.includes('of 300 \u00d7 200')")
    page.click("[data-tool=move]")  # without the outline of the brush
    page.run("document.activeElement.blur()")
    assert page.pixels("#canvas")[8::64, 8::64, 0].min() == 255
    assert page.num_marked() == 0
    page.click("#undo")
    page.wait("!document.getElementById('canvas-state').textContent.includes('100 of')")
    assert page.num_marked() == 3
    page.reload()
    page.wait("document.getElementById('canvas-state').textContent.includes('300 \u00d7 200')")
    page.click("#crop")  # the browser has kept the photo
    page.wait("!document.getElementById('cropper').hidden")


def test_an_image_that_was_restored_out_of_sight_has_its_lines(page):
    page.open("edit")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    before = page.pixels("#canvas")
    page.open("generate")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    page.show("edit")
    page.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
    assert (page.pixels("#canvas") == before).all()


def test_variants_are_compared_accepted_and_rejected(page):
    page.open("edit")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    original = page.pixels("#canvas")
    page.drag((1, 1), (6, 6))
    page.click("#edit-go")
    page.wait("!document.getElementById('review').hidden")
    variant = page.pixels("#canvas")
    ActionChains(page.driver).click_and_hold(page.in_the_middle("#hold")).perform()
    cells = np.s_[32::64, 32::64]  # not the lines between them
    assert (page.pixels("#canvas")[cells] == original[cells]).all()
    ActionChains(page.driver).release().perform()
    assert (page.pixels("#canvas") == variant).all()
    page.click("#reject")
    assert page.one("#reviewed").text == "Variant 2 of 4"
    page.click("#accept")
    page.wait("document.getElementById('review').hidden")
    assert page.one("#canvas-state").text.startswith("0 \u00b7 1: 0 of 64")
    page.click("#undo")
    page.wait("!document.getElementById('review').hidden")
    assert page.num_marked() == 6
    # Undo, and a reload, know which are rejected.
    page.reload()
    page.wait("!document.getElementById('review').hidden")
    assert page.one("#reviewed").text == "Variant 2 of 4"
    assert len(page.all("#variants .rejected")) == 1
    # Where the decoding is below them, another variant appears without a jump to it.
    page.resize(1024)
    tile = page.in_the_middle("#variants .tile:nth-child(3)")
    before = page.get("scrollY")
    tile.click()
    assert page.one("#reviewed").text == "Variant 3 of 4"
    assert page.get("scrollY") == before


def test_the_tour_presses_the_page_itself_and_leaves_all_as_it_was(page):
    page.generate(2)
    made = page.files(0)
    page.open("edit")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    page.drag((0, 0), (3, 0))
    page.click("#tour-begin")

    def walk(steps):
        """Press what the tour points at; returns what that was."""
        pressed = []
        while len(pressed) < steps:
            page.wait("document.querySelector('.pointed') !== null")
            at, focused = page.get(
                "[document.getElementById('tour-at').textContent,"
                " document.activeElement.classList.contains('pointed')]"
            )
            assert focused
            target = page.one(".pointed")
            pressed.append(target.get_attribute("id") or target.text)
            if pressed[-1] == "canvas":
                page.one("#canvas").send_keys(
                    *[Keys.ARROW_DOWN, Keys.SPACE] * (1 if at[0] == "3" else 4)
                )
            else:
                target.send_keys(Keys.ENTER)
            page.wait(f"document.getElementById('tour-at').textContent !== '{at}'")
        return pressed

    assert walk(4) == ["take-validation", "Tokens", "canvas", "Brush"]
    # Escape leaves it, and all is there again.
    page.one("body").send_keys(Keys.ESCAPE)
    page.wait("document.getElementById('tour').hidden")
    page.wait("document.activeElement.id === 'tour-begin'")
    assert page.num_marked() == 4
    # It goes on where it was left.
    page.click("#tour-begin")
    page.wait(
        "!document.getElementById('tour').hidden"  # before that the number is the earlier one
        " && document.getElementById('tour-at').textContent === '5 of 11'"
    )
    assert walk(3)[:2] == ["canvas", "edit-go"]
    assert walk(3) == ["Imagined", "play", "Image"]
    page.click("#tour-leave")
    page.wait("document.getElementById('tour').hidden")
    page.wait("document.activeElement.id === 'tour-begin'")
    assert page.num_marked() == 4
    assert page.get("location.hash") == "#edit"
    assert len(page.all(".group")) == 1
    assert page.files(0) == made
    page.reload()
    page.wait("document.querySelectorAll('.group').length === 1")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0: 4 of')")
