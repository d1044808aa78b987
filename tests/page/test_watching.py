"""The panel "Watch the decoding" in a browser."""

import json
import re

from page_browser import ActionChains, Keys, Select


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
    # A frame in the image says which cell is opened.
    image = page.pixels("#watch-canvas")
    page.click("#watch-canvas")
    page.wait("!document.getElementById('cell').hidden")
    changed = (page.pixels("#watch-canvas") != image).any(axis=2)
    assert not changed[: len(changed) * 3 // 8].any()
    assert changed[len(changed) // 2 - 1 : len(changed) * 5 // 8 + 1].any()
    page.click("#cell-close")
    assert not page.one("#cell").is_displayed()
    assert (page.pixels("#watch-canvas") == image).all()


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
