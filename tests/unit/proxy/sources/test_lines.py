"""Lines are the same wherever the pieces end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sources.lines import LineCutter

_LINES = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=8)


@given(_LINES, st.lists(st.integers(1, 7), min_size=1), st.booleans())
def test_lines_are_the_same_wherever_the_pieces_end(
    lines: list[bytes], sizes: list[int], is_terminated: bool
) -> None:
    data = b"\n".join([*lines, b""] if is_terminated else lines)
    cutter = LineCutter(longest=8)
    found: list[bytes | None] = []
    start = 0
    for index in range(len(data)):
        if start < len(data):
            size = sizes[index % len(sizes)]
            found += cutter.cut(data[start : start + size])
            start += size
    found += cutter.rest()

    expected = data.split(b"\n")
    assert found == [line if len(line) <= 8 else None for line in expected]


def test_a_line_that_is_too_long_is_not_kept_and_the_next_one_is() -> None:
    cutter = LineCutter(longest=10)

    for _ in range(1000):
        assert list(cutter.cut(b"x" * 100)) == []
        assert sum(map(len, cutter._parts)) <= 10
    assert list(cutter.cut(b"\nshort\n")) == [None, b"short"]


@pytest.mark.parametrize(
    ("pieces", "is_within"),
    [
        ([], False),
        ([b"ab\n"], False),
        ([b"ab\nc"], True),
        ([b"ab\nc", b"\n"], False),
        ([b"much too long"], True),
        ([b"much too long", b"\n"], False),
    ],
)
def test_it_is_known_whether_a_piece_ended_within_a_line(
    pieces: list[bytes], is_within: bool
) -> None:
    cutter = LineCutter(longest=3)
    for piece in pieces:
        list(cutter.cut(piece))

    assert cutter.is_within_line is is_within
