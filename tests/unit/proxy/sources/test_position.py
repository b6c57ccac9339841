"""From where to go on, and how a list is asked for."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sources.position import Position, is_before
from proxy.sources.resources import resources

_, SLICES, _, _ = resources("node-1")


def _asked(position: Position) -> dict[str, str]:
    target = position.list_request(SLICES).target
    query = dict(parse_qsl(urlsplit(target).query, keep_blank_values=True))
    del query["labelSelector"]
    return query


def test_the_first_list_comes_from_memory() -> None:
    position = Position(500)

    assert position.version == ""
    assert _asked(position) == {"limit": "500", "resourceVersion": "0"}


def test_a_later_list_is_not_older_than_what_is_known() -> None:
    position = Position(500)
    position.reach("70")
    position.forget(is_expired=False)

    assert (position.version, _asked(position)) == ("", {"resourceVersion": "70"})
    position.forget(is_expired=False)
    assert _asked(position) == {"resourceVersion": "70"}
    position.forget_list()
    assert _asked(position) == {"limit": "500", "resourceVersion": ""}


def test_a_list_whose_pages_expire_is_asked_for_as_a_whole_once() -> None:
    position = Position(500)
    position.token = "next"
    assert _asked(position) == {"limit": "500", "continue": "next"}

    position.forget_list()

    assert (position.token, _asked(position)) == ("", {"resourceVersion": ""})
    position.reach("80")
    position.forget(is_expired=True)
    assert _asked(position) == {"limit": "500", "resourceVersion": ""}


@pytest.mark.parametrize("is_within_list", [True, False])
def test_whoever_has_lost_touch_asks_for_the_newest(is_within_list: bool) -> None:
    position = Position(500)
    if is_within_list:
        position.token = "next"
    else:
        position.reach("70")

    position.lose_touch()

    assert (position.version, position.token) == ("", "")
    assert _asked(position) == {"limit": "500", "resourceVersion": ""}


def test_whoever_was_never_in_touch_asks_from_memory() -> None:
    position = Position(500)

    position.lose_touch()

    assert _asked(position)["resourceVersion"] == "0"


def test_a_watch_goes_on_but_not_to_a_version_before_it_began() -> None:
    position = Position(500)
    position.reach("70")
    position.begin_watch()

    assert position.advance("90")
    assert position.advance("75")
    assert position.advance("70")
    assert not position.advance("69")
    assert position.version == "70"
    assert position.advance("opaque")
    assert position.version == "opaque"


@given(st.integers(0, 1 << 80), st.integers(0, 1 << 80))
def test_versions_that_are_numbers_compare_as_numbers(one: int, other: int) -> None:
    assert is_before(str(one), str(other)) is (one < other)


@pytest.mark.parametrize(
    ("one", "other"), [("", "1"), ("1", ""), ("a", "b"), ("-1", "0"), ("1.5", "2")]
)
def test_others_do_not(one: str, other: str) -> None:
    assert not is_before(one, other)


def test_numbers_of_any_length_are_compared() -> None:
    assert is_before("9" * 9000, "1" + "0" * 9000)
