"""What the server does with requests, good and bad, through a real socket."""

import base64
import http.client
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import zlib
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from commands import page as module
from commands.options import OPTIONS
from commands.parser import parse
from commands.recipe import COMMAND, MODEL
from commands.resolve import idle_options
from data.edit_region import image_to_edit
from data.spec import Preparation
from MaskGIT import main
from models.generator import ImageSeries
from models.sampling import SamplingConfig
from page import connections
from page.connections import MOST_CONNECTIONS
from page.form import Recipe
from page.safety import _cookie
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError

ROOT = Path(__file__).parents[2]

SIZE, GRID, CODES = 32, 8, 16
HANG_SECONDS = 600


def decoded(event, name, dtype="u1"):
    return np.frombuffer(base64.b64decode(event[name]), dtype)


def in_base64(values, dtype="u1"):
    return base64.b64encode(np.asarray(values, dtype).tobytes()).decode()


def picture(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def png_of(pixels):
    return base64.b64encode(file_of(pixels.astype(np.uint8).reshape(SIZE, SIZE))).decode()


def file_of(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def bomb(side):
    """A PNG of side x side black pixels in a few kilobytes."""

    def part(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", rows) + part(b"IEND", b"")


# --- Decoding ---


def test_every_step_is_sent_and_follows_the_plan(served):
    start, *steps, done = served.events(sampling={"step": 5})
    assert [event["event"] for event in steps] == ["step"] * 6
    assert [event["step"] for event in steps] == list(range(6))
    hidden = [decoded(step, "hidden").reshape(2, GRID**2).sum(1).tolist() for step in steps]
    left = GRID**2 - np.cumsum([0, *start["counts"]])
    assert hidden == [[count, count] for count in left]
    assert decoded(steps[-1], "tokens", "<u4").max() < CODES
    confidence = decoded(steps[-1], "confidence", "<f4")
    assert ((confidence > 0) & (confidence <= 1)).all()
    # What is imagined stands side by side.
    for step in steps[1:-1]:
        assert picture(step["imagined"]).shape[:2] == picture(step["surest"]).shape[:2]
        assert picture(step["imagined"]).shape[:2] == (SIZE, 2 * SIZE)
    assert [picture(file).shape for file in done["files"]] == [(SIZE, SIZE)] * 2
    # At the start there is nothing to show, at the end nothing else.
    assert [bool(step.get("surest")) for step in steps] == [False, *[True] * 4, False]


EFFECTS = {
    "step": ({}, 3),
    "sched_mode": ({}, "root"),
    "sampler": ({}, "halton"),
    "cfg_w": ({}, 0),
    "cfg_schedule": ({}, "constant"),
    "cfg_interval": ({"cfg_schedule": "interval"}, [0, 1]),
    "cfg_power": ({"cfg_schedule": "power-cosine"}, 1),
    "r_temp": ({}, 0),
    "sm_temp": ({}, 5),
    "sm_temp_first": ({}, 5),
    "mask_value": ({}, -1),
    "halton_roll": ({"sampler": "halton"}, "off"),
}


def test_every_setting_has_an_effect_where_the_page_does_not_say_that_it_has_none(served):
    assert {field["name"] for field in served.json("api/page")["sampling"]} == EFFECTS.keys()

    def drawn(settings):
        start, *steps, _ = served.events(count=4, sampling={"cfg_w": 9, **settings})
        return set(start["ignored"]), [step["tokens"] for step in steps]

    for name, (others, value) in EFFECTS.items():
        (ignored, before), (_, after) = drawn(others), drawn({**others, name: value})
        assert name not in ignored
        assert before != after, name
    for name in ("r_temp", "halton_roll", "cfg_schedule", "cfg_interval", "cfg_power"):
        others = {"cfg_w": 0} | ({"sampler": "halton"} if name == "r_temp" else {})
        (ignored, before), (_, after) = drawn(others), drawn({**others, name: EFFECTS[name][1]})
        assert name in ignored
        assert before == after, name


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"labels": [], "first_image": 7, "count": 5},
        {"labels": [10], "sampling": {"step": 3, "cfg_w": 1.5, "sampler": "halton"}},
        {"sampling": {"mask_value": -1, "r_temp": 0, "sched_mode": "cosine-cumulative"}},
        {"sampling": {"cfg_schedule": "interval", "cfg_interval": [0.2, 0.9]}},
        {"edit": {"validation": 9, "cells": [0, 1, 8, 9, 20]}, "count": 3},
        {"edit": {"validation": 4, "right": -2, "down": 3, "cells": [63], "put_back": False}},
        {"edit": {"validation": 1, "cells": [27], "grow": 2}},
        {"edit": {"file": png_of(np.arange(SIZE**2) % 251), "cells": [5, 6, 60]}},
    ],
    ids=[
        "plain",
        "in turn",
        "settings",
        "more settings",
        "list",
        "edit",
        "outpaint",
        "grow",
        "own image",
    ],
)
def test_the_command_that_is_shown_makes_the_same_bits(served, tmp_path, monkeypatch, more):
    start, *_, done = served.events(**more)
    made = [base64.b64decode(file) for file in done["files"]]
    if "file" in more.get("edit", {}):  # the user saves the original under this name
        (tmp_path / "original.png").write_bytes(base64.b64decode(more["edit"]["file"]))
    python, program, *arguments = shlex.split(" ".join(start["command_lines"]))
    assert (python, program) == ("python", "MaskGIT.py")
    monkeypatch.chdir(tmp_path)
    main(arguments)
    own = arguments[arguments.index("--run_name") + 1]
    assert not (served.output / "mnist" / "samples" / "images").exists()  # nothing is replaced
    folder = served.output / own / ("edits" if "edit" in more else "samples") / "images"
    first = 0 if "edit" in more else more.get("first_image", 0)
    for number, file in enumerate(made, start=first):
        assert (folder / f"{number:06d}.png").read_bytes() == file


def test_editing_keeps_the_pixels_outside_and_shifts_the_image(served):
    original = np.arange(SIZE**2, dtype=np.uint8).reshape(SIZE, SIZE)
    edit = {"file": png_of(original), "right": 2, "cells": [GRID * GRID - 1]}
    *_, done = served.events(edit=edit)
    for image in map(picture, done["files"]):
        assert (image[:28, 8:] == original[:28, :-8]).all()
        assert (image[28:, 8:28] == original[28:, :20]).all()


def midway(event, steps, index=0):
    cells = slice(index * GRID**2, (index + 1) * GRID**2)
    return {
        "steps": steps,
        "tokens": in_base64(decoded(event, "tokens", "<u4")[cells], "<u4"),
        "hidden": in_base64(decoded(event, "hidden")[cells]),
    }


def with_text(command, model="0" * 16):
    """A PNG that says how it was made."""
    texts = PngInfo()
    texts.add_text(COMMAND, command)
    texts.add_text(MODEL, model)
    file = io.BytesIO()
    Image.new("L", (2, 2)).save(file, "PNG", pnginfo=texts)
    return file.getvalue()


def refilled(served, data):
    status, _, body = served.ask(f"api/refill/{served.model}", data)
    return status, json.loads(body)


def test_a_picture_of_the_command_line_fills_the_form_and_is_made_again(served, tmp_path):
    """The same bytes, whatever of the options were written out."""
    file = served.output / "mnist" / "MaskGIT_mnist.pt"
    for options, wanted in (
        ("--labels 3-4x2 7", {"labels": [3, 4, 3, 4, 7], "count": 5}),
        ("--num_samples 23 --first_image 5 --seed 9", {"labels": [], "seed": "9", "count": 23}),
        ("--labels none --step=4 --cfg_w 1.5 --batch_size 2", {"labels": [10], "count": 1}),
    ):
        command = f"--sample --checkpoint {file} --output_dir {tmp_path} {options}"
        main(command.split())
        made = sorted((tmp_path / "mnist" / "samples" / "images").iterdir())
        status, got = refilled(served, made[0].read_bytes())
        assert status == 200
        assert got == {**got, **wanted, "model": served.model, "note": ""}
        *_, done = served.events(**{name: got[name] for name in got.keys() - {"model", "note"}})
        assert [base64.b64decode(one) for one in done["files"]] == [p.read_bytes() for p in made]
        assert refilled(served, (made[0].parents[1] / "grid.png").read_bytes()) == (200, got)
        # A folder of this machine stays here.
        assert str(tmp_path.parent).encode() not in made[0].read_bytes()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("x" * 70_000, "has more than 65536 characters"),
        ("python MaskGIT.py --sample --labels 'a", "is cut off"),
        ("rm -rf ~", "is not one that samples: 'rm -rf ~'"),
        ("python MaskGIT.py --sample --labels $'a'", "is not one that samples"),
        ("python MaskGIT.py --sample --help", "has '--help', which the page cannot fill in"),
        ("python MaskGIT.py --sample -h", "has '-h'"),
        ("python MaskGIT.py --sample --features=x.pt", "has '--features=x.pt'"),
        ("python MaskGIT.py --sample --step 0", "--step: needs a whole number of at least 1"),
        ("python MaskGIT.py --sample --seed 1 2", "unrecognized arguments: 2"),
        ("python MaskGIT.py --sample --labels 3\x1b[2J", "the model of this picture"),
        ("python MaskGIT.py --sample --checkpoint a/b.pt", "a/b.pt, is not here"),
    ],
)
def test_a_hostile_command_in_a_picture_is_refused_in_one_line(served, command, message):
    status, got = refilled(served, with_text(command))
    assert status in (400, 404)
    assert message in got["message"]
    assert "\n" not in got["message"]


def test_hostile_labels_in_a_picture_cost_little(served):
    fingerprint = served.json(f"api/models/{served.model}")["fingerprint"]
    labels = " ".join(["0x9999999"] * 100)
    command = f"python MaskGIT.py --sample --labels {labels}"
    status, got = refilled(served, with_text(command, fingerprint))
    assert status == 400
    assert "more than 10000000 images; take them in parts" in got["message"]


@pytest.mark.parametrize(
    "data", [b"", b"no picture", file_of(np.zeros((2, 2), np.uint8)), with_text("x")[:60]]
)
def test_a_file_that_does_not_say_how_it_was_made_fills_nothing(served, data):
    assert refilled(served, data) == (200, None)


@pytest.mark.parametrize("more", [{}, {"edit": {"validation": 2, "cells": list(range(20))}}])
def test_a_branch_goes_on_from_its_step(served, more):
    one = {"labels": [3], "count": 1, **more}
    _, *steps, done = served.events(**one)
    for number in (0, 3, 7):
        branch = midway(steps[number], number)
        # With the same seed and class it is the same image.
        _, *again, done_again = served.events(**one, midway=branch)
        assert [step["step"] for step in again] == list(range(number, 9))
        first, second = (picture(one["files"][0]) for one in (done, done_again))
        assert (first == second).all()
        # With others the known tokens stay.
        _, *_, last, _ = served.events(**{**one, "labels": [4], "seed": 9}, midway=branch)
        known = decoded(steps[number], "hidden") == 0
        before, after = (decoded(step, "tokens", "<u4")[known] for step in (steps[number], last))
        assert (before == after).all()


@pytest.mark.parametrize("more", [{}, {"edit": {"validation": 2, "cells": list(range(20))}}])
def test_the_command_of_a_branch_makes_the_same_bits(served, tmp_path, monkeypatch, capsys, more):
    one = {"labels": [3], "count": 1, **more}
    _, *steps, _ = served.events(**one)
    branch = midway(steps[4], 4)
    start, *_, done = served.events(**{**one, "seed": 9, "count": 3}, midway=branch)
    tokens, hidden = (decoded(steps[4], *of) for of in (("tokens", "<u4"), ("hidden",)))
    known = [None if is_hidden else int(t) for t, is_hidden in zip(tokens, hidden, strict=True)]
    _, _, *arguments = shlex.split(" ".join(start["command_lines"]))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / arguments[arguments.index("--start_tokens") + 1]
    # What does not fit is refused in one line.
    for text, message in (
        ("", "needs {"),
        ("[" * 9999, "needs {"),
        (json.dumps({"steps": 4, "tokens": [CODES] * GRID**2}), "a number from 0 to 15"),
        (json.dumps({"steps": 4, "tokens": [0] * GRID**2}), "hidden tokens after 4 steps: 0"),
        (json.dumps({"steps": -1, "tokens": known}), "so none after -1"),
    ):
        file.write_text(text)
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err
    file.write_text(json.dumps({"steps": 4, "tokens": known}))
    main(arguments)
    own = served.output / arguments[arguments.index("--run_name") + 1]
    made = sorted((own / ("edits" if more else "samples") / "images").iterdir())
    assert [base64.b64decode(one) for one in done["files"]] == [p.read_bytes() for p in made]


def test_a_cell_tells_what_the_step_decides(served):
    """The drawn token and what is kept are those of the decoding itself."""
    one = {"labels": [3], "count": 1}
    start, *steps, _ = served.events(**one)
    for number in (0, 4):
        before, after = steps[number], steps[number + 1]
        hidden, left = (decoded(step, "hidden") != 0 for step in (before, after))
        tokens = decoded(after, "tokens", "<u4")
        for cell in np.flatnonzero(hidden)[::7].tolist():
            body = served.request(**one, cell=cell, midway=midway(before, number))
            status, _, answer = served.ask("api/cell", body)
            assert status == 200, answer
            choice = json.loads(answer)
            assert choice["drawn"] == tokens[cell]
            is_kept = choice["rank"] <= choice["num_kept"]
            assert is_kept == (not left[cell]) == (choice["score"] >= choice["line"])
            assert choice["num_kept"] == (hidden & ~left).sum()
            guided = np.array(choice["guided"])
            assert (np.diff(guided) <= 0).all()
            assert 0 < guided.sum() <= 1 + 1e-6
            # (1 + w) c - w u, up to the sum over all tokens.
            weight = start["guidance"][number]
            conditional, without = (
                np.log(choice[name]) for name in ("with_class", "without_class")
            )
            ratio = np.log(guided) - (1 + weight) * conditional + weight * without
            assert np.ptp(ratio) < 1e-3
            if choice["drawn"] in choice["tokens"]:
                confidence = decoded(after, "confidence", "<f4")[cell]
                shown = guided[choice["tokens"].index(choice["drawn"])]
                assert np.isclose(shown, confidence, rtol=2**-8)  # 8 binary digits
            # A picture for each token.
            pictures = [picture(file) for file in choice["files"]]
            assert len(pictures) == len(choice["tokens"]) == 5
            assert len({one.tobytes() for one in pictures}) > 1


def test_a_cell_about_which_nothing_is_decided_is_refused(served):
    one = {"labels": [3], "count": 1}
    _, *steps, _ = served.events(**one)
    known = int(np.flatnonzero(decoded(steps[3], "hidden") == 0)[0])
    for more, message in (
        ({"cell": known, "midway": midway(steps[3], 3)}, "nothing is decided about cell"),
        ({"cell": 64, "midway": midway(steps[3], 3)}, "cell is 64"),
        ({"cell": 0}, "midway is missing"),
    ):
        status, _, body = served.ask("api/cell", served.request(**one, **more))
        assert status == 400
        assert message in json.loads(body)["message"]


def nearest(served, tokens):
    body = served.request(tokens=in_base64(tokens, "<u4"))
    status, _, answer = served.ask("api/nearest", body)
    return status, json.loads(answer)


def test_the_nearest_training_images_are_shown(served):
    (cache,) = (served.output / "tokens").glob("mnist-train-*")
    tokens, labels = (np.load(cache / f"{name}.npy") for name in ("tokens", "labels"))
    image = tokens[0, 5].copy()
    image[:9] = (image[:9] + 1) % CODES
    status, found = nearest(served, image)
    assert status == 200
    same = (tokens == image).sum(2).max(0)
    assert found["same"] == sorted(same, reverse=True)[:4]
    assert found["same"] == same[found["numbers"]].tolist()
    assert found["labels"] == labels[found["numbers"]].tolist()
    assert [picture(file).shape[:2] for file in found["files"]] == [(SIZE, SIZE)] * 4
    status, found = nearest(served, np.full(GRID**2, CODES))
    assert (status, found["message"]) == (400, f"tokens must be 0 to {CODES - 1}")
    # Without the tokens of these images.
    cache.rename(cache.with_name("elsewhere"))
    status, found = nearest(served, image)
    cache.with_name("elsewhere").rename(cache)
    assert status == 404
    assert "the tokens of this model's training images are not here" in found["message"]


def test_a_branch_that_no_plan_comes_to_is_refused(served):
    _, *steps, _ = served.events(labels=[3], count=1)
    for number, sampling, message in (
        (2, {}, "hidden tokens after 2 steps: 52, but 58 with these settings"),
        (3, {"step": 2}, "the decoding has 2 steps, so none after 3"),
        (3, {"step": 4}, "hidden tokens after 3 steps: 52, but"),
        (3, {"sched_mode": "linear"}, "hidden tokens after 3 steps: 52, but"),
    ):
        refusal = served.refusal(midway=midway(steps[3], number), sampling=sampling)
        assert refusal.startswith(message)
        assert refusal.endswith("goes on with the --step and --sched_mode that it began with")
    tokens = {**midway(steps[3], 3), "tokens": in_base64([CODES] * GRID**2, "<u4")}
    assert "tokens must be 0 to 15" in served.refusal(midway=tokens)


def test_tabs_do_not_mix_up_their_images(served):
    wanted = {seed: served.events(seed=seed)[-1]["files"] for seed in range(6)}
    found = {}

    def ask(seed):
        found[seed] = served.events(tab=f"tab {seed}", seed=seed)[-1]["files"]

    threads = [threading.Thread(target=ask, args=[seed]) for seed in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted


def test_a_reader_who_leaves_ends_the_decoding(served):
    place = urlsplit(served.url)
    body = json.dumps(served.request(count=64, sampling={"step": 64})).encode()
    for _ in range(3):
        connection = http.client.HTTPConnection(place.hostname, place.port)
        connection.request("POST", "/api/decode", body, {"Content-Type": "application/json"})
        connection.getresponse().read(100)
        connection.close()
    assert served.events(tab="another")[-1]["event"] == "done"


# --- What is wrong ---


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "no such"}, "this model is gone"),
        ({"model": "../../etc/passwd"}, "this model is gone"),
        ({"tab": ""}, "tab must be a text"),
        ({"tab": 5}, "tab must be a text"),
        ({"count": 0}, "count is 0; it must be a whole number from 1"),
        ({"count": 65}, "from 1 to 64"),
        ({"count": True}, "count is True"),
        ({"count": 1e3}, "count is 1000.0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"seed": "1e3"}, "seed is 1e3"),
        ({"first_image": ""}, "first_image is"),
        ({"labels": [11]}, "labels has 11; it holds numbers from 0 to 10"),
        ({"labels": [0] * 65}, "labels must be a list of at most 64 numbers"),
        ({"labels": "3"}, "labels must be a list"),
        ({"sampling": {"step": 0}}, "--step: needs a whole number of at least 1, got '0'"),
        ({"sampling": {"step": "8"}}, "--step 8 is not a value"),
        ({"sampling": {"cfg_w": -1}}, "--cfg_w: needs a number from 0 to 1000, got '-1'"),
        (
            {"sampling": {"sampler": "best"}},
            "--sampler: invalid choice: 'best' (choose from confidence",
        ),
        ({"sampling": {"mask_value": 99}}, "--mask-value 99: the tokens are 0 to 15"),
        ({"sampling": {"checkpoint": "/etc/passwd"}}, "'checkpoint' is not a sampling option"),
        (
            {"sampling": {"cfg_interval": [0.2]}},
            "--cfg_interval needs 2 numbers",
        ),
        ({"sampling": {"cfg_interval": [0.9, 0.2]}}, "--cfg_interval"),
        (
            {"sampling": {"cfg_interval": 0.5}},
            "--cfg_interval needs 2 numbers",
        ),
        ({"sampling": []}, "sampling must be an object"),
        ({"edit": {"validation": 0}}, "nothing is marked"),
        ({"edit": {"validation": 20, "cells": [0]}}, "validation is 20"),
        ({"edit": {"validation": "x", "cells": [0]}}, "validation is x; it must be"),
        ({"edit": {"validation": 0, "cells": [64]}}, "cells has 64"),
        ({"edit": {"validation": 0, "cells": [-1]}}, "cells has -1"),
        ({"edit": {"validation": 0, "cells": [[0]]}}, "cells has"),
        ({"edit": {"validation": 0, "right": 8}}, "right is 8"),
        ({"edit": {"validation": 0, "cells": [0], "grow": 9}}, "grow is 9"),
        ({"edit": {"validation": 0, "cells": [0], "put_back": 1}}, "put_back must be true"),
        ({"edit": {"file": "AAAA", "cells": [0]}}, "cannot read the image to edit"),
        ({"edit": {"file": "é", "cells": [0]}}, "cannot read the image to edit: it is empty"),
        ({"edit": {"cells": [0]}}, "cannot read the image to edit: it is empty"),
        (
            {"edit": {"file": base64.b64encode(bomb(16)).decode(), "cells": [0]}},
            "the image to edit must have 32 x 32 pixels",
        ),
        ({"midway": {}}, "tokens must be 256 bytes"),
    ],
)
def test_wrong_values_are_named(served, more, message):
    assert message in served.refusal(**more)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"tab": NaN}', b"[" * 100_000, b"\xff\xfe", b'{"tab": "a"} x'],
)
def test_broken_json_is_refused(served, body):
    status, _, answer = served.ask("api/decode", body, Content_Type="application/json")
    assert status == 400
    assert "JSON" in json.loads(answer)["message"]


def test_json_is_bounded_and_must_be_called_so(served):
    status, _, answer = served.ask("api/decode", b" " * (5 << 20), Content_Type="application/json")
    assert (status, json.loads(answer)["message"]) == (413, "the request has more than 4 MB")
    assert served.ask("api/decode", b"{}", Content_Type="text/plain")[0] == 415


@pytest.mark.parametrize(
    "path",
    [
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "static/../../MaskGIT.py",
        "page/server.py",
        "server.py",
        "api/runs/%2e%2e/sweep",
        "api/runs/..%2f..%2fetc/rows/maskgit",
        "api/runs/mnist/preview/maskgit/3",
        "api/models/..%2f..%2fMaskGIT_mnist.pt",
    ],
)
def test_paths_lead_nowhere(served, path):
    status, _, body = served.ask(path)
    assert status == 404
    assert b"root:" not in body


def test_pictures_of_a_run_are_chosen_by_number_alone(served):
    (run,) = served.json("api/runs")
    steps = run["previews"]["maskgit"]
    status, headers, body = served.ask(f"api/runs/{run['id']}/preview/maskgit/{steps[-1]}")
    assert (status, headers["content-type"], body[1:4]) == (200, "image/png", b"PNG")
    for wrong in ("preview/maskgit/1", "preview/config/3", "rows/..", "sweep/0", "reconstructions"):
        assert served.ask(f"api/runs/{run['id']}/{wrong}")[0] == 404, wrong


# --- Uploads ---


def test_an_upload_is_brought_to_the_size_of_the_model(served):
    image = np.zeros((64, 100, 3), np.uint8)
    image[:, 10:90] = 200
    status, _, body = served.ask(f"api/models/{served.model}/upload", file_of(image))
    answer = json.loads(body)
    assert (status, answer["was"]) == (200, [100, 64])
    assert (picture(answer["file"]) == 200).all()


@pytest.mark.parametrize(
    "look",
    [
        {"background": "navy"},
        {"background": "#804020", "fit": "pad"},
        {"resize": "adm"},
        {"resize": "bicubic"},
    ],
    ids=str,
)
def test_an_upload_has_the_pixels_that_an_edit_gives_the_photo(serve, runs, tmp_path, look):
    run, model = tmp_path / "runs" / "mnist", "MaskGIT_mnist.pt"
    stored = load_checkpoint(runs / "mnist" / model, "maskgit")
    run.mkdir(parents=True)
    save_checkpoint(run / model, "maskgit", {**stored, "look": look})
    served = serve(run.parent)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 4), np.uint8)
    (tmp_path / "photo.png").write_bytes(file_of(pixels))
    shown = Preparation(**look)
    edited = image_to_edit(f"{tmp_path}/photo.png", "mnist", list, (SIZE, SIZE), 1, shown)[0]
    path = f"api/models/{served.model}/upload"
    given = json.loads(served.ask(path, file_of(pixels))[2])
    assert (picture(given["file"]) == edited[..., 0]).all()
    assert (edited != image_to_edit(f"{tmp_path}/photo.png", "", list, (SIZE, SIZE), 1)[0]).any()
    # So has the part in its middle, without bars.
    part = json.loads(served.ask(f"{path}?left=10&top=0&right=80&bottom=70", file_of(pixels))[2])
    (tmp_path / "part.png").write_bytes(file_of(pixels[:, 10:80]))
    edited = image_to_edit(f"{tmp_path}/part.png", "mnist", list, (SIZE, SIZE), 1, shown)[0]
    assert (picture(part["file"]) == edited[..., 0]).all()


def test_a_part_of_an_upload_is_turned_and_cut(served):
    image = np.zeros((100, 60), np.uint8)
    image[70:90, 10:30] = 200  # after a quarter turn to the right: 10 to 30 from the left and top
    path = f"api/models/{served.model}/upload?turns=1&left=10&top=10&right={{}}&bottom=30"
    status, _, body = served.ask(path.format(30), file_of(image))
    answer = json.loads(body)
    assert (status, answer["was"]) == (200, [60, 100])
    assert (picture(answer["file"]) == 200).all()
    for wrong in (10, 101, "x"):
        assert served.ask(path.format(wrong), file_of(image))[0] == 400
    # What is edited is that picture, and its tokens are those of the known cells.
    request = {**served.request(), "file": answer["file"]}
    tokens = json.loads(served.ask("api/tokens", request)[2])["tokens"]
    edit = {"file": answer["file"], "cells": [0]}
    step = served.events(edit=edit, count=1)[1]
    seen, known = (np.frombuffer(base64.b64decode(one), "<u4") for one in (tokens, step["tokens"]))
    assert (seen[1:] == known[1:]).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"<html>hello", "damaged, or in none of the formats"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "damaged, or in none of the formats"),
        (file_of(np.zeros((64, 64), np.uint8))[:-40], "cannot read the image that you gave"),
        (bomb(8000), "it has 64,000,000 pixels, more than 50,000,000; make it smaller"),
        (bomb(40_000), "pixels, more than 50,000,000; make it smaller"),
    ],
    ids=["empty", "no image", "a program", "cut off", "large", "bomb"],
)
def test_bad_uploads_are_refused_in_one_line(served, data, message):
    status, _, body = served.ask(f"api/models/{served.model}/upload", data)
    assert status == 400
    assert message in json.loads(body)["message"]


def test_an_upload_of_a_gigabyte_is_refused_before_it_is_read(served):
    place, path = urlsplit(served.url), f"/api/models/{served.model}/upload"
    head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {1 << 30}\r\n\r\n"
    began = time.monotonic()
    with socket.create_connection((place.hostname, place.port), 30) as connection:
        connection.sendall(head.encode() + b"x" * 1000)
        assert b" 413 " in connection.recv(100)
    assert time.monotonic() - began < 20


def test_an_upload_without_a_length_is_cut_off(served):
    place, path = urlsplit(served.url), f"/api/models/{served.model}/upload"
    head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nTransfer-Encoding: chunked\r\n\r\n"
    part = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    sent = 0
    with socket.create_connection((place.hostname, place.port), 30) as connection:
        connection.sendall(head.encode())
        try:
            for _ in range(200):
                connection.sendall(part)
                sent += 1
        except OSError:
            pass  # it has hung up
    assert sent < 200
    assert served.ask("api/page")[0] == 200


# --- Odd requests ---


@pytest.mark.parametrize(
    "path",
    [
        "api/models/{}/validation/" + "9" * 5000,
        "api/models/{}/validation/one",
        "api/runs/x/preview/maskgit/" + "9" * 5000,
        "api/runs/x/sweep/-1",
        "api/runs/x/rows/maskgit?known=" + "9" * 5000,
        "api/runs/x/rows/maskgit?version=1e3",
    ],
)
def test_a_number_of_an_address_must_be_one(served, path):
    status, _, body = served.ask(path.format(served.model))
    assert status == 400
    assert "must be a whole number from 0 to" in json.loads(body)["message"]


@pytest.mark.parametrize("origin", ["http://[", "http://", "[", "http://[::1", "x" * 9000])
def test_a_raw_origin_is_refused_in_one_line(served, origin):
    status, _, body = served.ask("", Origin=origin)
    assert (status, body.count(b"\n"), body[:7]) == (403, 0, b"Origin ")


@pytest.mark.parametrize(
    "more",
    [
        {"sampling": {"sampler": "\ud800"}},
        {"sampling": {"\ud800": 1}},
        {"model": "\udfff"},
        {"count": "\ud800"},
        {"labels": ["\ud800"]},
        {"edit": {"file": "\ud800", "cells": [0]}},
        {"sampling": {"cfg_w": 10**400}},
        {"sampling": {"step": 10**400}},
        {"sampling": {"cfg_interval": [1e300, -(10**400)]}},
    ],
)
def test_half_a_character_and_huge_numbers_are_refused_in_one_line(served, more):
    assert served.refusal(**more)


def test_numbers_of_5000_digits_are_refused(served):
    body = b'{"tab": "a", "count": ' + b"9" * 5000 + b"}"
    status, _, answer = served.ask("api/decode", body, Content_Type="application/json")
    assert (status, json.loads(answer)["message"]) == (400, "the request is not valid JSON")


def test_a_run_whose_name_is_not_text_is_listed_with_the_others(served):
    odd = served.output / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    try:
        (odd / "metrics.jsonl").write_text('{"step": 1}\n')
        assert {run["name"] for run in served.json("api/runs")} == {"mnist", "caf\udce9"}
    finally:
        shutil.rmtree(odd)


def test_a_long_cookie_costs_no_time():
    """Quotes in a cookie once took a time that grew with the square of their number."""
    cookie = 'a=1; maskgit_1="' + '\\"' * 200_000 + '"; maskgit_2=token'
    began = time.process_time()
    assert _cookie(cookie, "maskgit_2") == "token"
    assert _cookie(cookie, "maskgit_3") == ""
    assert time.process_time() - began < 1  # it took minutes


def test_connections_that_say_nothing_do_not_keep_others_out(process):
    """Nor those that begin a request and do not end it."""
    place = urlsplit(process.url)
    idle = []
    try:
        for number in range(MOST_CONNECTIONS + 200):
            idle.append(socket.create_connection((place.hostname, place.port), 30))
            if number % 2:
                idle[-1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        assert process.ask("api/page")[0] == 200
        # The oldest had to make room.
        idle[0].settimeout(30)
        with suppress(ConnectionError):
            assert idle[0].recv(1) == b""
    finally:
        for connection in idle:
            connection.close()


def test_a_request_must_come_within_some_seconds(monkeypatch):
    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})

    with connections.listen("127.0.0.1", 0) as listening:
        address = listening.getsockname()
        with connections.running(app, listening):
            for said, seconds in (
                (b"", 0.1),
                (b"GET / HTTP/1.1\r\nHost: a\r\n", 0.1),
                (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nbody", 0.1),
                (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 30),
            ):
                monkeypatch.setattr(connections, "REQUEST_SECONDS", seconds)
                with socket.create_connection(address, 30) as connection:
                    connection.sendall(said)
                    heard = b""
                    with suppress(ConnectionError):
                        while got := connection.recv(1000):
                            heard += got
                    assert (b"here" in heard) == said.endswith(b"\r\n\r\n")


def test_of_connections_that_may_ask_again_the_one_idle_for_longest_makes_room(monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "REQUEST_SECONDS", HANG_SECONDS)

    async def app(scope, receive, send):
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"here"})

    def answer(connection):
        connection.request("GET", "/")
        return connection.getresponse().read()

    with ExitStack() as stack:
        listening = stack.enter_context(connections.listen("127.0.0.1", 0))
        stack.enter_context(connections.running(app, listening))
        address = listening.getsockname()
        one, two, three, four = (http.client.HTTPConnection(*address, 60) for _ in range(4))
        for connection in (one, two, three, four):
            stack.callback(connection.close)
        sockets = []
        for connection in (one, two, three, one):
            assert answer(connection) == b"here"
            sockets.append(connection.sock)
        assert sockets[0] is sockets[3]  # it was kept
        assert answer(four) == b"here"
        with suppress(ConnectionError):
            assert two.sock.recv(1) == b""
        for connection in (one, three, four):
            sock = connection.sock
            assert answer(connection) == b"here"
            assert connection.sock is sock


def test_an_answer_must_be_read_within_some_seconds(monkeypatch):
    """What makes the answer ends with the connection."""
    monkeypatch.setattr(connections, "READ_SECONDS", 0.2)
    ended = threading.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        part = {"type": "http.response.body", "body": bytes(1 << 16), "more_body": True}
        try:
            for _ in range(100):
                await send(part)
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            ended.set()

    with (
        connections.listen("127.0.0.1", 0) as listening,
        connections.running(app, listening),
        socket.create_connection(listening.getsockname(), 30) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ended.wait(30)


# --- The page itself ---


def test_the_page_is_small_and_loads_nothing_from_elsewhere(served):
    files = list((ROOT / "page" / "static").iterdir())
    assert sum(file.stat().st_size for file in files) < 170_000
    for file in files:
        status, _, body = served.ask(file.name)
        assert (status, body) == (200, file.read_bytes())
        found = set(re.findall(rb"(?:https?:)?//[\w.]+\.\w+", body)) - {b"http://www.w3.org"}
        assert not found, (file.name, found)


# Of browsers after Firefox 102 and Safari 16, the ones of 2022.
TOO_NEW = {
    "*.css": r":has\(|@container|@layer|@scope|color-mix\(|light-dark\(|\d[dsl]v[hw]\b|subgrid|"
    r"text-wrap|^\s*&",
    "*.js": r"\.aria[A-Z]|groupBy|\.to(Sorted|Reversed|Spliced)\(|\.with\(|withResolvers|fromAsync|"
    r"(Dec|C)ompressionStream|Text(De|En)coderStream|OffscreenCanvas|scrollend|structuredClone|"
    r"\.inert\b|[pP]opover|checkVisibility|startViewTransition|Set\.prototype|\.isSubsetOf|"
    r"findLast|URL\.canParse|^await |roundRect|new Worker",
    "*.html": r"\binert\b|popover|importmap|<dialog|<search",
}


@pytest.mark.parametrize("files", TOO_NEW)
def test_the_page_needs_no_browser_newer_than_2022(files):
    found = {
        (path.name, match[0])
        for path in (ROOT / "page" / "static").glob(files)
        for match in re.finditer(TOO_NEW[files], path.read_text(), re.MULTILINE)
    }
    assert found == set()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--labels 3,nosuch", "--labels nosuch: this model has no such class"),
        ("--mask_value 99", "--mask-value 99: the tokens are 0 to 15"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused_at_the_start(
    refusal, trained, tmp_path, option, said
):
    command = f"--page 0 --checkpoint {trained}/MaskGIT_mnist.pt --output_dir {tmp_path} --dry_run"
    assert said in refusal(lambda: main(f"{command} {option}".split()))
    main(f"{command} --settings best".split())  # without effect, so nothing is wrong with it


def test_the_form_begins_with_the_options_of_the_command_line():
    options = ["--step=5", "--seed=4", "--labels=3", "--batch_size=8", "--device=cpu"]
    line = parse(["--page", *options, "--mask_grow=2", "--no_composite"])
    assert not idle_options(line)
    form = module._form(line)
    assert [field["default"] for field in form.editing] == [2, True]
    assert {field["name"]: field["default"] for field in form.sampling}["step"] == 5
    assert {field["name"]: field["default"] for field in form.series}["seed"] == 4
    assert form.labels == ["3"]
    assert form.read({}, SamplingConfig()).num_steps == 5
    series = ImageSeries([0, 0], form.read({"step": 6}, SamplingConfig()), seed=4, block_size=2)
    recipe = Recipe(Path("m.pt"), series, ["a b"], SamplingConfig())
    *lines, own = form.write(recipe)
    assert lines == [
        "python MaskGIT.py --sample",
        "--checkpoint m.pt",
        "--labels 'a b'",
        "--num_samples 2",
        "--seed 4",
        "--step=6",
        "--device cpu",
        "--output_dir runs",
    ]
    assert re.fullmatch("--run_name again-[0-9a-f]{10}", own)


def test_hostile_names_pass_through_bash():
    rng = np.random.default_rng(0)
    parts = [" ", " --", "--", "'", '"', "\\", "$x", "`", "!", "~", "\n", "\t", "\x1b[0m", "\x7f"]
    parts += [
        "\udce9",
        "\u200b",
        "\U0001f600",
        "é",
        "a",
        "0",
        "*",
        "#",
        ";",
        "&",
        "|",
        "x=1",
        "\\x41",
    ]
    names = ["".join(rng.choice(parts, rng.integers(1, 8))) for _ in range(1000)]
    form = module._form(parse(["--page"]))
    script, wanted = [], []
    for name in names:
        series = ImageSeries([0, 0], form.read({}, SamplingConfig()), seed=4, block_size=2)
        lines = form.write(Recipe(Path(name), series, [name], SamplingConfig()))
        script.append("printf '%s\\0' " + " \\\n  ".join(lines).removeprefix("python MaskGIT.py "))
        path = str(Path(name).absolute()) if name[0] in "-~" else str(Path(name))
        own = re.search("again-[0-9a-f]{10}", lines[-1])[0]
        wanted += ["--sample", "--checkpoint", path, "--labels", name, "--num_samples", "2"]
        wanted += ["--seed", "4", "--output_dir", "runs", "--run_name", own]
    text = "\n".join(script)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)  # a terminal would obey them
    made = subprocess.run(["bash"], input=os.fsencode(text), capture_output=True, check=True).stdout
    assert made.split(b"\0")[:-1] == [os.fsencode(word) for word in wanted]


def test_every_field_of_the_form_is_an_option_with_its_help_and_range():
    form = module._form(parse(["--page"]))
    for field in (*form.sampling, *form.series, *form.editing):
        option = OPTIONS[field["title"].removeprefix("--").replace("-", "_")]
        assert field["help"] == option.help
        assert field.get("choices") == option.choices
        for bound in (field.get("low"), field.get("high")):
            assert bound is None or option.kind(str(bound)) == bound


def test_what_is_missing_is_named_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "uvicorn" else True)
    with pytest.raises(SystemExit, match="2"):
        main(["--page", "--output_dir", str(tmp_path)])
    message = "--page needs uvicorn: pip install -r requirements-page.txt"
    assert capsys.readouterr().err == f"MaskGIT.py: error: {message}\n"


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_port_must_be_one(port, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([f"--page={port}"])
    assert "needs a port from 0 (any free one) to 65535" in capsys.readouterr().err


# --- Who asks ---


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_forged_host_is_refused(served, host):
    status, _, body = served.ask("api/page", Host=host)
    assert (status, b"is not this server" in body) == (403, True)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:9"])
def test_a_tunnel_may_have_another_port(served, host):
    assert served.ask("api/page", Host=host)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
def test_a_foreign_origin_is_refused(served, origin):
    assert served.ask("api/decode", served.request(), Origin=origin)[0] == 403


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("api/decode", "Origin: null", 403),
        ("api/decode", "Content-Type: text/plain", 415),
        ("api/models/nosuch/upload", "Content-Type: image/png", 404),
    ],
)
def test_a_refusal_comes_after_all_was_sent(served, path, headers, status):
    """A browser that is still sending would say that the connection broke."""
    place = urlsplit(served.url)
    head = (
        f"POST /{path} HTTP/1.1\r\nHost: {place.netloc}\r\n{headers}\r\nContent-Length: 4\r\n\r\n"
    )
    with socket.create_connection((place.hostname, place.port), 0.3) as connection:
        connection.sendall(head.encode())
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(60)
        connection.sendall(b"body")
        assert connection.recv(1000).startswith(f"HTTP/1.1 {status} ".encode())


def test_another_site_may_open_the_page_and_nothing_else(served):
    assert served.ask("", Sec_Fetch_Site="cross-site")[0] == 200
    assert served.ask("api/page", Sec_Fetch_Site="cross-site")[0] == 403
    assert served.ask("api/decode", served.request(), Sec_Fetch_Site="same-site")[0] == 403


def test_every_answer_forbids_what_is_not_ours(served):
    for path in ("", "app.js", "api/page", "nowhere"):
        _, headers, _ = served.ask(path)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_another_host_needs_the_token_that_is_printed(process):
    for path in ("", "app.js", "api/page", "?token=", "?token=wrong"):
        assert process.ask(path, Cookie="")[0] == 401, path
    # The token becomes a cookie.
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(process.url).port)
    connection.request("GET", f"/?token={process.cookie.partition('=')[2]}")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert "HttpOnly; SameSite=Strict" in answer.headers["set-cookie"]
    connection.close()
    assert answer.headers["set-cookie"].partition(";")[0] == process.cookie
    assert process.ask("api/page")[0] == 200
    assert process.ask("api/page", Host="evil.example")[0] == 403


def test_a_port_that_is_taken_is_named(runs, served, capsys):
    port = urlsplit(served.url).port
    with pytest.raises(SystemExit, match="2"):
        main(["--page", str(port), "--output_dir", str(runs)])
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_a_name_that_no_host_can_have_is_named():
    with pytest.raises(UserError, match=r"cannot listen on a\.\.b port 0: .*; choose another"):
        connections.listen("a..b", 0)


def test_ctrl_c_while_images_are_decoded_ends_in_one_line(process):
    """Of two tabs one reads to the end; both pause, because they are not read before."""
    place = urlsplit(process.url)
    head = f"POST /api/decode HTTP/1.1\r\nHost: {place.netloc}\r\nCookie: {process.cookie}\r\n"
    head += "Content-Type: application/json"
    with ExitStack() as tabs:
        for tab in ("one", "two"):
            connection = socket.create_connection((place.hostname, place.port), HANG_SECONDS)
            unread = tabs.enter_context(connection)
            text = json.dumps(process.request(tab=tab, count=64, sampling={"step": 64}))
            unread.sendall(f"{head}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
            assert unread.recv(1)
        process.process.send_signal(signal.SIGINT)
        with suppress(ConnectionError):  # what it hears is a matter of a second
            while unread.recv(1 << 16):
                pass
        assert process.process.wait(HANG_SECONDS) == 130, process.said_later.result()
    assert process.said_later.result() == "MaskGIT.py: stopped\n"
