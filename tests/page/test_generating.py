"""The view "Generate" in a browser, and what the browser keeps."""

import base64
import io
import re
import shutil

import numpy as np
import pytest
from page_browser import Browser
from PIL import Image

from commands.sweep import keep_best_settings
from models.model import BestSettings
from models.open import load_model
from models.sampling import SamplingConfig
from training.distillation import student_settings
from utils.checkpoint import contents_of, save_checkpoint
from utils.plain import to_plain
from utils.torch_file import read_torch_file


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
    # Without guidance it changes nothing, and the page says so.
    assert "no effect" not in page.one("#facts").text
    page.fill("#generate .sampling input[name=cfg_w]", 0)
    page.generate(1)
    assert "cfg_interval 0.2,0.9 (no effect)" in page.one("#facts").text
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


def test_a_model_without_the_classes_of_the_command_line_begins_with_all(driver, serve, runs):
    served = serve(runs, "--labels", "nosuch", "--seed", "7")
    page = Browser(driver, served.url)
    page.open()
    page.wait("!document.getElementById('message').hidden")
    said = "--labels nosuch: this model has no such class"
    assert page.message().startswith(said)
    assert page.message().endswith("choose its classes here")
    page.generate(2)
    assert [one.text for one in page.all("#groups .tile span")] == ["0 · 0", "1 · 1"]
    assert "--seed 7" in page.one("#command").text
    assert page.get("document.getElementById('edit-seed').value") == "7"


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


def test_images_and_the_easel_survive_a_reload_and_another_model(page, runs):
    for number in range(3):
        page.generate(2)
        assert len(page.all("#groups .group")) == number + 1
    # Three clicks made three different blocks, as the seed was not kept.
    made = [page.files(number) for number in range(3)]
    assert len({file for files in made for file in files}) == 6
    page.click("#groups .group:nth-child(2) .star")
    page.click("#groups .group:nth-child(3) .delete")
    page.show("edit")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    page.drag((0, 0), (3, 0))
    page.reload()
    page.wait("document.querySelectorAll('#groups .group').length === 2")
    assert [page.files(number) for number in range(2)] == made[:2]
    assert page.all("#groups .star[aria-pressed=true]")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    assert page.num_marked() == 4
    page.click("#undo")
    assert page.num_marked() == 0
    # The model's file is another one's for a while.
    shutil.copytree(runs / "mnist", runs / "other")
    try:
        page.wait("document.querySelectorAll('#model option').length === 2")
        page.choose_model("other")
        page.wait("document.querySelectorAll('#groups .group').length === 0")
        page.choose_model("mnist")
        page.wait("document.querySelectorAll('#groups .group').length === 2")
        assert [page.files(number) for number in range(2)] == made[:2]
    finally:
        shutil.rmtree(runs / "other")


def test_a_kept_seed_makes_the_same_images(page):
    page.click("#lock")
    page.fill("#series input[name=seed]", 2**60 + 1)  # more than JavaScript counts
    page.generate(2)
    page.generate(2)
    assert page.files(0) == page.files(1)
    assert f"--seed {2**60 + 1}" in page.one("#command").text.replace("=", " ")


def test_a_picture_fills_the_form_and_is_made_again(page, tmp_path):
    page.click("#classes label:nth-child(5)")
    page.click("#generate summary")
    page.fill("#generate .sampling input[name=step]", 3)
    page.generate(3)
    (tmp_path / "a.png").write_bytes(base64.b64decode(page.files(0)[1]))
    page.click("#classes label:nth-child(1)")
    page.fill("#generate .sampling input[name=step]", 5)
    page.one("#remake").send_keys(str(tmp_path / "a.png"))
    page.wait("document.getElementById('opened').textContent.includes('as it was for a.png')")
    page.click("#generate-go")
    page.wait("document.getElementById('opened').textContent.endsWith('a.png, byte for byte.')")
    chosen = page.one("#groups .group .tile[aria-pressed=true] span")
    assert chosen.text == "4 · 1"
    assert page.files(0) == page.files(1)


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


def test_a_model_that_is_new_can_be_chosen(page, runs):
    page.show("training")
    page.wait("document.querySelectorAll('.run').length === 1")
    shutil.copytree(runs / "mnist", runs / "new")
    try:
        page.show("generate")
        page.wait("document.querySelectorAll('#model option').length === 2")
        page.choose_model("new")
        page.generate()
        assert "/new/MaskGIT_mnist.pt" in page.one("#command").text
    finally:
        shutil.rmtree(runs / "new")


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
