"""The lines of the demo, and that they say what was counted."""

import pytest

from e2e.client import Answer, Failure, Timed
from e2e.demo import board
from e2e.demo.board import Row
from e2e.demo.screen import Line
from e2e.demo.slices import Pod
from e2e.demo.tally import Tally
from e2e.topology import Addresses

WEB_1 = Pod("web-1", "node-a", "zone-a", Addresses("10.244.1.2", "fd00::2"))
WEB_2 = Pod("web-2", "node-b", "zone-b", Addresses("10.244.2.2", "fd00::3"))
ANSWER = Answer("web-1", "192.0.2.1", 40000)


def text(line: Line) -> str:
    return "".join(piece.text for piece in line)


def tally_of(answered: int, failed: int, *, per_second: int = 250) -> Tally:
    tally = Tally()
    for number in range(answered + failed):
        outcome = Failure.REFUSED if number < failed else ANSWER
        tally.add("outside IPv4", Timed(100.0 + number / per_second, 0.001, outcome))
    return tally


def test_bars_show_the_share_of_each_pod_and_the_count_so_far() -> None:
    rows = [Row(WEB_1, "ready", 300), Row(WEB_2, "terminating", 100)]

    lines = board.bars(rows, tally_of(1200, 0), 80, has_blocks=False)

    assert [text(line).rstrip() for line in lines] == [
        "      POD     ZONE    LISTED AS   ANSWERS IN THE LAST SECOND",
        f"      web-1   zone-a  ready       300 {'#' * 30}",
        f"      web-2   zone-b  terminating 100 {'#' * 10}",
        "      so far 1,200 connections, 0 failed",
    ]


def test_pods_without_any_answer_have_no_bar() -> None:
    lines = board.bars([Row(WEB_1, "-", 0)], tally_of(0, 0), 80, has_blocks=True)

    assert text(lines[1]).rstrip() == "      web-1   zone-a  -             0"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_bars_fit_the_width(width: int) -> None:
    rows = [Row(WEB_1, "terminating", 400)]

    bar_line = board.bars(rows, tally_of(400, 0), width, has_blocks=True)[1]

    assert len(text(bar_line)) <= max(width, 45)


def test_failed_connections_stand_out_while_the_demo_runs() -> None:
    last = board.bars([], tally_of(7, 3), 80, has_blocks=True)[-1]

    assert text(last) == "      so far 10 connections, 3 failed"
    assert last[-1].style == "red"


def test_what_was_measured_is_aligned_to_the_right_within_the_width() -> None:
    wide = text(board.measured("web-4 joins", "first answer after", 0.0124, 120))
    narrow = text(board.measured("web-4 joins", "first answer after", 1.2345, 60))

    assert (len(wide), wide.split()[-2:]) == (78, ["12", "ms"])
    assert (len(narrow), narrow.split()[-2:]) == (60, ["1234", "ms"])


def test_a_heading_ends_with_the_time_at_the_edge() -> None:
    heading = text(board.heading(2, 7, "Roll out", 12.4, 60))

    assert heading.startswith("[2/7] Roll out  ")
    assert heading.endswith(" 12 s")
    assert len(heading) == 60


def test_each_failed_connection_is_listed_with_client_time_and_kind() -> None:
    tally = Tally()
    tally.add("local IPv6", Timed(105.25, 1.0, Failure.TIMEOUT))

    assert [text(line) for line in board.failures(tally.failures, 100.0)] == [
        "failed: local IPv6, begun 5.250 s after the start: timeout after 1000 ms"
    ]


def test_of_many_failed_connections_the_first_are_listed_and_the_rest_counted() -> None:
    lines = board.failures(tally_of(0, 25).failures, 100.0)

    assert len(lines) == 11
    assert text(lines[-1]) == "and 15 more"


def test_a_load_that_was_too_slow_is_not_hidden() -> None:
    (line,) = board.pace(tally_of(1000, 0, per_second=200))
    assert text(line) == "New connections per second: 200 on average, 200 in the slowest second"

    slow = [text(line) for line in board.pace(tally_of(1000, 0, per_second=199))]
    assert slow[1:] == ["That is below 200: this machine is busy"]
    assert max(map(len, slow)) <= 80


def test_selected_endpoints_stand_out_from_the_others() -> None:
    rows = ["ENDPOINT  CLUSTER LIST", "a         + ready", "b         - terminating"]

    styles = [line[-1].style for line in board.explained("shop/web", rows)]

    assert styles == ["dim", "dim", "green", "dim"]


def test_a_long_command_is_continued_as_a_shell_takes_it() -> None:
    lines = board.wrapped("$ program --first-option one --second two", 24, ending=" \\")

    assert lines == ["$ program \\", "--first-option one \\", "--second two"]
