"""The page in a browser with other models: with one step, without cells, without photos."""

import json

import pytest
import torch
import toy_families
from page_browser import Browser
from PIL import Image
from selenium.common.exceptions import WebDriverException
from toy_families import GrayConfig, GrayNetwork, RowConfig, RowNetwork

from commands.page import _form
from commands.parser import parse
from data.images import ImageDataset
from models.maskgit.config import TransformerConfig
from models.model import Model
from models.open import new_transformer
from models.tokenizer import Tokenizer
from page.catalog import Catalog, OpenModel
from page.run_reader import RunReader
from page.server import Page
from training.distillation import student_settings
from utils.errors import UserError

SHAPE = {"embed_dim": 8, "hidden_dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16}
GROUPS = 20


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    toy_families.register(monkeypatch)


class Photos(list):
    """A split of the dataset: pixels and label of each image."""

    picture = ImageDataset.picture


def random_model(network, num_steps, **more):
    torch.manual_seed(0)
    tokenizer = Tokenizer(network)
    cells = network.encode(torch.zeros(1, 1, *tokenizer.image_size)).numel()
    config = TransformerConfig(tokenizer.codebook_size, 10, cells, **SHAPE, **more)
    names = tuple("0123456789")
    made_for = student_settings(num_steps)
    return Model(new_transformer(config).eval(), tokenizer, "mnist", names, made_for=made_for)


@pytest.fixture
def page(tmp_path, serve_here, driver):
    """A tab on five models."""
    cells, row = GrayNetwork(GrayConfig()), RowNetwork(RowConfig())
    photo = torch.zeros(1, *GrayConfig().image_size, dtype=torch.uint8)
    here, gone = (lambda: Photos([(photo, 3)])), _refuse
    models = {
        "unguided": (random_model(cells, 4, null_trained=False), here),
        "student": (random_model(cells, 1), here),
        "row": (random_model(row, 4), here),
        "without": (random_model(cells, 4), gone),
        "usual": (random_model(cells, 4), here),
    }
    for name in models:
        (tmp_path / name).mkdir()
        (tmp_path / name / "MaskGIT_mnist.pt").touch()

    def load(path):
        model, photos = models[path.parent.name]
        return OpenModel(path, model, photos, lambda: None)

    catalog = Catalog(lambda: sorted(tmp_path.glob("*/MaskGIT_*.pt")), load)
    served = serve_here(Page(catalog, RunReader(list, ["step"]), _form(parse(["--page"]))))
    return Browser(driver, served.url)


def _refuse():
    raise UserError("the dataset is not here")


def tour(page):
    """Let the tour do all of its steps; returns what it says at each."""
    page.click("#tour-begin")
    said = []
    while True:
        page.wait("document.querySelector('.pointed') !== null")
        said.append(page.one("#tour-text").text)
        at = page.one("#tour-at").text
        if not page.one("#tour-do").is_displayed():
            break
        page.click("#tour-do")
        page.wait(f"document.getElementById('tour-at').textContent !== '{at}'")
    # All steps that this model has were shown.
    assert at == f"{len(said)} of {len(said)}"
    page.click("#tour-leave")
    page.wait("document.getElementById('tour').hidden")
    assert not page.all(".group")
    return said


def test_the_tour_leaves_out_what_a_model_does_not_have(page):
    page.open()
    one_step, no_cells = "This model guesses all in one step.", "no part of a photo can be hidden."
    page.choose_model("student")
    said = tour(page)
    assert said[0].startswith("The model learned from photos.")
    assert len(said) == 7
    assert said[-1].startswith(f"{one_step} Photo, tokens")
    page.choose_model("row")
    said = tour(page)
    assert f"{no_cells} Let it make an image from nothing." in said[0]
    assert len(said) == 6
    assert sum(no_cells in one for one in said) == 1
    page.choose_model("without")
    said = tour(page)
    assert said[0].startswith("This model's photos are not here. Let it make an image")
    assert said[1].startswith("Press “Edit it”.")
    assert len(said) == 12


def test_a_photo_for_a_model_of_classes_alone_needs_one(page, tmp_path):
    page.open("edit")
    Image.new("L", (40, 40)).save(tmp_path / "photo.png")
    for run, wanted in (("usual", "10"), ("unguided", "")):
        page.choose_model(run)
        page.one("#file").send_keys(f"{tmp_path}/photo.png")
        page.wait("document.getElementById('canvas-state').textContent.includes('40 \u00d7 40')")
        assert page.one("#edit-class").get_attribute("value") == wanted
    page.click("#invert")
    page.click("#edit-go")
    assert page.get("document.querySelector('#edit-class:invalid') !== null")
    assert not page.all("#variants .group")
    page.click("#take-validation")
    page.wait("document.getElementById('canvas-state').textContent.includes('image 0')")
    assert page.one("#edit-class").get_attribute("value") == "3"


BYTES = """
    const [done] = arguments;
    import("./store.js").then(async ({ store }) => {
      const found = {};
      for (const { key, files } of store.groups) {
        found[key] = await Promise.all(files.map(async (file) =>
          btoa(String.fromCharCode(...new Uint8Array(await file.arrayBuffer())))));
      }
      done(JSON.stringify(found));
    });
"""


def kept(page):
    """The files of all groups, in base64, by the keys of the groups."""
    page.wait(f"document.querySelectorAll('#groups .group').length === {GROUPS}")
    return json.loads(page.driver.execute_async_script(BYTES))


def test_twenty_groups_survive_a_reload_a_crash_and_another_model(page):
    page.open()
    page.choose_model("usual")
    for _ in range(GROUPS):
        page.generate(2)
    made = kept(page)
    assert len({file for files in made.values() for file in files}) == 2 * GROUPS
    page.reload()
    assert kept(page) == made
    page.choose_model("without")
    page.wait("document.querySelectorAll('#groups .group').length === 0")
    page.choose_model("usual")
    assert kept(page) == made
    # The tab crashes; another one shows what it has made.
    crashed = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    other = page.driver.current_window_handle
    page.driver.switch_to.window(crashed)
    with pytest.raises(WebDriverException, match="crashed"):
        page.driver.get("chrome://crash")
    page.driver.switch_to.window(other)
    page.open()
    page.choose_model("usual")
    assert kept(page) == made


HOLD = """
    const real = window.fetch;
    window.fetch = async (path, options) => {
      const answer = await real(path, options);
      if (!path.endsWith("decode")) return answer;
      const { value } = await answer.body.getReader().read();
      const start = new TextDecoder().decode(value).split("\\n\\n")[0];
      return new Response(new ReadableStream({ start(stream) {
        stream.enqueue(new TextEncoder().encode(start + "\\n\\n"));
        const end = () => stream.error(new DOMException("", "AbortError"));
        options.signal.addEventListener("abort", end);
        window.breakOff = () => stream.error(new TypeError("network error"));
      } }));
    };
"""


def test_of_groups_in_the_making_a_reload_keeps_all_but_deleted_ones(page):
    page.open()
    page.choose_model("usual")
    page.run(HOLD)
    group = "document.querySelector('#groups .group')"
    page.click("#generate-go")
    page.wait(f"{group} !== null")
    page.click("#groups .delete")
    page.wait(f"{group} === null")
    page.click("#generate-go")
    page.wait(f"{group} !== null")
    page.run("breakOff()")
    page.wait("document.getElementById('message').textContent.includes('does not answer')")
    page.reload()
    page.wait(f"{group} !== null")
    assert len(page.all("#groups .group")) == 1
    assert page.one("#groups .group small").text == "stopped at step 0 of 4"
