import itertools

import numpy as np
import pytest

from models.labels import (
    classes_in_turn,
    labels_in_turn,
    parse_labels,
    read_labels,
    written_labels,
)
from utils.errors import FieldError, UserError

EMPTY_PARTS = ([","], [""], ["0,,1"], [",0"], ["0,"], ["0", ",1"], ["0,,", "1"], ["[]"], ["0", ""])
NAMES = ("T-shirt/top", "Trouser", "Ankle boot", "bag", "tench, Tinca", "7")


@pytest.mark.parametrize(
    ("items", "labels"),
    [
        (["3,3,1"], [3, 3, 1]),
        (["3", "1"], [3, 1]),
        (["[0, 2]"], [0, 2]),
        (["trouser,BAG"], [1, 3]),
        (["t-shirt/top"], [0]),
        (["ankle_boot", "Ankle boot"], [2, 2]),
        (["1-3"], [1, 2, 3]),
        (["0-1x2"], [0, 1, 0, 1]),
        (["bagx3,1x2"], [3, 3, 3, 1, 1]),
        (["none"], [6]),
        (["nonex2,0"], [6, 6, 0]),
        (["tench, tinca"], [4]),
        (["bag,", "3", "[0,", "1]"], [3, 3, 0, 1]),  # as a shell splits "bag, 3"
        (["7"], [5]),  # the name of a class comes before its number
    ],
)
def test_numbers_names_ranges_and_repeats(items, labels):
    assert parse_labels(items, NAMES) == labels


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["trousr"], "did you mean 'trouser'"),
        (["zebra"], "there are T-shirt/top, Trouser"),
        (["6"], "0 to 5"),
        (["2-9"], "0 to 5"),
        (["3-1"], "1-3"),
        (["-2"], "-2"),
        (["3x0"], "`labels` 3x0: names no image"),
        *[(items, "has an empty part") for items in EMPTY_PARTS],
        (["9" * 5000], "there are T-shirt/top, Trouser"),
        (["0-" + "9" * 5000], "there are T-shirt/top, Trouser"),
        (["Trouserx" + "9" * 5000], "there are T-shirt/top, Trouser"),
    ],
)
def test_what_is_no_class_is_named_with_a_way_out(items, said):
    with pytest.raises(UserError, match=said):
        parse_labels(items, NAMES)


def test_a_model_of_one_class_is_not_said_to_have_several():
    with pytest.raises(UserError, match="the model has only the class 0"):
        parse_labels(["3"], ["cat"])


TEXT_ORDER = sorted(map(str, range(12)))  # as older models have them: 0 1 10 11 2 ...


@pytest.mark.parametrize(
    ("item", "names"),
    [
        ("2", ["2"]),
        ("2-2", ["2"]),
        ("0-2", ["0", "1", "2"]),
        ("9-11", ["9", "10", "11"]),
        ("8-11x2", ["8", "9", "10", "11"] * 2),
    ],
)
@pytest.mark.parametrize("order", [TEXT_ORDER, sorted(TEXT_ORDER, key=int)])
def test_numbers_are_names_where_all_names_are_numbers(item, names, order):
    assert [order[label] for label in parse_labels([item], order)] == names


def test_a_name_with_thousands_of_digits_is_a_name_like_others():
    assert parse_labels(["0", "9" * 5000], ["1", "9" * 5000]) == [0, 1]


def test_names_that_are_numbers_need_not_start_at_zero_or_be_complete():
    names = ["01", "02", "03", "10"]
    assert parse_labels(["1-3", "10", "02"], names) == [0, 1, 2, 3, 1]
    for item, said in (("0", "1 to 10"), ("3-4", r"1 to 10 \(not all of them\)"), ("10-1", "1-10")):
        with pytest.raises(UserError, match=said):
            parse_labels([item], names)


ALIKE = ("Cat", "None", "a b", "a_b", "box2", "cat", "[x]")


@pytest.mark.parametrize(
    ("item", "label"),
    [
        ("Cat", 0),
        ("cat", 5),
        ("none", 1),
        ("no class", 7),
        ("a b", 2),
        ("a_b", 3),
        ("box2", 4),
        ("[x]", 6),
    ],
)
def test_exact_names_come_first(item, label):
    assert parse_labels([item], ALIKE) == [label]


@pytest.mark.parametrize(
    "names", [NAMES, ALIKE, TEXT_ORDER, ("-1", "0", "1"), ("-a", "", " b", "c"), ("3x2", "3", "2")]
)
def test_written_labels_are_read_as_the_same(names):
    random = np.random.default_rng(0)
    for first in range(30):
        in_turn = classes_in_turn(len(names), first)
        some = random.integers(len(names) + 1, size=1 + first % 4).tolist()
        for few in (in_turn, some):
            labels = (10 * few)[: random.integers(1, 20)]
            written = written_labels(labels, names, first)
            assert labels_in_turn(written, names, in_turn, len(labels)) == labels
    assert written_labels(in_turn, names, first) == []


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [(np.array([3, 1]), [3, 1]), ((3, "trouser"), [3, 1]), ("3,1", [3, 1]), (3, [3])],
)
def test_labels_in_python_are_those_of_the_command_line(labels, numbers):
    assert read_labels(labels, NAMES) == numbers


@pytest.mark.parametrize("label", [True, 1.0, None, b"bag"])
def test_what_is_neither_a_number_nor_a_name_is_refused(label):
    with pytest.raises(FieldError, match="needs the number or the name of a class"):
        read_labels([label], NAMES)


def test_a_name_that_could_be_two_classes_is_refused():
    with pytest.raises(UserError, match="CAT: there are 'Cat' and 'cat'; write one of them"):
        parse_labels(["CAT"], ALIKE)


def test_labels_without_an_end_are_refused(monkeypatch):
    monkeypatch.setattr("models.labels.MAX_SAMPLES", 20)
    with pytest.raises(UserError, match="images; take them in parts"):
        read_labels(itertools.repeat("bag"), NAMES)
