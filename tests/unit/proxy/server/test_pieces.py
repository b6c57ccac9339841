"""Work in pieces: its result comes back, its errors too, and others run in between. Over HTTP: test_debug."""

import asyncio
from collections.abc import Generator

import pytest

from proxy.server import pieces


def work(steps: int) -> Generator[None, None, int]:
    for _ in range(steps):
        yield
    return steps


def turns_of(steps: int) -> tuple[int, int]:
    """Return the result, and how often another task ran meanwhile."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> int:
        task = asyncio.create_task(other())
        result = await pieces.in_pieces(work(steps))
        task.cancel()
        return result

    return asyncio.run(main()), turns


def test_others_run_after_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_S", 0.0)

    assert turns_of(50) == (50, 50)


def test_short_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_S", 3600.0)

    assert turns_of(50) == (50, 0)


def test_an_error_in_a_step_is_the_callers() -> None:
    def broken() -> Generator[None, None, None]:
        yield
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        asyncio.run(pieces.in_pieces(broken()))
