"""Elements in words."""

import pytest

from backends.ipvs.words import element_words

FRONTEND = bytes([10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])


@pytest.mark.parametrize(
    ("set_name", "key", "data", "words"),
    [
        ("services", FRONTEND, None, "services 10.96.0.1 . tcp . 80"),
        ("externals", FRONTEND, b"\5\0\0\xa6", "externals 10.96.0.1 . tcp . 80 : mark 0xa6000005"),
        ("nodeports", FRONTEND[4:], b"\5\0\0\xa6", "nodeports tcp . 80 : mark 0xa6000005"),
        ("bound", FRONTEND[:4], None, "bound 10.96.0.1"),
        ("hairpin", FRONTEND[:4] * 2, None, "hairpin 10.96.0.1 . 10.96.0.1"),
        ("service-cidrs", FRONTEND[:4] + b"\1", None, "service-cidrs before 10.96.0.1"),
        (
            "allowed",
            bytes([10, 0, 0, 0]) + FRONTEND + bytes([10, 255, 255, 255]) + FRONTEND,
            None,
            "allowed 10.0.0.0-10.255.255.255 . 10.96.0.1 . tcp . 80",
        ),
        ("crowd", b"\1\2", None, "crowd 0102"),
    ],
)
def test_an_element_reads_as_the_stock_tool_has_it(
    set_name: str, key: bytes, data: bytes | None, words: str
) -> None:
    assert element_words("IPv4", set_name, key, data) == words
