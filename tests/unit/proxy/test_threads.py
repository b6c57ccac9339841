"""Calls in a thread: what they return and raise, and that nobody leaves before they have ended."""

import asyncio
import sys
import threading

import pytest

from proxy.errors import KernelError
from proxy.threads import switch_often, to_thread


def test_what_a_call_returns_is_returned_from_another_thread() -> None:
    def where(number: int, *, text: str) -> tuple[int, int, str]:
        return threading.get_ident(), number, text

    ident, *given = asyncio.run(to_thread(where, 1, text="two"))

    assert ident != threading.get_ident()
    assert given == [1, "two"]


def test_what_a_call_raises_is_raised() -> None:
    def refuse() -> None:
        raise KernelError("dump", 1, "Operation not permitted")

    with pytest.raises(KernelError, match="not permitted"):
        asyncio.run(to_thread(refuse))


@pytest.mark.parametrize("fails", [False, True])
def test_cancelling_waits_for_the_end_of_the_call(fails: bool) -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    ended: list[str] = []

    def slow() -> None:
        has_begun.set()
        may_end.wait()
        ended.append("call")
        if fails:
            raise KernelError("dump", 1, "Operation not permitted")

    async def main() -> None:
        task = asyncio.create_task(to_thread(slow))
        await asyncio.to_thread(has_begun.wait)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        ended.append("caller")

    asyncio.run(main())

    assert ended == ["call", "caller"]


def test_the_loop_does_not_wait_long_for_a_thread_that_computes() -> None:
    before_s = sys.getswitchinterval()
    try:
        switch_often()
        assert sys.getswitchinterval() < 0.001
    finally:
        sys.setswitchinterval(before_s)
