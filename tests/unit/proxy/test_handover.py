"""What other modes have left is removed once everything is programmed, and again if that fails."""

import asyncio
import errno
import itertools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

from proxy import handover
from proxy.backend import Backend, Retired
from proxy.errors import KernelError, ProxyError, Unsupported
from tests.fakes import clock
from tests.fakes.backend import FakeBackend
from tests.fakes.clock import JumpingClock

DENIED: Final = KernelError("remove virtual servers", errno.EPERM, "not permitted")


class Leaving(FakeBackend):
    """A backend that gives way as it is told, answer by answer; then nothing of it is left."""

    def __init__(self, *answers: Retired | ProxyError) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked_at: list[float] = []
        self.is_closed = False

    async def retire(self) -> Retired:
        self.asked_at.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if self.answers else Retired()
        if isinstance(answer, ProxyError):
            raise answer
        return answer

    def close(self) -> None:
        self.is_closed = True


class Site:
    """A proxy of another mode, which has something of some others before it."""

    def __init__(self, *errors: ProxyError, **others: Leaving) -> None:
        """`errors` keep backends from being made, one after the other."""
        self.others = others
        self._errors = list(errors)
        self.is_synced = asyncio.Event()
        self._clock = JumpingClock()

    @property
    def now_s(self) -> float:
        return self._clock.now_s

    def create(self, name: str) -> Backend[Any, Any]:
        if self._errors:
            raise self._errors.pop(0)
        return self.others[name]

    def live(self, life: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run until nothing is left to do."""

        async def main() -> None:
            living = asyncio.create_task(life())
            await handover.run(self.is_synced, self.others, self.create)
            await living

        clock.run(self._clock, main)

    def sync(self) -> None:
        """Run, with everything programmed from the start."""

        async def life() -> None:
            self.is_synced.set()

        self.live(life)


def waits(backend: Leaving) -> list[float]:
    """How long it was left alone between two questions."""
    asked = backend.asked_at
    return [round(then - now, 3) for now, then in itertools.pairwise(asked)]


def test_nothing_is_touched_before_everything_is_programmed() -> None:
    backend = Leaving()
    site = Site(ipvs=backend)

    async def life() -> None:
        await asyncio.sleep(3600)
        assert backend.asked_at == []
        site.is_synced.set()

    site.live(life)

    assert len(backend.asked_at) == 1
    assert backend.is_closed


def test_what_was_removed_is_logged_and_what_the_rest_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = Leaving(
        Retired(removed=("3 virtual servers",), waits_for="2 connections", again_s=5.0),
        Retired(waits_for="1 connections", again_s=5.0),
        Retired(removed=("device x", "2 nftables tables")),
    )
    with caplog.at_level(logging.INFO):
        Site(ipvs=backend).sync()

    assert caplog.messages == [
        "left by mode ipvs, removed: 3 virtual servers",
        "left by mode ipvs, waits for 2 connections to end",
        "left by mode ipvs, removed: device x, 2 nftables tables",
    ]
    assert waits(backend) == [5.0, 5.0]


def test_where_nothing_is_left_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="proxy"):
        Site(ipvs=Leaving(), nftables=Leaving()).sync()

    assert caplog.messages == []


def test_a_failure_is_a_warning_with_a_way_out_and_is_tried_again_less_and_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = Leaving(*[DENIED] * 9)
    with caplog.at_level(logging.WARNING):
        Site(ipvs=backend).sync()

    [warning] = caplog.messages
    assert "`sliceproxy cleanup --mode ipvs`" in warning
    assert "remove virtual servers: not permitted" in warning
    assert waits(backend) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert backend.is_closed


def test_after_a_success_a_failure_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    going = Retired(waits_for="2 connections", again_s=5.0)
    backend = Leaving(DENIED, DENIED, going, DENIED)
    with caplog.at_level(logging.WARNING):
        Site(ipvs=backend).sync()

    assert waits(backend) == [1.0, 2.0, 5.0, 1.0]
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    "error",
    [
        Unsupported("IPVS", "this kernel has none"),
        KernelError("open a netlink socket", errno.EPROTONOSUPPORT, "Protocol not supported"),
    ],
    ids=["unsupported", "no such protocol"],
)
@pytest.mark.parametrize("is_made", [False, True], ids=["when made", "when asked"])
def test_of_a_mode_that_the_kernel_is_unable_to_do_nothing_can_be_left(
    error: ProxyError, caplog: pytest.LogCaptureFixture, *, is_made: bool
) -> None:
    backend = Leaving(error)
    site = Site(ipvs=backend) if is_made else Site(error, ipvs=backend)
    with caplog.at_level(logging.INFO):
        site.sync()

    assert (len(backend.asked_at), backend.is_closed) == (is_made, is_made)
    assert caplog.messages == []


def test_a_backend_that_cannot_be_made_now_is_tried_again() -> None:
    backend = Leaving()
    Site(
        KernelError("open a netlink socket", errno.EMFILE, "Too many open files"), ipvs=backend
    ).sync()

    assert len(backend.asked_at) == 1


def test_one_that_takes_long_keeps_no_other_waiting() -> None:
    slow = Leaving(*[Retired(waits_for="1 connections", again_s=5.0)] * 100)
    quick = Leaving()
    site = Site(ipvs=slow, nftables=quick)
    site.sync()

    assert quick.asked_at[0] < slow.asked_at[1]
