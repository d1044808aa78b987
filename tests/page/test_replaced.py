"""A model file is replaced while the page is open: nothing is drawn with an old description."""

import base64
import http.client
import io
import json
from contextlib import closing
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from page_events import byte_by_byte
from PIL import Image

from commands.page import _form
from commands.parser import parse
from models.maskgit.config import TransformerConfig
from models.model import Model
from models.open import load_model, new_transformer
from models.tokenizer import Tokenizer
from models.vqgan.config import VQGANConfig
from models.vqgan.network import VQModel
from page.catalog import Catalog, OpenModel, id_of
from page.run_reader import RunReader
from page.server import Page
from page.tab_decoding import png
from training.distillation import student_settings
from utils.checkpoint import save_checkpoint

REPLACEMENTS = 50
SHAPE = {"embed_dim": 8, "hidden_dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16}
USUAL = VQGANConfig(
    image_size=16,
    image_channels=1,
    channels=32,
    ch_mult=(1, 1),
    num_res_blocks=1,
    attn_resolutions=(),
    z_channels=4,
    embed_dim=4,
    n_embed=16,
)
VARIANTS = {  # what differs in the tokenizer, and the number of classes
    "usual": ({}, 5),
    "trained again": ({}, 5),
    "size": ({"image_size": 32}, 5),
    "grid": ({"ch_mult": (1, 1, 1)}, 5),
    "channels": ({"image_channels": 3}, 5),
    "codes": ({"n_embed": 8}, 5),
    "classes": ({}, 3),
    "student": ({}, 5),
}


def random_model(name, number):
    """A model with random weights; its class names say which one it is."""
    changes, num_classes = VARIANTS[name]
    torch.manual_seed(number)
    tokenizer = Tokenizer(VQModel(VQGANConfig(**{**vars(USUAL), **changes})))
    codes, cells = tokenizer.codebook_size, tokenizer.config.seq_len
    network = new_transformer(TransformerConfig(codes, num_classes, cells, **SHAPE)).eval()
    torch.nn.init.normal_(network.token_embedding.weight)
    names = tuple(f"{name} {label}" for label in range(num_classes))
    made_for = student_settings(1 if name == "student" else 2)  # few steps, as it takes long
    return Model(network, tokenizer, "mnist", names, made_for=made_for)


class Site:
    """A page on one model file, and what is about to happen to that file."""

    def __init__(self, folder):
        self.path = folder / "run" / "MaskGIT_mnist.pt"
        self.path.parent.mkdir()
        self.files, self.images = {}, {}
        for number, name in enumerate(VARIANTS):
            model = random_model(name, number)
            save_checkpoint(self.path, "maskgit", model.contents())
            self.files[name] = self.path.read_bytes()
            self.images[name] = model.sample(["0", "1"], seed=3)
        self.planned = {}  # by moment: the file that comes then

    def load(self, path):
        self.now("before it is read")
        model = load_model(path, device="cpu", precision="fp32")
        self.now("after it was read")
        return OpenModel(path, model, lambda: pytest.fail("no dataset"), lambda: None)

    def now(self, moment):
        """Replace the file if that is planned for this moment."""
        variant = self.planned.pop(moment, None)
        if variant == "removed":
            self.path.unlink(missing_ok=True)
        elif variant == "broken":  # as a program leaves it that writes in place
            self.path.write_bytes(self.files["usual"][:-5000])
        elif variant:
            new = self.path.with_suffix(".new")
            new.write_bytes(self.files[variant])
            new.replace(self.path)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def served(site, serve_here, tmp_path):
    catalog = Catalog(lambda: sorted(tmp_path.glob("*/MaskGIT_*.pt")), site.load)
    return serve_here(Page(catalog, RunReader(list, ["step"]), _form(parse(["--page"]))))


def describe(site, served):
    """Open the model as a tab does; returns its description, None if that is not possible."""
    status, _, body = served.ask(f"api/models/{id_of(site.path)}")
    answer = json.loads(body)
    if status != 200:
        assert status in (400, 404)
        assert "\n" not in answer["message"]
        return None
    (listed,) = served.json("api/models")
    assert listed["version"] == answer["version"]
    return answer


def edited(described):
    """The request to regenerate a corner of a black image."""
    image = np.zeros((*described["size"], described["channels"]), np.uint8)
    return {"file": png(image), "cells": [0, 1]}


def draws(site, served, described, **more):
    """Ask for images as described, and compare what comes; returns whether they are drawn."""
    request = {"model": described["id"], "version": described["version"], "tab": "one", **more}
    request |= {"count": 2, "seed": 3, "labels": [0, 1]}
    site.now("before it is asked for")
    body, kind = json.dumps(request), {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)) as connection:
        connection.request("POST", "/api/decode", body, kind)
        answer = connection.getresponse()
        if answer.status != 200:
            assert answer.status in (400, 404, 409)
            assert "\n" not in json.loads(answer.read())["message"]
            return False
        lines = [next(answer), next(answer)]
        site.now("while it streams")
        lines += answer
    events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]
    start, *steps = [event for event in events if event["event"] in ("start", "step")]
    assert start["fingerprint"] == described["fingerprint"]
    for step in steps:
        tokens = byte_by_byte(step["tokens"])
        assert tokens.size <= 2 * np.prod(described["grid"])
        assert tokens.max(initial=0) < described["codes"]
    name = described["classes"][0].removesuffix(" 0")
    assert len(steps[-1]["files"]) == 2
    for file, wanted in zip(steps[-1]["files"], site.images[name], strict=True):
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(file))))
        assert image.shape[:2] == tuple(described["size"])
        assert "edit" in more or (image == wanted.squeeze()).all()
    assert "edit" in more or len(start["counts"]) == described["usual"]["step"]
    return True


def test_nothing_is_drawn_with_an_old_description(site, served):
    """50 replacements: between and during requests, and while the file is opened."""
    rng = np.random.default_rng(0)
    asking = ["before it is asked for", "while it streams"]
    opening = ["before it is read", "after it was read"]
    described = describe(site, served)
    for number in range(REPLACEMENTS):
        moment = rng.choice([*asking, *opening])
        if moment in opening:  # then it has to be opened
            site.planned = {"before": rng.choice([*VARIANTS])}
            site.now("before")
        site.planned = {moment: rng.choice([*VARIANTS, "broken", "removed"])}
        variant = site.planned[moment]
        if moment in asking:
            more = {"edit": edited(described)} if rng.integers(2) else {}
            assert draws(site, served, described, **more) == (moment == "while it streams")
        now = describe(site, served)
        assert not site.planned, moment
        assert (now is None) == (variant in ("broken", "removed"))
        if now is None:
            assert not draws(site, served, described)
            site.planned = {"after": "usual"}
            site.now("after")
            now, variant = describe(site, served), "usual"
        described = now
        assert described["classes"][0] == f"{variant} 0", number
        if moment in opening:
            assert draws(site, served, described)
