"""The page in a real browser: Debian's chromium, driven by selenium."""

import base64
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from page_browser import Browser
from PIL import Image
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from commands.sweep import keep_best_settings
from models.model import BestSettings
from models.open import load_model
from models.sampling import SamplingConfig
from training.distillation import student_settings
from training.run_folder import RunFiles
from training.tracking import MetricsFile
from utils.checkpoint import contents_of, save_checkpoint
from utils.files import exclusive_lock
from utils.pictures import save_png
from utils.plain import to_plain
from utils.torch_file import read_torch_file

WIDTHS = (320, 1440)


@pytest.fixture
def page(driver, served):
    browser = Browser(driver, served.url)
    browser.forget()
    driver.get_log("browser")
    browser.open()
    yield browser
    # Nothing may fail silently, nor may the policy of the page forbid anything of its own.
    said = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert [one for one in said if "status of 4" not in one["message"]] == []


@pytest.fixture(scope="module")
def with_settings(serve, trained, tmp_path_factory):
    """The address of a page on a model with best settings, a student, and its teacher."""
    folder = tmp_path_factory.mktemp("settings")
    for name in ("teacher", "student", "swept"):
        shutil.copytree(trained, folder / name)
    path = folder / "swept" / "MaskGIT_mnist.pt"
    best = SamplingConfig(num_steps=3, guidance_schedule="interval", guidance_interval=(0.1, 0.8))
    kept = BestSettings(best, "fid", {"fid": 3.5}, {"images": 1000})
    keep_best_settings(path, load_model(path).fingerprint, kept)
    path = folder / "student" / "MaskGIT_mnist.pt"
    contents = contents_of(read_torch_file(path), path, "maskgit")
    made_for = to_plain(student_settings(2))
    save_checkpoint(path, "maskgit", {**contents, "made_for": made_for})
    return serve(folder).url


def test_the_best_settings_of_a_sweep_fill_the_form(driver, with_settings):
    """And a list of numbers is written with commas."""
    page = Browser(driver, with_settings)
    page.forget()
    page.open()
    page.choose_model("swept")
    page.click("#generate summary")
    page.wait("document.querySelector('#generate .best')?.checkVisibility()")
    interval = "#generate .sampling input[name=cfg_interval]"
    assert page.one(interval).get_attribute("value") == "0.39,0.78"
    page.click("#generate .best")
    assert page.one(interval).get_attribute("value") == "0.1,0.8"
    page.fill(interval, "0.2, 0.9")
    page.generate(1)
    command = page.one("#command").text
    assert "--step=3" in command
    assert "'--cfg_interval=[0.2,0.9]'" in command
    page.fill(interval, "0.2")
    assert not page.get(
        "document.querySelector('.sampling input[name=cfg_interval]').validity.valid"
    )
    page.click("#generate .reset")
    assert page.one(interval).get_attribute("value") == "0.39,0.78"


def test_a_student_begins_with_the_settings_that_it_is_made_for(driver, with_settings):
    """They come and go with the model, but what the user has changed survives a reload."""
    page = Browser(driver, with_settings)
    page.forget()
    page.open()
    steps = "document.querySelector('.sampling input[name=step]').value"
    page.choose_model("student")
    page.wait(f"{steps} === '2'")
    page.click("#generate summary")
    assert page.one("#generate .sampling input[name=cfg_w]").get_attribute("value") == "0"
    # What is left as it is, the command need not name; what is changed, it does.
    page.fill("#generate .sampling input[name=cfg_w]", "3")
    page.generate(1)
    command = page.one("#command").text
    assert "--cfg_w=3" in command
    assert "--step" not in command
    page.open()
    page.click("#generate summary")
    assert page.one("#generate .sampling input[name=cfg_w]").get_attribute("value") == "3"
    page.click("#generate .reset")
    assert page.one("#generate .sampling input[name=cfg_w]").get_attribute("value") == "0"
    page.choose_model("teacher")
    page.wait(f"{steps} === '8'")


def test_images_appear_step_by_step_and_are_saved(page, served):
    for label in (3, 4):
        page.click(f"#classes label:nth-child({label + 1})")
    page.generate(5)
    captions = [tile.text for tile in page.all("#groups .tile span")]
    assert captions == ["3 · 0", "4 · 1", "3 · 2", "4 · 3", "3 · 4"]
    page.click("#groups .tile:nth-child(2)")
    assert page.one("#groups .tile:nth-child(2)").get_attribute("aria-pressed") == "true"
    assert "4" in page.one("#facts").text
    command = page.one("#command").text
    assert "--labels 3 4" in command
    assert "images/000001.png" in page.one("#command-note").text
    # What is saved is the image that the server made.
    saved = page.driver.execute_async_script(
        "const image = new Image();"
        "image.onload = () => { const canvas = new OffscreenCanvas(image.width, image.height);"
        " const context = canvas.getContext('2d'); context.drawImage(image, 0, 0);"
        " arguments[0]([...context.getImageData(0, 0, image.width, image.height).data]); };"
        "image.src = document.getElementById('save').href;"
    )
    *_, done = served.events(count=5, seed=0)
    made = np.asarray(Image.open(io.BytesIO(base64.b64decode(done["files"][1]))))
    assert (np.array(saved).reshape(32, 32, 4)[..., 0] == made).all()
    # The training images beside it belong to this image alone.
    page.click("#find-nearest")
    page.wait("document.querySelectorAll('#nearest img').length === 4")
    assert "of 64" in page.one("#nearest figcaption").text
    page.click("#groups .tile:nth-child(1)")
    assert not page.all("#nearest img")


def test_the_slider_goes_over_the_steps_and_the_map_shows_confidence(page):
    page.generate()
    known = []
    for step in range(9):
        page.scrub("#step", step)
        known.append(int(re.search(r"(\d+) of 64 tokens", page.one("#step-at").text)[1]))
    assert known[0] == 0
    assert known[-1] == 64
    assert known == sorted(set(known))
    assert len(page.all("#plan rect")) == 8
    assert len(page.all("#plan .now")) == 1
    page.scrub("#step", 4)
    image = page.pixels("#watch-canvas")
    page.click("[data-shown=confidence]")
    assert (page.pixels("#watch-canvas") != image).any()
    ActionChains(page.driver).move_to_element(page.one("#watch-canvas")).perform()
    assert "% sure" in page.one("#watch-cell").text
    page.click("[data-shown=imagined]")
    page.one("[data-shown=imagined]").send_keys(Keys.ARROW_LEFT)
    assert (page.pixels("#watch-canvas") == image).all()


def test_the_page_shows_what_the_model_imagines(page):
    """The whole image at every step, in the panel, the film and all tiles of the group."""
    page.generate(3)
    views = ("image", "imagined", "surest", "order")

    def shown(step):
        page.scrub("#step", step)
        found = {}
        for view in views:
            page.click(f"[data-shown={view}]")
            found[view] = page.pixels("#watch-canvas")
        return found

    finished = shown(8)
    assert all((finished[view] == finished["image"]).all() for view in ("imagined", "surest"))
    early = shown(2)
    assert len({early[view].tobytes() for view in views}) == 4
    # What is covered in one view is filled in the other.
    page.click("[data-shown=imagined]")
    tile = "#groups .tile:nth-child(2) canvas"
    at_step = page.pixels(tile)
    page.click("[data-shown=image]")
    assert (page.pixels(tile) != at_step).any()
    # A click in the film goes to its step.
    assert len(page.all("#film button")) == 9
    page.click("#film button:nth-child(7)")
    assert page.one("#step").get_attribute("value") == "6"
    assert page.one("#film [aria-pressed=true]").get_attribute("aria-label") == "Step 6"


def test_the_steps_play(page):
    page.generate()
    page.click("#play")
    page.wait("document.getElementById('step').value === '8'")
    page.wait("document.getElementById('play').textContent === 'Play'")


def test_a_cell_is_opened_and_another_token_is_taken(page):
    page.generate(1)
    page.scrub("#step", 6)
    canvas = page.one("#watch-canvas")
    known = page.driver.execute_async_script(
        "const [done] = arguments; import('./store.js').then(({ store }) =>"
        " done(store.groups[0].steps[6].hidden.indexOf(0)))"
    )
    # By keyboard from the first cell to the first known one.
    canvas.send_keys(*[Keys.ARROW_DOWN] * (known // 8), *[Keys.ARROW_RIGHT] * (known % 8))
    canvas.send_keys(Keys.ENTER)
    page.wait("document.querySelectorAll('#cell-choices tr').length === 5")
    drawn = int(re.search(r"drew token (\d+)", page.one("#cell-state").text)[1])
    take = page.one("#cell-choices button:not(:disabled)")
    token = int(re.search(r"\d+", take.get_attribute("aria-label"))[0])
    assert token != drawn
    page.run("arguments[0].click()", take)
    page.wait_for_group(2)
    assert f"token {token}" in page.one("#groups h2").text
    last = page.driver.execute_async_script(
        "const [cell, done] = arguments; import('./store.js').then(({ store }) =>"
        " done(new Uint32Array(store.groups[0].steps.at(-1).tokens.buffer)[cell]))",
        known,
    )
    assert last == token
    page.click("#watch-canvas")
    page.wait("!document.getElementById('cell').hidden")
    page.click("#cell-close")
    assert not page.one("#cell").is_displayed()


def bytes_of(page, group):
    """The files of a group's images, in base64, in the order of its tiles."""
    return page.driver.execute_async_script(
        "const [group, done] = arguments;"
        "import('./store.js').then(async ({ store }) => {"
        " const files = store.groups[group].files;"
        " done(await Promise.all(files.map(async (file) =>"
        "  btoa(String.fromCharCode(...new Uint8Array(await file.arrayBuffer())))))); });",
        group,
    )


def test_images_and_the_easel_survive_a_reload_and_another_model(page, runs):
    for number in range(3):
        page.generate(2)
        assert len(page.all("#groups .group")) == number + 1
    # Three clicks made three different blocks, as the seed was not kept.
    made = [bytes_of(page, number) for number in range(3)]
    assert len({file for files in made for file in files}) == 6
    page.click("#groups .group:nth-child(2) .star")
    page.click("#groups .group:nth-child(3) .delete")
    page.run("location.hash = 'edit'")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    drag(page, (0, 0), (3, 0))
    page.reload()
    page.wait("document.querySelectorAll('#groups .group').length === 2")
    assert [bytes_of(page, number) for number in range(2)] == made[:2]
    assert page.all("#groups .star[aria-pressed=true]")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    assert num_marked(page) == 4
    page.click("#undo")
    assert num_marked(page) == 0
    # The model's file is another one's for a while.
    shutil.copytree(runs / "mnist", runs / "other")
    try:
        page.wait("document.querySelectorAll('#model option').length === 2")
        page.choose_model("other")
        page.wait("document.querySelectorAll('#groups .group').length === 0")
        page.choose_model("mnist")
        page.wait("document.querySelectorAll('#groups .group').length === 2")
        assert [bytes_of(page, number) for number in range(2)] == made[:2]
    finally:
        shutil.rmtree(runs / "other")


def test_a_kept_seed_makes_the_same_images(page):
    page.click("#lock")
    page.fill("#series input[name=seed]", 2**60 + 1)  # more than JavaScript counts
    page.generate(2)
    page.generate(2)
    assert bytes_of(page, 0) == bytes_of(page, 1)
    assert f"--seed {2**60 + 1}" in page.one("#command").text.replace("=", " ")


def test_a_picture_fills_the_form_and_is_made_again(page, tmp_path):
    page.click("#classes label:nth-child(5)")
    page.click("#generate summary")
    page.fill("#generate .sampling input[name=step]", 3)
    page.generate(3)
    (tmp_path / "a.png").write_bytes(base64.b64decode(bytes_of(page, 0)[1]))
    page.click("#classes label:nth-child(1)")
    page.fill("#generate .sampling input[name=step]", 5)
    page.one("#remake").send_keys(str(tmp_path / "a.png"))
    page.wait("document.getElementById('opened').textContent.includes('as it was for a.png')")
    page.click("#generate-go")
    page.wait("document.getElementById('opened').textContent.endsWith('a.png, byte for byte.')")
    chosen = page.one("#groups .group .tile[aria-pressed=true] span")
    assert chosen.text == "4 · 1"
    assert bytes_of(page, 0) == bytes_of(page, 1)


def test_a_model_that_is_replaced_is_opened_again(page, runs):
    """Nothing is drawn with the description of the earlier file."""
    path = runs / "mnist" / "MaskGIT_mnist.pt"
    before = path.read_bytes()
    contents = contents_of(read_torch_file(path), path, "maskgit")
    names = [f"new {name}" for name in contents["class_names"]]
    page.generate(1)
    try:
        save_checkpoint(path, "maskgit", {**contents, "class_names": names})
        page.click("#generate-go")
        page.wait("document.getElementById('message').textContent.includes('replaced')")
        page.wait("document.querySelector('#classes label').textContent === 'new 0'")
        # What was made before keeps its names.
        assert page.one("#groups .tile span").text.startswith("0 ")
        page.click("#generate-go")
        page.wait("document.querySelector('#groups .tile span').textContent.startsWith('new 0')")
        # Nothing goes on with an image of the earlier file.
        page.click("#groups .group:last-of-type .tile")
        assert not page.one("#branch-form button").is_enabled()
        page.click("#compare summary")
        page.click("#versus-form button")
        page.wait("document.getElementById('message').textContent.includes('earlier images')")
        assert len(page.all("#groups .group")) == 2
        # Without a click the page sees it, too: a file that is cut off, and one that is whole.
        path.write_bytes(before[:-5000])
        page.wait("document.getElementById('message').textContent.includes('MaskGIT_mnist.pt')")
        path.write_bytes(before)
        page.wait("document.querySelector('#classes label').textContent === '0'")
    finally:
        path.write_bytes(before)


def test_from_a_step_one_can_branch(page):
    page.generate()
    page.click("#branch-form button")
    assert "At the last step nothing is hidden" in page.message()
    page.scrub("#step", 5)
    before = page.pixels("#watch-canvas")
    page.run("document.getElementById('branch-class').value = 7")
    page.fill("#branch-seed", 11)
    page.fill("#branch-count", 3)
    page.click("#branch-form button")
    page.wait_for_group(2)
    assert len(page.all("#groups .group:first-child .tile")) == 3
    assert "from step 5" in page.one("#groups .group h2").text
    page.scrub("#step", 5)
    assert (page.pixels("#watch-canvas") == before).all()
    # The command needs a file, and a link below it saves that.
    assert "--start_tokens start_tokens.json" in page.one("#command").text
    text = page.driver.execute_async_script(
        "const done = arguments[0], make = URL.createObjectURL;"
        "URL.createObjectURL = (file) => { if (file.type.endsWith('json')) file.text().then(done);"
        " return make(file); };"
        "document.querySelector('#groups .group .tile:nth-child(2)').click();"
    )
    stored = json.loads(text)
    assert stored["steps"] == 5
    assert 0 < stored["tokens"].count(None) < len(stored["tokens"]) == 64
    # What it has from the image that it comes from cannot differ beside it.
    for select in ("#versus-what", "#axis-x", "#axis-y"):
        names = {option.get_attribute("value") for option in page.all(f"{select} option")}
        assert "cfg_w" in names
        assert not names & {"step", "sched_mode", "model"}


def test_a_group_stands_beside_itself_with_one_difference(page):
    page.generate(2)
    page.click("#compare summary")
    choose = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))"
    beside = "#groups .group:first-child .tile:nth-child(2) canvas:nth-child"
    # The same class: nothing differs. Half the steps: something does, and the halves go together.
    page.click("#groups .tile:nth-child(2)")
    for number, (what, value) in enumerate((("class", "1"), ("step", "4")), start=2):
        page.run(choose, page.one("#versus-what"), what)
        page.run("arguments[0].value = arguments[1]", page.one("#versus-value > *"), value)
        page.click("#versus-form button")
        page.wait_for_group(number)
        assert page.pixels(f"{beside}(3)")[..., :3].any() == (what == "step")
        page.click("#groups .group:last-of-type .tile:nth-child(2)")
    page.click("#groups .group:first-child .tile:nth-child(2)")
    page.scrub("#step", 2)
    first = page.pixels(f"{beside}(1)")
    page.click("#groups .group:last-of-type .tile:nth-child(2)")
    page.scrub("#step", 4)
    alone = "#groups .group:last-of-type .tile:nth-child(2) canvas"
    assert (page.pixels(alone) == first).all()


def test_a_grid_of_two_settings_has_a_command_for_each_cell(page):
    page.generate(2)
    page.click("#compare summary")
    page.fill("#values-x", "2, 4")
    page.fill("#values-y", "0, 1.5")
    page.click("#cross-form button")
    ended = "[...document.querySelectorAll('.sheet small')].map((one) => one.textContent.at(-1))"
    page.wait(f"{ended}.join('') === 'ssss'")
    heads = [head.text for head in page.all(".sheet th")]
    assert heads == ["step 2", "step 4", "cfg_w 0", "cfg_w 1.5"]
    commands = set()
    for tile in page.all(".sheet .tile"):
        tile.click()
        commands.add(page.one("#command").text)
    assert len(commands) == 4
    assert sum("--step=2" in one for one in commands) == 2
    page.click(".sheet > header .delete")
    assert len(page.all("#groups .group")) == 1
    page.click("#groups .tile")
    # One that is refused leaves nothing behind.
    Select(page.one("#axis-x")).select_by_value("mask_value")
    page.fill("#values-x", "99")
    page.click("#cross-form button")
    page.wait("document.getElementById('message').textContent.includes('--mask-value 99')")
    assert not page.all(".sheet")


def drag(page, start, end):
    """Drag over the canvas, between cells (column, row)."""
    canvas = page.one("#canvas")
    page.run("arguments[0].scrollIntoView({block: 'center'})", canvas)
    cell = canvas.size["width"] / 8
    places = [[round((at - 3.5) * cell) for at in cells] for cells in (start, end)]
    (x0, y0), (x1, y1) = places
    actions = ActionChains(page.driver).move_to_element_with_offset(canvas, x0, y0)
    actions.click_and_hold().move_by_offset(x1 - x0, y1 - y0).release().perform()


def num_marked(page):
    return int(re.search(r"(\d+) of 64 cells", page.one("#canvas-state").text)[1])


def test_cells_are_painted_and_regenerated(page):
    page.open("edit")
    assert not page.one("#edit-go").is_enabled()
    page.fill("#validation-index", 9)
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 9')")
    assert page.one("#edit-class").get_attribute("value") == "9"
    # Brush, rectangle, eraser, move, undo, invert, clear.
    drag(page, (0, 0), (3, 0))
    assert num_marked(page) == 4
    page.click("[data-tool=rectangle]")
    drag(page, (4, 4), (6, 5))
    assert num_marked(page) == 10
    page.click("[data-tool=eraser]")
    drag(page, (3, 0), (2, 0))
    assert num_marked(page) == 8
    page.click("#invert")
    assert num_marked(page) == 56
    page.click("#undo")
    assert num_marked(page) == 8
    page.click("[data-tool=move]")
    drag(page, (4, 4), (6, 4))
    assert num_marked(page) == 16 + 6  # two columns; two of the painted cells lie in them
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
    assert num_marked(page) == 0
    assert page.one("#canvas-state").text.startswith("9 · 2:")
    page.click("[data-tool=brush]")
    drag(page, (1, 6), (5, 6))
    page.fill("#editing input[name=grow]", 1)
    page.click("#editing input[name=keep_decoded]")
    page.click("#edit-go")
    page.wait_for_group(2, "#variants")
    for option in ("--mask_grow 1", "--no_composite"):
        assert option in page.one("#command").text
    assert "--init_image original.png" in page.one("#command").text
    assert page.one("#command-note a").get_attribute("download") == "original.png"
    page.click("#clear")
    assert num_marked(page) == 0


def test_the_keyboard_paints_and_moves(page):
    page.open("edit")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    canvas = page.one("#canvas")
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.SPACE, Keys.ARROW_DOWN, Keys.SPACE)
    assert num_marked(page) == 2
    canvas.send_keys(Keys.SPACE)
    assert num_marked(page) == 1
    canvas.send_keys(Keys.CONTROL, "z")
    assert num_marked(page) == 2
    page.click("#undo")
    page.scrub("#brush-size", 3)
    canvas.send_keys(Keys.SPACE)
    assert num_marked(page) == 9
    page.click("#undo")
    page.one("[data-tool=brush]").send_keys(*[Keys.ARROW_RIGHT] * 3)
    assert page.run("return document.activeElement.dataset.tool") == "move"
    canvas.send_keys(Keys.ARROW_DOWN)
    assert num_marked(page) == 8


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
    assert page.get("location.hash") == "#edit"
    drag(page, (0, 0), (2, 0))
    assert num_marked(page) == 3
    # Turned once, the white square is in the right upper corner.
    page.click("#crop")
    page.wait("!document.getElementById('cropper').hidden")
    page.click("#turn")
    page.scrub("#crop-size", 100)
    canvas = page.one("#canvas")
    canvas.send_keys(*[Keys.ARROW_RIGHT] * 20, *[Keys.ARROW_UP] * 40)
    assert page.one("#canvas-state").text.startswith("100 \u00d7 100 of 200 \u00d7 300")
    page.click("#crop-take")
    page.wait("document.getElementById('canvas-state').textContent.includes('100 \u00d7 100 of')")
    page.click("[data-tool=move]")  # without the outline of the brush
    page.run("document.activeElement.blur()")
    assert page.pixels("#canvas")[8::64, 8::64, 0].min() == 255
    assert num_marked(page) == 0
    page.click("#undo")
    page.wait("!document.getElementById('canvas-state').textContent.includes('100 of')")
    assert num_marked(page) == 3
    page.reload()
    page.wait("document.getElementById('canvas-state').textContent.includes('300 \u00d7 200')")
    page.click("#crop")  # the browser has kept the photo
    page.wait("!document.getElementById('cropper').hidden")


def test_variants_are_compared_accepted_and_rejected(page):
    page.open("edit")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    original = page.pixels("#canvas")
    drag(page, (1, 1), (6, 6))
    page.click("#edit-go")
    page.wait("!document.getElementById('review').hidden")
    variant = page.pixels("#canvas")
    hold = page.one("#hold")
    page.run("arguments[0].scrollIntoView({block: 'center'})", hold)
    ActionChains(page.driver).click_and_hold(hold).perform()
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
    assert num_marked(page) == 6
    # Undo, and a reload, know which are rejected.
    page.reload()
    page.wait("!document.getElementById('review').hidden")
    assert page.one("#reviewed").text == "Variant 2 of 4"
    assert len(page.all("#variants .rejected")) == 1


def test_the_tour_presses_the_page_itself_and_leaves_all_as_it_was(page):
    page.generate(2)
    made = bytes_of(page, 0)
    page.open("edit")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    drag(page, (0, 0), (3, 0))
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
    assert num_marked(page) == 4
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
    assert num_marked(page) == 4
    assert page.get("location.hash") == "#edit"
    assert len(page.all(".group")) == 1
    assert bytes_of(page, 0) == made
    page.reload()
    page.wait("document.querySelectorAll('.group').length === 1")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0: 4 of')")


def test_wrong_inputs_are_named(page):
    # What the browser sees itself is not sent.
    page.run("for (const d of document.querySelectorAll('details')) d.open = true")
    page.fill("#generate .sampling input[name=step]", 0)
    page.run("for (const d of document.querySelectorAll('details')) d.open = false")
    page.click("#generate-go")
    assert page.run("return document.activeElement.name") == "step"
    assert not page.all("#groups .group")
    page.fill("#generate .sampling input[name=step]", 4)
    # What only the server can check gets one line, with the option's name.
    page.fill("#generate .sampling input[name=mask_value]", 99)
    page.click("#generate-go")
    page.wait("!document.getElementById('message').hidden")
    assert page.message().startswith("--mask-value 99: the tokens are 0 to 15")
    assert page.is_in_view("#message")
    page.click("#generate .reset")
    page.generate()
    assert not page.one("#message").is_displayed()


def test_a_reload_in_the_middle_keeps_the_form(page):
    page.click("#classes label:nth-child(6)")
    page.fill("#series input[name=seed]", 123)
    page.run("for (const d of document.querySelectorAll('details')) d.open = true")
    page.fill("#generate .sampling input[name=step]", 64)
    page.fill("#series input[name=count]", 64)
    page.click("#generate-go")
    page.wait("document.querySelector('#groups .tile') !== null")
    page.reload()
    page.wait("document.querySelectorAll('#classes input').length === 11")
    assert page.get("document.querySelector('#classes :checked').value") == "5"
    assert page.one("#series input[name=seed]").get_attribute("value") == "123"
    page.run("for (const d of document.querySelectorAll('details')) d.open = true")
    page.fill("#generate .sampling input[name=step]", 3)
    page.generate(1)
    assert page.one("#groups .tile span").text == "5 · 0"


def test_a_newer_request_takes_the_place_of_the_older(page):
    page.run("for (const d of document.querySelectorAll('details')) d.open = true")
    page.fill("#generate .sampling input[name=step]", 64)
    page.fill("#series input[name=count]", 64)
    page.click("#generate-go")
    page.wait("document.querySelector('#groups .tile') !== null")
    page.fill("#generate .sampling input[name=step]", 2)
    page.generate(3)
    assert len(page.all("#groups .group:first-child .tile")) == 3
    assert not page.one("#message").is_displayed()
    assert not page.one("#generate .stop").is_displayed()


def test_a_decoding_can_be_stopped(page):
    page.run("for (const d of document.querySelectorAll('details')) d.open = true")
    page.fill("#generate .sampling input[name=step]", 64)
    page.fill("#series input[name=count]", 64)
    page.click("#generate-go")
    page.wait("document.querySelector('#groups .tile') !== null")
    page.click("#generate .stop")
    page.wait("!document.querySelector('#generate .stop').checkVisibility()")
    assert not page.one("#message").is_displayed()
    assert page.one("#save").get_attribute("href") is None
    assert re.fullmatch(r"stopped at step \d+ of 64", page.one("#groups small").text)
    page.reload()
    page.wait("document.querySelector('#groups small')?.textContent.startsWith('stopped')")
    page.click("#groups .go-on")
    page.wait("document.querySelector('#groups .tile') !== null")
    page.click("#groups .delete")
    page.wait("document.querySelector('#groups .tile') === null")
    assert not page.one("#message").is_displayed()


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
        # Each look writes the table again.
        row = page.get("document.querySelector('#difference-table tr:last-child').innerText")
        assert row.split() == ["batch_size", "16", "17"]
        assert {note.text.split()[0] for note in page.all(".run small")} == {"finished"}
        # One cursor for all charts, by the arrows too, over any of three axes.
        places = (
            "[...document.querySelectorAll('#charts .read')].map((o) => o.firstChild.textContent)"
        )
        for unit in ("step", "epoch", "hours"):
            Select(page.one("#chart-unit")).select_by_value(unit)
            page.one("#charts .chart:nth-child(2) [tabindex]").send_keys(Keys.ARROW_LEFT)
            told = set(page.get(places))
            assert len(told) == 1
            assert re.fullmatch(rf"{unit} [\d.e-]+", told.pop())
        page.click("#chart-isLog")
        page.scrub("#chart-smoothing", 0.5)
        assert len(page.all("#charts .chart:first-child .line")) == 2
    finally:
        shutil.rmtree(runs / "second")


def test_a_model_that_is_new_can_be_chosen(page, runs):
    page.run("location.hash = 'training'")
    page.wait("document.querySelectorAll('.run').length === 1")
    shutil.copytree(runs / "mnist", runs / "new")
    try:
        page.run("location.hash = 'generate'")
        page.wait("document.querySelectorAll('#model option').length === 2")
        page.choose_model("new")
        page.generate()
        assert "/new/MaskGIT_mnist.pt" in page.one("#command").text
    finally:
        shutil.rmtree(runs / "new")


@pytest.fixture
def sweep(runs):
    """The table of a sweep in the run, with an image for each row; the last has no FID."""
    from metrics.sweep_table import SweepTable

    table = SweepTable(runs / "mnist" / "sweep", {"images": 10})
    for number, (steps, guidance) in enumerate([(4, 0), (4, 3), (8, 0), (8, 3)]):
        setting = {"step": steps, "cfg_w": guidance}
        images = np.full((10, 32, 32, 1), 80 * number, np.uint8)
        list(table.keep_strip(setting, iter([(images, np.zeros(10))])))
        fid = 1.5 - number / 4 if number < 3 else math.inf
        scores = {"fid": fid, "recall": 0.5 - number / 8, "seconds": 2}
        table.add(setting, scores)
    yield
    shutil.rmtree(runs / "mnist" / "sweep")


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


def views(page, training_is_there):
    """Show every view with all that is folded; waits for what the last one reads."""
    page.run("for (const d of document.querySelectorAll('details')) d.open = true")
    for view in ("generate", "edit", "training"):
        page.run(f"location.hash = '{view}'")
        page.wait(f"!document.getElementById('{view}').hidden")
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
