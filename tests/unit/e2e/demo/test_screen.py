"""What the demo's output looks like on a terminal, where lines are drawn again, and anywhere else."""

import io
import re
from collections.abc import Iterable

import pytest

from e2e.demo import screen
from e2e.demo.screen import Line, Piece, Screen, bar, cut


class Output(io.StringIO):
    """A stream of an encoding."""

    def __init__(self, encoding: str = "utf-8", *, is_terminal: bool = False) -> None:
        super().__init__()
        self._encoding = encoding
        self._is_terminal = is_terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has it writable
        return self._encoding

    def isatty(self) -> bool:
        return self._is_terminal


def shown(output: str) -> list[str]:
    """The lines a terminal shows after this output. Refuses what it does not know."""
    lines, row = [""], 0
    for token in re.findall(r"\x1b\[\??\d*[A-Za-z]|\n|[^\x1b\n]+", output):
        if token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
            column = 0
        elif up := re.fullmatch(r"\x1b\[(\d+)A", token):
            row -= int(up[1])
            assert row >= 0
        elif token == "\x1b[K":
            lines[row] = lines[row][:column]
        elif token == "\x1b[J":
            lines[row + 1 :] = []
            lines[row] = ""
        elif re.fullmatch(r"\x1b\[(\d*m|\?25[lh])", token):
            pass
        else:
            assert "\x1b" not in token
            lines[row] = token + lines[row][len(token) :]
            column = len(token)
    assert lines.pop() == ""
    return lines


def block(*texts: str) -> Iterable[Line]:
    return [[Piece(text)] for text in texts]


@pytest.fixture
def terminal() -> Output:
    return Output(is_terminal=True)


@pytest.fixture
def live(terminal: Output) -> Screen:
    return Screen(terminal, is_live=True, is_colourful=False)


def test_a_block_is_drawn_over_the_one_before(terminal: Output, live: Screen) -> None:
    live.print("title")
    live.draw(block("web-1 ######", "web-2 ##"))
    live.draw(block("web-1 #", "web-2 #######"))

    assert shown(terminal.getvalue()) == ["title", "web-1 #", "web-2 #######"]


def test_a_block_that_shrinks_leaves_nothing_behind(terminal: Output, live: Screen) -> None:
    live.draw(block("one", "two", "three"))
    live.draw(block("two"))

    assert shown(terminal.getvalue()) == ["two"]


def test_what_is_printed_stays_above_the_block(terminal: Output, live: Screen) -> None:
    live.draw(block("a long first line", "second"))
    live.print("event")
    live.print("another event")

    assert shown(terminal.getvalue()) == ["event", "another event", "a long first line", "second"]


def test_a_block_that_is_kept_is_not_drawn_over(terminal: Output, live: Screen) -> None:
    live.draw(block("then"))
    live.keep(block("now"))
    live.print("event")
    live.draw(block("later"))

    assert shown(terminal.getvalue()) == ["now", "event", "later"]


def test_a_block_that_is_left_stays_as_it_was(terminal: Output, live: Screen) -> None:
    live.draw(block("bars"))
    live.leave()
    live.print("the end")

    assert shown(terminal.getvalue()) == ["bars", "the end"]


def test_the_cursor_is_hidden_only_meanwhile(terminal: Output, live: Screen) -> None:
    with live:
        live.print("text")

    assert terminal.getvalue() == "\x1b[?25ltext\n\x1b[?25h"


def test_a_live_line_never_wraps(
    monkeypatch: pytest.MonkeyPatch, terminal: Output, live: Screen
) -> None:
    monkeypatch.setenv("COLUMNS", "50")

    live.draw(block("x" * 60))

    assert shown(terminal.getvalue()) == ["x" * 50]


def test_a_block_higher_than_the_terminal_is_cut(
    monkeypatch: pytest.MonkeyPatch, terminal: Output, live: Screen
) -> None:
    monkeypatch.setenv("LINES", "3")

    live.draw(block("one", "two", "three"))

    assert shown(terminal.getvalue()) == ["one", "two"]


def test_a_file_gets_plain_lines_and_only_what_stays() -> None:
    output = Output()
    with Screen(output, is_live=False, is_colourful=False) as plain:
        plain.print("title ", Piece("bold", "bold"), "   ")
        plain.draw(block("not for files"))
        plain.keep(block("bars"))

    assert output.getvalue() == "title bold\nbars\n"


def test_colours_stand_around_their_piece() -> None:
    output = Output()

    Screen(output, is_live=False, is_colourful=True).print("a ", Piece("b", "green"))

    assert output.getvalue() == "a \x1b[32mb\x1b[0m\n"


@pytest.mark.parametrize(
    ("is_terminal", "environment", "is_live", "is_colourful"),
    [
        (True, {"TERM": "xterm"}, True, True),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        (True, {"TERM": "dumb"}, False, False),
        (True, {}, False, False),
        (False, {"TERM": "xterm"}, False, False),
    ],
    ids=["terminal", "NO_COLOR", "dumb", "no TERM", "pipe"],
)
def test_the_output_decides_what_is_used(
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
    environment: dict[str, str],
    is_live: bool,
    is_colourful: bool,
) -> None:
    output = Output(is_terminal=is_terminal)
    monkeypatch.setattr("sys.stdout", output)
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    found = Screen.on_stdout()
    found.print(Piece("text", "red"))

    assert found.is_live is is_live
    assert ("\x1b" in output.getvalue()) is is_colourful


@pytest.mark.parametrize(
    ("columns", "width"), [("10", 40), ("80", 80), ("500", 120)], ids=["tiny", "usual", "huge"]
)
def test_the_width_stays_readable(
    monkeypatch: pytest.MonkeyPatch, live: Screen, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    assert live.width == width


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, "        "),
        (0.001, "▏       "),
        (0.5, "████    "),
        (0.55, "████▍   "),
        (1.0, "████████"),
    ],
)
def test_a_bar_is_as_long_as_its_share(share: float, expected: str) -> None:
    assert bar(share, 8, has_blocks=True) == expected


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, "    "), (0.01, "#   "), (0.5, "##  "), (1.0, "####")]
)
def test_a_bar_needs_no_more_than_ascii(share: float, expected: str) -> None:
    assert bar(share, 4, has_blocks=False) == expected


@pytest.mark.parametrize(
    ("encoding", "has_blocks"), [("utf-8", True), ("ascii", False), ("latin-1", False)]
)
def test_blocks_are_used_where_they_can_be_shown(encoding: str, has_blocks: bool) -> None:
    found = Screen(Output(encoding), is_live=False, is_colourful=False)

    assert found.has_blocks is has_blocks


def test_an_output_of_no_known_encoding_gets_ascii() -> None:
    assert not screen.can_encode(None, "█")
    assert not screen.can_encode("no-such-encoding", "a")


def test_a_line_is_cut_across_its_pieces() -> None:
    line = [Piece("abc"), Piece("def", "green"), Piece("ghi")]

    assert "".join(piece.text for piece in cut(line, 5)) == "abcde"
    assert cut(line, 5)[1] == Piece("de", "green")
