"""Text and bars for people: a block that is redrawn in place on a terminal, plain lines anywhere else."""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self, TextIO

from proxy.explain_text import Style, ansi

_NARROWEST, _WIDEST = 40, 120
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"


class Piece(NamedTuple):
    """A part of a line, and how it looks where there are colours."""

    text: str
    style: Style | None = None


Line = Sequence[Piece]


class Screen:
    """One output. What is printed stays; the live block moves down below it."""

    def __init__(self, output: TextIO, *, is_live: bool, is_colourful: bool) -> None:
        self.is_live = is_live
        self._is_colourful = is_colourful
        self._output = output
        self._block: list[str] = []
        self.has_blocks = can_encode(output.encoding, _EIGHTHS)

    @classmethod
    def on_stdout(cls) -> Self:
        """As this terminal, or this file, can show it. NO_COLOR: see no-color.org."""
        is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        is_colourful = is_terminal and not os.environ.get("NO_COLOR")
        return cls(sys.stdout, is_live=is_terminal, is_colourful=is_colourful)

    def __enter__(self) -> Self:
        if self.is_live:
            self._write(_HIDE_CURSOR)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_live:
            self._write(_SHOW_CURSOR)

    @property
    def width(self) -> int:
        """Columns to use, as of now: a window can be resized."""
        return min(_WIDEST, max(_NARROWEST, shutil.get_terminal_size().columns))

    def print(self, *pieces: Piece | str) -> None:
        """One line that stays."""
        line = [piece if isinstance(piece, Piece) else Piece(piece) for piece in pieces]
        text = self._paint(line)
        if self._block:
            self._write(f"\x1b[{len(self._block)}A{text}{_CLEAR_LINE}\n{self._rest()}")
        else:
            self._write(f"{text}\n")

    def draw(self, block: Iterable[Line]) -> None:
        """Show the block in place of the one before; on anything but a terminal, nothing."""
        if self.is_live:
            above = f"\x1b[{len(self._block)}A" if self._block else ""
            height = max(1, shutil.get_terminal_size().lines - 1)
            self._block = [self._paint(cut(line, self.width)) for line in block][:height]
            self._write(above + self._rest())

    def keep(self, block: Iterable[Line]) -> None:
        """Show the block a last time: from now on it stays."""
        block = list(block)
        if self.is_live:
            self.draw(block)
        else:
            self._write("".join(f"{self._paint(cut(line, self.width))}\n" for line in block))
        self.leave()

    def leave(self) -> None:
        """Go on below the block, which stays as it was drawn last."""
        self._block = []

    def _rest(self) -> str:
        return "".join(f"{line}{_CLEAR_LINE}\n" for line in self._block) + _CLEAR_BELOW

    def _paint(self, line: Line) -> str:
        text = "".join(
            ansi(text, style) if style and self._is_colourful else text for text, style in line
        )
        return text if self._is_colourful else text.rstrip()

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()


def cut(line: Line, width: int) -> Line:
    """The line, at most `width` columns wide: one that wraps would spoil the redrawing."""
    kept = []
    for text, style in line:
        kept.append(Piece(text[:width], style))
        width -= len(kept[-1].text)
    return kept


def bar(share: float, width: int, *, has_blocks: bool) -> str:
    """A bar for a share between 0 and 1, of `width` columns if it is 1, padded with spaces to that width.

    Any share above 0 shows.
    """
    if not has_blocks:
        filled = max(round(share * width), int(share > 0))
        return ("#" * filled).ljust(width)
    eighths = max(round(share * width * 8), int(share > 0))
    whole, rest = divmod(eighths, 8)
    return (_EIGHTHS[8] * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)


def can_encode(encoding: str | None, text: str) -> bool:
    """Whether an output of that encoding can show the text."""
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
