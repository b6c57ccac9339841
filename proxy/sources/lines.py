"""Bytes that arrive in pieces, cut into lines.

Pure. Pieces end anywhere, also inside a character; a line is handed on when its end has come, and never kept when it
is longer than any object can be.
"""

from collections.abc import Iterator
from typing import Final

# An object cannot be larger than etcd's 1.5 MiB, or some MiB where that limit was raised.
LONGEST_LINE_BYTES: Final = 16 << 20


class LineCutter:
    """Cuts pieces of bytes, which may end anywhere, into lines without their ends."""

    def __init__(self, longest: int = LONGEST_LINE_BYTES) -> None:
        self._longest = longest
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def is_within_line(self) -> bool:
        """Whether the last piece ended before the line did."""
        return self._size > 0

    def cut(self, piece: bytes) -> Iterator[bytes | None]:
        """Yield the lines that are complete with `piece`; None for one that was too long. Exhaust before the next."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            self._add(piece[start:end])
            yield from self.rest()
            start = end + 1
        self._add(piece[start:])

    def rest(self) -> Iterator[bytes | None]:
        """Yield the line collected so far, even if it is empty."""
        line = b"".join(self._parts) if self._size <= self._longest else None
        self._parts.clear()
        self._size = 0
        yield line

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._longest:
            self._parts.append(part)
        else:
            self._parts.clear()
