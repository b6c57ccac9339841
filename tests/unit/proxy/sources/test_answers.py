"""Pages and refusals are read whatever a server, or something in front of it, sends."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sources.answers import Status, decode_page, decode_status, read_status
from proxy.sources.decode import MalformedError, decode_item
from tests.builders import make_list, make_slice


def _page(**metadata: object) -> bytes:
    page = make_list([make_slice("a"), make_slice("b")], "EndpointSliceList")
    return json.dumps({**page, "metadata": metadata}).encode()


def test_a_page_is_cut_into_its_objects() -> None:
    page = decode_page(_page(**{"resourceVersion": "7", "continue": "next"}), "EndpointSlice")

    assert (page.resource_version, page.token) == ("7", "next")
    assert [decode_item(item, "EndpointSlice").name for item in page.items] == ["a", "b"]


def test_a_last_page_may_leave_out_everything() -> None:
    body = (
        b'{"kind":"ServiceList","metadata":{"resourceVersion":"7","continue":null},"items":null}'
    )

    assert decode_page(body, "Service") == ("7", "", [])
    assert decode_page(_page(), "EndpointSlice").resource_version == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"kind":"ServiceList"}',
        b'{"kind":"Status","metadata":{},"code":500}',
        b'{"kind":"NodeList","metadata":{},"items":[]}',
        b'{"kind":"ServiceList","metadata":{},"items":[{}',
        b'{"kind":"ServiceList","metadata":{},"items":{}}',
        b'{"kind":"ServiceList","metadata":{},"items":[]} {}',
        b'{"kind":"\xff","metadata":{},"items":[]}',
    ],
)
def test_what_is_no_page_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_page(body, "Service")


TOO_LARGE = {
    "kind": "Status",
    "code": 504,
    "reason": "Timeout",
    "message": "Timeout: Too large resource version: 900, current: 100",
    "details": {
        "retryAfterSeconds": 1,
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
    },
}


def test_a_status_is_read_from_a_body_and_from_an_event() -> None:
    expected = Status(504, "Timeout", TOO_LARGE["message"], 1.0, is_too_large=True)  # type: ignore[arg-type] # it is text

    assert decode_status(json.dumps(TOO_LARGE).encode(), 504) == expected
    assert read_status(TOO_LARGE) == expected


@pytest.mark.parametrize(
    ("changes", "is_too_large"),
    [
        ({"message": "x"}, True),
        ({"details": None}, True),
        ({"details": {"causes": None}, "message": "x"}, False),
        ({"details": None, "message": None}, False),
    ],
)
def test_a_version_that_is_too_large_is_known_by_its_cause_or_in_words(
    changes: dict[str, object], is_too_large: bool
) -> None:
    assert read_status({**TOO_LARGE, **changes}).is_too_large is is_too_large


def test_the_status_of_the_answer_is_stronger_than_that_of_its_body() -> None:
    assert decode_status(b'{"code":200}', 503).code == 503
    assert read_status({"code": 410}).code == 410


def test_a_page_for_people_is_shortened_to_its_first_line() -> None:
    status = decode_status(b"\n  <h1>Bad\tGateway</h1>\n<p>more", 502)

    assert status == Status(502, "", "<h1>Bad Gateway</h1>", 0.0, is_too_large=False)
    assert len(decode_status(b"x" * 10_000, 502).message) < 400
    assert decode_status(b"\x00\x1b[31m", 502).message == "??[31m"


@given(st.binary(max_size=60), st.integers(0, 999))
def test_no_body_is_too_strange(body: bytes, code: int) -> None:
    status = decode_status(body, code)

    assert status.message.isprintable()
    assert status.retry_after_s >= 0


@pytest.mark.parametrize(
    "value", [{}, {"code": "410"}, {"details": 1}, {"details": {"retryAfterSeconds": -5}}]
)
def test_an_event_without_a_proper_status_says_little(value: dict[str, object]) -> None:
    assert read_status(value).code == 0
    assert read_status(value).retry_after_s == 0
