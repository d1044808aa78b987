"""A tab of the page in a real browser: Debian's chromium, driven by selenium."""

import os
import re
import shutil
import tempfile
import time

import numpy as np
import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
selenium = pytest.importorskip("selenium", reason="selenium is not installed")
if not (CHROMIUM and DRIVER):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)

from selenium.webdriver import ActionChains, Chrome, ChromeOptions, Keys  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

# Tests take what they need of selenium from here, so that they are skipped where it is missing.
__all__ = ["ActionChains", "Browser", "By", "Keys", "Select", "chromium"]

PATIENCE_SECONDS = 90


class Browser:
    """A tab on the page."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def resize(self, width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def open(self, view="generate", width=1440):
        self.resize(width)
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}#{view}")
        self.wait("document.querySelectorAll('#classes input').length === 11")

    def show(self, view):
        """Change the view; returns when it is shown."""
        self.run(f"location.hash = '{view}'")
        self.wait(f"!document.getElementById('{view}').hidden")

    def forget(self):
        """Empty what the browser has kept, from a file of the page that runs no scripts."""
        self.driver.get(f"{self.url}icon.svg")
        self.driver.execute_async_script(
            "sessionStorage.clear();"
            "indexedDB.deleteDatabase('maskgit').onsuccess = () => arguments[0]();"
        )

    def reload(self):
        """Reload the page as soon as the browser has stored what the page keeps."""
        self.driver.execute_async_script(
            "indexedDB.open('maskgit').onsuccess = ({ target: { result: database } }) => {"
            "  const stored = database.transaction([...database.objectStoreNames]);"
            "  stored.oncomplete = () => { database.close(); arguments[0](); };"
            "  stored.objectStore('easels').count();"
            "};"
        )
        self.driver.refresh()

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def get(self, expression):
        return self.run(f"return {expression}")

    def wait(self, expression):
        until = time.monotonic() + PATIENCE_SECONDS
        while not self.get(expression):
            assert time.monotonic() < until, (expression, self.message())
            time.sleep(0.05)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def in_the_middle(self, selector):
        """Scroll an element to the middle of the window; returns it."""
        element = self.one(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        return element

    def click(self, selector):
        self.in_the_middle(selector).click()

    def screenshot(self, selector):
        """An element as the screen shows it, a PNG."""
        return self.in_the_middle(selector).screenshot_as_png

    def fill(self, selector, value):
        field = self.one(selector)
        field.clear()
        field.send_keys(str(value))

    def scrub(self, selector, value):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.run(script, self.one(selector), value)

    def message(self):
        return self.one("#message span").text

    def pixels(self, selector):
        """The pixels of a canvas, uint8 (H, W, 4)."""
        size, values = self.run(
            "const c = document.querySelector(arguments[0]);"
            "return [c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.width).data]]",
            selector,
        )
        return np.array(values, np.uint8).reshape(size, size, 4)

    def drag(self, start, end):
        """Drag over the image to edit, between two of its 8 x 8 cells (column, row)."""
        canvas = self.in_the_middle("#canvas")
        cell = canvas.size["width"] / 8
        places = [[round((at - 3.5) * cell) for at in cells] for cells in (start, end)]
        (x0, y0), (x1, y1) = places
        actions = ActionChains(self.driver).move_to_element_with_offset(canvas, x0, y0)
        actions.click_and_hold().move_by_offset(x1 - x0, y1 - y0).release().perform()

    def num_marked(self):
        """How many cells of the image to edit will be regenerated."""
        return int(re.search(r"(\d+) of 64 cells", self.one("#canvas-state").text)[1])

    def files(self, group):
        """The files of a group's images, in base64, in the order of its tiles."""
        return self.driver.execute_async_script(
            "const [group, done] = arguments;"
            "import('./store.js').then(async ({ store }) => {"
            " const files = store.groups[group].files;"
            " done(await Promise.all(files.map(async (file) =>"
            "  btoa(String.fromCharCode(...new Uint8Array(await file.arrayBuffer())))))); });",
            group,
        )

    def is_in_view(self, selector):
        """Whether the upper edge of an element is inside the window."""
        box = "document.querySelector(arguments[0]).getBoundingClientRect().top"
        return self.run(f"const top = {box}; return top >= 0 && top < innerHeight", selector)

    def generate(self, count=2, place="#groups"):
        """Make images; returns when they are finished."""
        before = len(self.all(f"{place} .group"))
        self.fill("#series input[name=count]", count)
        self.click("#generate-go")
        self.wait_for_group(before + 1)

    def wait_for_group(self, number, place="#groups"):
        self.wait(
            f"document.querySelectorAll('{place} .group').length === {number} && "
            f"document.querySelector('{place} .group small').textContent.endsWith(' s')"
        )

    def choose_model(self, run):
        """Choose the model of a run by its name; returns when it is open."""
        self.run(
            "const select = document.getElementById('model'), [run] = arguments;"
            "select.value = [...select.options].find(({ text }) => text.startsWith(run)).value;"
            "select.dispatchEvent(new Event('change'))",
            run,
        )
        self.wait("document.getElementById('opening').hidden")


def chromium(home):
    """Start a browser that nobody sees; it writes to `home` what it keeps of a user."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    environment = os.environ | {"HOME": str(home), "TMPDIR": tempfile.gettempdir()}
    return Chrome(options=options, service=Service(DRIVER, env=environment))
