"""The library's doors: what a program may hand over, and what it may have set in torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_stages import VQGAN

from models.maskgit.config import TransformerConfig
from models.model import BestSettings, Model
from models.open import load_model, load_tokenizer, new_transformer
from models.sampling import SamplingConfig
from models.steps import KnownTokens
from models.tokenizer import Tokenizer
from models.vqgan.network import VQModel
from utils.checkpoint import save_checkpoint
from utils.device import autocast, usual_torch
from utils.errors import FieldError, UserError
from utils.pictures import to_uint8
from utils.plain import to_plain

SHAPE = {"embed_dim": 8, "hidden_dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16}
FEW = {"num_steps": 2}
NUMBERS = tuple(map(str, range(1, 13)))  # names of classes


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, whose predictions differ between classes."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(VQModel(VQGAN))
    config = TransformerConfig(VQGAN.n_embed, len(NUMBERS), tokenizer.config.seq_len, **SHAPE)
    network = new_transformer(config)
    torch.nn.init.normal_(network.token_embedding.weight)
    contents = {
        "family": config.family,
        "config": to_plain(config),
        "ema": network.state_dict(),
        "dataset": "mnist",
        "class_names": list(NUMBERS),
        "tokenizer": tokenizer.entry(),
    }
    file = tmp_path_factory.mktemp("library") / "MaskGIT_mnist.pt"
    save_checkpoint(file, "maskgit", contents)
    return file


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return load_model(path, device="cpu", precision="fp32")


def test_a_model_is_shown_in_one_line(model: Model) -> None:
    assert repr(model) == "Model(maskgit, mnist: 12 classes, 16 pixels)"


def with_config(model: Model, **changes: object) -> Model:
    """A model with another config and the same weights."""
    network = new_transformer(replace(model.transformer.config, **changes))
    network.load_state_dict(model.transformer.state_dict())
    return replace(model, transformer=network.eval())


# --- Labels ---


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ([1, "1"], [0, 0]),
        ([12, "12", "none"], [11, 11, 12]),
        ("12", [11]),
        (12, [11]),
        ("2-4", [1, 2, 3]),
        ((1, np.int64(2)), [0, 1]),
        (np.array([3, 1], np.uint8), [2, 0]),
        (np.array(["3", "no class"]), [2, 12]),
        (torch.tensor([3, 1]), [2, 0]),
        (torch.tensor(3), [2]),
        (range(1, 3), [0, 1]),
        (iter([5, 5]), [4, 4]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_label_means_what_it_means_on_the_command_line(model, labels, numbers):
    assert model.label_numbers(labels) == numbers


@pytest.mark.parametrize(
    "labels",
    [[], (), np.zeros(0, int), [0], [13], [-1], ["0"], [1.9], [1.0], 1.9, [True], True, None,
     [None], [[1, 2]], np.ones((2, 2), int), torch.ones(2), np.array([True]), [b"1"], b"1",
     ["tiger"], {1, 2}, frozenset("1"), {"1": 3}],
    ids=str,
)  # fmt: skip
def test_what_is_no_label_is_refused(model, labels):
    with pytest.raises(UserError, match="`labels`"):
        model.sample(labels, **FEW)


def test_classes_with_other_names_have_their_places_as_numbers(model):
    named = replace(model, class_names=tuple("abcdefghijkl"))
    assert named.label_numbers([0, "b", "11"]) == [0, 1, 11]
    with pytest.raises(UserError, match="0 to 11"):
        named.label_numbers([12])


# --- Settings ---


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("block_size", value) for value in (0, -1, 1.5, "4", True, None)),
        *(("seed", value) for value in (-1, 0.5, "0", True, None)),
        *(("first_image", value) for value in (-1, 0.5, "0", True, 2**63)),
        *(("num_steps", value) for value in (0, -1, 4.0, "4", True, None)),
        *(("guidance", value) for value in (-1, "3", True, None, float("nan"), 1e9)),
        *(("choice_temperature", value) for value in (-0.1, "4.5", None, 1e-40)),
        *(("logit_scale", value) for value in (0, "1", None, float("inf"))),
        *(("start_share", value) for value in (1.1, "0", None)),
        *(("start_token", value) for value in (1.5, "3", True, 17)),
        *(("guidance_interval", value) for value in (None, 0.5, (0.1,), ("0", 1), (1, 0), "01")),
        *(("SamplingConfig.schedule", value) for value in (None, 3, "round", ["arccos"])),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(model, field, value):
    settings = FEW | {field.removeprefix("SamplingConfig."): value}
    for make in (model.sample, lambda *a, **k: list(model.decode_steps(*a, **k))):
        if make == model.sample or field != "block_size":  # the steps are all in one block
            with pytest.raises(FieldError) as said:
                make([1], **settings)
            assert said.value.field == field


@pytest.mark.parametrize("name", ["cfg_w", "steps", "temperature", "labels_"])
def test_a_setting_that_does_not_exist_is_named(model, name):
    image, mask = np.zeros((16, 16, 1), np.uint8), np.ones((16, 16), bool)
    for make in (
        lambda **settings: model.sample([1], **settings),
        lambda **settings: model.decode_steps([1], **settings),
        lambda **settings: model.edit(image, mask, **settings),
    ):
        with pytest.raises(FieldError, match=f"`{name}` 3: no such setting; .* guidance, "):
            make(**{name: 3})


def test_the_bounds_of_a_number_are_shown_in_full(model):
    with pytest.raises(FieldError, match=r"from 0 to 9007199254740992$"):
        model.sample([1], first_image=2**53 + 1, **FEW)


def test_numbers_of_numpy_are_numbers(model):
    settings = {"num_steps": 3, "guidance": 2.0, "guidance_interval": (0.25, 0.5), "seed": 7}
    settings["logit_scale"] = 2.0
    of_numpy = {
        "num_steps": np.int32(3),
        "guidance": np.float32(2),
        "logit_scale": 2,
        "guidance_interval": [np.float64(0.25), np.float32(0.5)],
        "seed": np.uint8(7),
        "block_size": np.int64(2),
    }
    assert (model.sample([1, 2], **of_numpy) == model.sample([1, 2], **settings)).all()


@pytest.mark.parametrize(
    ("options", "field"),
    [({"precision": "fp16"}, "precision"), ({"precision": torch.float16}, "precision"),
     ({"precision": None}, "precision"), ({"device": "tpu"}, "device"), ({"device": 0}, "device"),
     ({"device": torch.device("meta")}, "device"), ({"num_classes": "3"}, "num_classes"),
     ({"num_classes": 0}, "num_classes"), ({"num_classes": 11}, "transformer.num_classes"),
     ({"tokenizer": 3}, "tokenizer")],
    ids=str,
)  # fmt: skip
def test_a_wrong_argument_of_load_model_is_named(path, options, field):
    with pytest.raises(UserError, match=f"`{field}`"):
        load_model(path, **options)


@pytest.mark.parametrize("name", [None, 3, b"a.pt", ["a.pt"], 1.5, True], ids=str)
def test_a_name_of_a_file_is_a_text_or_a_path(name):
    for act in (load_model, load_tokenizer):
        with pytest.raises(FieldError, match=r"`path` .*: must be a file or folder, or hf:"):
            act(name)


@pytest.mark.parametrize(
    "name", ["", "~no-such-user/a.pt", "a\0b", "x" * 5000, "\udcff"], ids=ascii
)
def test_a_name_without_a_file_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for act in (load_model, load_tokenizer):
        with pytest.raises(UserError):
            act(name)


@pytest.mark.parametrize("where", ["gpu", "cuda:99", torch.device("meta"), None])
def test_a_model_moves_only_to_what_there_is(model, where):
    with pytest.raises(UserError, match="`device`"):
        model.to(where, "fp32")
    with pytest.raises(FieldError, match="`precision`"):
        model.to("cpu", where)


@pytest.mark.parametrize("channels", ["1", 0, 1.5])
def test_channels_are_a_whole_number(path, channels):
    with pytest.raises(FieldError, match=r"`channels` .*must be a whole number"):
        load_tokenizer(path, channels=channels)


@pytest.mark.parametrize("size", ["x", 0, -1, 1.5, True, None, (32,), [16]], ids=str)
def test_the_size_of_images_is_one(path, size):
    with pytest.raises(FieldError, match="`image_size`"):
        load_tokenizer(path, image_size=size)


@pytest.mark.parametrize("tokenizer", [None, "VQGAN_mnist.pt"])
def test_a_transformer_alone_needs_a_tokenizer_that_is_open(tmp_path, tokenizer):
    torch.save({"tok_emb.weight": torch.ones(2, 2), "pos_emb": torch.ones(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="give what `load_tokenizer` returns"):
        load_model(tmp_path / "a.pt", tokenizer=tokenizer)


def test_devices_and_dtypes_of_torch_are_taken(path):
    opened = load_model(path, device=torch.device("cpu"), precision=torch.bfloat16)
    assert (opened.tokenizer.device.type, opened.precision) == ("cpu", torch.bfloat16)


def test_a_model_can_be_in_a_set(model):
    best = BestSettings(model.usual, "fid", {"fid": 1.0}, {"images": 10})
    assert len({model, model, replace(model, best=best)}) == 2


# --- Images ---


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["read-only", "reversed", "in other order"])
def test_any_array_can_be_edited(model, kind):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 1), np.uint8)
    mask = np.arange(256).reshape(16, 16) < 128
    wanted = model.edit(image, mask, [3], **FEW)
    if kind == "read-only":
        image.flags.writeable = mask.flags.writeable = False
    elif kind == "reversed":
        image, mask = image[::-1].copy()[::-1], mask[::-1].copy()[::-1]
    else:
        image, mask = np.asfortranarray(image), np.asfortranarray(mask)
    before = image.copy()
    assert (model.edit(image, mask, [3], **FEW) == wanted).all()
    assert (image == before).all()


@pytest.mark.parametrize("image", [None, [[0]], np.zeros((16, 16)), np.zeros((16, 16), np.uint8)])
def test_an_image_to_edit_has_the_shape_and_dtype_of_the_model(model, image):
    with pytest.raises(FieldError, match="`image`"):
        model.edit(image, np.eye(16, dtype=bool), **FEW)


@pytest.mark.parametrize(
    "mask", [None, np.ones((16, 16)), np.ones((16, 16), np.uint8), np.ones((8, 8), bool),
             np.ones((16, 16, 1), bool)]
)  # fmt: skip
def test_a_mask_has_the_shape_of_the_image(model, mask):
    image = np.zeros((16, 16, 1), np.uint8)
    for act in (model.edit, model.known_tokens):
        with pytest.raises(FieldError, match=r"`mask` .*must be bool \(16, 16\)"):
            act(image, mask)


@pytest.mark.parametrize(
    "known",
    [3, (torch.zeros(64), torch.ones(64, dtype=torch.bool)), KnownTokens([1], [True]),
     KnownTokens(torch.zeros(64, dtype=torch.int64), torch.zeros(64)),
     KnownTokens(torch.zeros(9, dtype=torch.int64), torch.zeros(9, dtype=torch.bool))],
    ids=lambda known: type(known).__name__,
)  # fmt: skip
def test_known_tokens_are_those_of_an_image(model, known):
    with pytest.raises(FieldError, match=r"`known` .*of one image, int64 and bool \(64,\)"):
        model.decode_steps([1], known=known, **FEW)


@pytest.mark.parametrize("token", [-1, 16])
def test_a_token_is_in_the_codebook(model, token):
    """16 is the mask token; what is at hidden positions means nothing."""
    tokens = torch.full((64,), 3)
    tokens[5] = token
    said = rf"{token}: the codebook has the tokens 0 to 15"
    with pytest.raises(FieldError, match=f"`tokens` {said}"):
        model.tokenizer.decode(tokens[None])
    hidden = torch.zeros(64, dtype=torch.bool)
    with pytest.raises(FieldError, match=f"`known` {said}"):
        model.decode_steps([1], known=KnownTokens(tokens, hidden), **FEW)
    hidden[5] = True
    *_, last = model.decode_steps([1], known=KnownTokens(tokens, hidden), **FEW)
    assert 0 <= last.tokens.min() <= last.tokens.max() < 16


@pytest.mark.parametrize("grow", [-1, 1.5, "1", None])
def test_a_region_grows_by_whole_tokens(model, grow):
    with pytest.raises(FieldError, match="`grow`"):
        model.edit(np.zeros((16, 16, 1), np.uint8), np.eye(16, dtype=bool), grow=grow, **FEW)


# --- A transformer without a trained null class ---


def test_an_untrained_null_class_is_never_used(model):
    untrained = with_config(model, null_trained=False)
    assert untrained.fingerprint != model.fingerprint
    assert untrained.usual == SamplingConfig(guidance=0.0)
    unguided = model.sample([1, 2], guidance=0, **FEW)
    assert (untrained.sample([1, 2], **FEW) == unguided).all()
    with pytest.raises(FieldError, match=r"`guidance` 3: .*no trained null class.*use 0"):
        untrained.sample([1], guidance=3)
    image, mask = unguided[0], np.ones((16, 16), bool)
    for make in (
        lambda: untrained.sample(["none"]),
        lambda: untrained.sample([1, "no class"]),
        lambda: untrained.edit(image, mask),
    ):
        with pytest.raises(FieldError, match="never trained without classes"):
            make()
    assert untrained.edit(image, mask, [1], **FEW).shape == (1, 16, 16, 1)


def test_the_only_class_stands_for_no_class(model):
    config = replace(model.transformer.config, num_classes=1, null_trained=False)
    network = new_transformer(config).eval()
    flat = replace(model, transformer=network, class_names=("images",))
    image, mask = np.zeros((16, 16, 1), np.uint8), np.ones((16, 16), bool)
    assert (flat.edit(image, mask, **FEW) == flat.edit(image, mask, [0], **FEW)).all()


def test_files_that_do_not_say_it_have_a_trained_null_class(path):
    assert "null_trained" not in torch.load(path, weights_only=True)["contents"]["config"]
    assert load_model(path).transformer.config.null_class == len(NUMBERS)


# --- What a program has set in torch ---


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")  # stands for a GPU
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS = {
    "dtype": default_dtype,
    "device": default_device,
    "block of a device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_settings_of_torch_change_nothing_here_and_stay_there(path, setting, precision):
    def everything() -> list[np.ndarray]:
        opened = load_model(path, device="cpu", precision=precision)
        assert {weight.dtype for weight in opened.transformer.parameters()} == {torch.float32}
        tokenizer = load_tokenizer(path)
        images = opened.sample([1, 2, 3, "none"], seed=3, **FEW)
        edited = opened.edit(images[0], np.eye(16, dtype=bool), [2], grow=1, **FEW)
        *_, last = opened.decode_steps([4], start_token=-1, **FEW)
        wave = torch.linspace(-1, 1, 256, dtype=torch.float32, device="cpu").view(1, 1, 16, 16)
        tokens = tokenizer.encode(wave)
        return [images, edited, last.tokens, opened.image_of(last), tokens.numpy(),
                tokenizer.decode(tokens).numpy()]  # fmt: skip

    wanted = everything()
    with SETTINGS[setting]():
        found = everything()
        kept = (
            torch.get_default_dtype(),
            torch.empty(0).device,
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_inference_mode_enabled(),
        )
    with SETTINGS[setting]():
        before = (
            torch.get_default_dtype(),
            torch.empty(0).device,
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_inference_mode_enabled(),
        )
    assert kept == before
    for one, other in zip(wanted, found, strict=True):
        assert np.array_equal(one, other)


def test_a_caller_between_two_steps_has_its_own_settings(model):
    with default_dtype():
        for _ in model.decode_steps([1], **FEW):
            assert torch.get_default_dtype() == torch.float64


def test_threads_that_sample_at_once_leave_the_callers_dtype(model):
    with default_dtype():
        first, second = usual_torch(), usual_torch()  # as two threads interleave them
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float32
        second.__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 16, 16), torch.zeros(1, 16, 16),
     torch.zeros(1, 1, 16, 16, dtype=torch.uint8)],
    ids=lambda images: f"{images.dtype} {tuple(images.shape)}",
)  # fmt: skip
def test_a_tokenizer_refuses_images_of_another_shape_or_dtype(model, images):
    with pytest.raises(FieldError, match=r"`images` .*: must be float \(B, 1, 16, 16\)"):
        model.tokenizer.encode(images)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 255, -2.1])
def test_a_tokenizer_refuses_pixels_far_outside_their_range(model, value):
    images = torch.zeros(2, 1, 16, 16)
    images[1, 0, 3, 4] = value
    with pytest.raises(FieldError, match=rf"`images` with the value {value:g}: must be in \[-1, 1"):
        model.tokenizer.encode(images)


def test_what_a_filter_makes_of_pixels_can_be_encoded(model):
    """The worst images for a bicubic filter: it goes farther outside than any photo."""
    checkered = torch.tensor([[1.0, -1, -1, 1]]).T * torch.tensor([[1.0, -1, -1, 1]])
    wide = F.interpolate(checkered.tile(4, 4)[None, None], (256, 256), mode="bicubic")
    images = wide.unfold(2, 16, 16).unfold(3, 16, 16).reshape(-1, 1, 16, 16)
    assert images.abs().max() > 1.5
    assert model.tokenizer.encode(images).shape == (256, 8, 8)
    assert model.tokenizer.encode(images[:0]).shape == (0, 8, 8)


@pytest.mark.parametrize("images", [torch.zeros(1, 1, 16, 16), np.zeros((1, 16, 16, 1), np.uint8)])
def test_bytes_to_encode_have_the_dtype_and_shape_of_bytes(model, images):
    with pytest.raises(FieldError, match=r"`images` .*: must be uint8 \(B, 1, 16, 16\)"):
        model.tokenizer.encode_bytes(images)


def test_what_is_no_step_has_no_image(model):
    *_, last = model.decode_steps([1], **FEW)
    for other in (last.tokens, [last], model.decode_steps([1], **FEW)):
        with pytest.raises(FieldError, match=r"`step` of type .*: must be a step of `decode"):
            model.image_of(other)


@pytest.mark.parametrize(
    "tokens",
    [torch.zeros(shape, dtype=torch.int64) for shape in ((1, 16, 16), (8, 8), (64,), (1, 1, 8, 8))]
    + [torch.zeros(1, 8, 8), np.zeros((1, 8, 8)), np.zeros((1, 8, 8), bool)],
    ids=lambda tokens: f"{tokens.dtype} {tuple(tokens.shape)}",
)
def test_a_tokenizer_refuses_tokens_of_another_shape_or_dtype(model, tokens):
    with pytest.raises(FieldError, match=r"`tokens` .*: must be int64 \(B, 8, 8\)"):
        model.tokenizer.decode(tokens)


@pytest.mark.parametrize("values", [None, "3", [[1], [1, 2]], {}, {1}], ids=str)
def test_a_tokenizer_refuses_what_is_no_array(model, values):
    for act, name in ((model.tokenizer.encode, "images"), (model.tokenizer.decode, "tokens")):
        with pytest.raises(FieldError, match=rf"`{name}` .*must be"):
            act(values)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, np.uint16, np.int8])
def test_any_whole_numbers_are_tokens(model, dtype):
    zeros = np.zeros if isinstance(dtype, type) else torch.zeros
    assert model.tokenizer.decode(zeros((2, 8, 8), dtype=dtype)).shape == (2, 1, 16, 16)
    assert model.tokenizer.decode(zeros((2, 64), dtype=dtype)).shape == (2, 1, 16, 16)


def test_images_can_be_decoded_in_a_precision_by_its_name(model):
    tokens = torch.zeros(1, 8, 8, dtype=torch.int64)
    named, given = (model.tokenizer.decode(tokens, one) for one in ("bf16", torch.bfloat16))
    assert named.equal(given)
    with pytest.raises(FieldError, match="`precision` half"):
        model.tokenizer.decode(tokens, "half")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_are_decoded_in_the_precision_of_the_model(path, precision):
    model = load_model(path, device="cpu", precision=precision)
    *_, last = model.decode_steps(model.class_names[:2], seed=3)
    with torch.no_grad(), autocast(torch.device("cpu"), model.precision):
        wanted = model.tokenizer.network.decode_tokens(torch.from_numpy(last.tokens))
    assert np.array_equal(model.image_of(last), to_uint8(wanted.float().clamp(-1, 1)))
