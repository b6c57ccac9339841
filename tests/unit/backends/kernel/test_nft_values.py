"""What leads from the elements that are there to those that should be."""

import pytest

from backends.kernel.nft_table import Data
from backends.kernel.nft_transaction import Element, Form
from backends.kernel.nft_values import ABSENT, Values, differences
from tests.model_builders import make_key

WEB, API = make_key("default/web"), make_key("default/api")


@pytest.mark.parametrize("form", [Form.PLAIN, Form.RANGES])
def test_what_is_as_it_should_be_is_left_alone_and_what_differs_goes_or_comes(form: Form) -> None:
    believed: dict[bytes, Data] = {
        b"same": None,
        b"surplus": None,
        b"other": b"1",
        b"foreign": None,
    }
    values: Values = {
        b"same": (None, WEB),
        b"surplus": (ABSENT, WEB),
        b"other": (b"2", API),
        b"new": ("drop", API),
        b"neither": (ABSENT, None),
    }

    gone, new = differences(values, believed, form)

    assert gone == [Element(b"surplus", None, WEB), Element(b"other", b"1", API)]
    assert new == [Element(b"other", b"2", API), Element(b"new", "drop", API)]


def test_a_member_of_a_plain_set_is_there_although_it_maps_to_nothing() -> None:
    assert differences({b"key": (None, WEB)}, {}, Form.PLAIN) == ([], [Element(b"key", None, WEB)])


def test_of_bounds_all_go_and_come_again_if_one_differs() -> None:
    believed: dict[bytes, Data] = {b"a0": None, b"b1": None, b"c0": None}
    values: Values = {b"b1": (ABSENT, WEB), b"d1": (None, WEB), b"a0": (None, WEB)}

    gone, new = differences(values, believed, Form.BOUNDS)

    assert gone == [
        Element(b"a0", None, WEB),
        Element(b"b1", None, WEB),
        Element(b"c0", None, None),  # nobody has named it, and it stays
    ]
    assert {element.key for element in new} == {b"a0", b"c0", b"d1"}


def test_bounds_that_are_as_they_should_be_are_left_alone() -> None:
    believed: dict[bytes, Data] = {b"a0": None, b"b1": None}

    assert differences(dict.fromkeys(believed, (None, WEB)), believed, Form.BOUNDS) == ([], [])


def test_what_is_not_there_and_should_not_be_is_left_alone() -> None:
    values: Values = {b"new": (None, WEB), b"neither": (ABSENT, WEB)}

    assert differences(values, {b"other": None}, Form.PLAIN) == ([], [Element(b"new", None, WEB)])


def test_of_bounds_all_go_and_come_again_also_if_only_others_come() -> None:
    believed: dict[bytes, Data] = {b"a0": None, b"b1": None}

    gone, new = differences({b"c0": (None, WEB)}, believed, Form.BOUNDS)

    assert [element.key for element in gone] == [b"a0", b"b1"]
    assert {element.key for element in new} == {b"a0", b"b1", b"c0"}
