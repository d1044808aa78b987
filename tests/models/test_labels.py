import pytest

from models.labels import parse_labels
from utils.errors import UserError

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
        (["7"], [5]),  # the name of a class comes before its number
    ],
)
def test_numbers_names_ranges_and_repeats(items, labels):
    assert parse_labels(items, NAMES) == labels


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (["trousr"], "did you mean 'trouser'"),
        (["zebra"], "there are T-shirt/top, Trouser"),
        (["6"], "0 to 5"),
        (["2-9"], "0 to 5"),
        (["3-1"], "1-3"),
        (["-2"], "-2"),
        ([","], "`labels` ,: names no image"),
    ],
)
def test_what_is_no_class_is_named_with_a_way_out(items, told):
    with pytest.raises(UserError, match=told):
        parse_labels(items, NAMES)
