"""From a source into the cache: until there is no more, or until everything that is there has come once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from proxy import feeding
from proxy.cache import Cache
from proxy.errors import ApiError, ConfigError
from proxy.feeding import feed, read_all
from proxy.model import NodeInfo, Rejected
from proxy.sources.events import Deliver, Event, Problems, Synced, Upsert, WatchReport
from tests.daemon import listed
from tests.model_builders import make_key, make_service, make_slice

WEB = make_key("default/web")


def report(kind: str, phase: str = "watching", error: str = "") -> WatchReport:
    values: dict[str, Any] = dict.fromkeys(WatchReport.__struct_fields__)
    return WatchReport(**(values | {"kind": kind, "phase": phase, "error": error}))


class Speaking:
    """A source that says what it is told to, in steps, and then nothing more or no more.

    `reports` are given in turn to whoever asks, the last one again and again.
    """

    def __init__(
        self,
        *steps: Sequence[Event] | Exception,
        reports: Sequence[WatchReport] = (),
        ends: bool = False,
    ) -> None:
        self._steps = steps
        self._ends = ends
        self.reports = list(reports)

    def report(self) -> Sequence[WatchReport]:
        found = self.reports[:1]
        if len(self.reports) > 1:
            del self.reports[0]
        return found

    async def run(self, deliver: Deliver) -> None:
        for step in self._steps:
            await asyncio.sleep(0)
            if isinstance(step, Exception):
                raise step
            deliver(step, 0.0)
        if not self._ends:
            await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "_LOOK_S", 0.0)
    monkeypatch.setattr(feeding, "OPTIONAL_S", 0.05)


def read(source: Speaking, limit_s: float = 60.0) -> tuple[Cache, list[str]]:
    cache = Cache(NodeInfo(name="n1"))
    missing = asyncio.run(read_all(source, cache, limit_s))
    return cache, missing


@pytest.mark.parametrize("ends", [False, True])
def test_it_is_read_until_every_kind_was_listed(ends: bool) -> None:
    source = Speaking([Upsert(make_service())], [Upsert(make_slice())], listed(), ends=ends)

    cache, missing = read(source)

    assert list(cache.services) == [WEB.name.service]
    assert (cache.unlisted, missing) == (frozenset(), [])


def test_what_need_not_be_there_is_waited_for_until_it_is_known_or_known_not_to_be_there() -> None:
    asked, failed = report("ServiceCIDR", "listing"), report("ServiceCIDR", "waiting", "500")
    source = Speaking(listed(), reports=[asked, failed, asked, report("ServiceCIDR", "waiting")])

    _, missing = read(source)

    assert (len(source.reports), missing) == (1, [])


def test_what_need_not_be_there_is_not_waited_for_for_long() -> None:
    _, missing = read(Speaking(listed(), reports=[report("ServiceCIDR", "waiting", "forbidden")]))

    assert missing == ["ServiceCIDR: forbidden"]


def test_that_other_kinds_have_trouble_once_they_were_listed_is_no_reason_to_wait() -> None:
    _, missing = read(Speaking(listed(), reports=[report("Service", "waiting", "closed")]))

    assert missing == []


def test_who_does_not_answer_in_time_is_named_and_why() -> None:
    source = Speaking(
        listed(but="EndpointSlice"),
        reports=[report("EndpointSlice", "waiting", "connection refused")],
    )

    with pytest.raises(ApiError, match=r"within 0\.01 s: EndpointSlice: connection refused"):
        read(source, limit_s=0.01)


def test_without_the_own_node_it_goes_on_as_a_start_does() -> None:
    _, missing = read(Speaking(listed(but="Node")), limit_s=0.01)

    assert missing == ["Node: no answer"]


def test_a_file_that_cannot_be_read_is_named_where_nothing_else_comes() -> None:
    rejected = Rejected(kind="File", name="objects.yaml", field="", reason="Permission denied")

    with pytest.raises(ApiError, match=r"objects\.yaml.*Permission denied"):
        read(Speaking([Problems("File objects.yaml", (rejected,))]), limit_s=0.01)


@pytest.mark.parametrize("is_once", [True, False])
def test_a_stream_that_ends_too_soon_is_an_error(is_once: bool) -> None:
    source, cache = Speaking([Synced("Service")], ends=True), Cache(NodeInfo(name="n1"))

    with pytest.raises(ConfigError, match="before it had listed every EndpointSlice, Node"):
        asyncio.run(read_all(source, cache, 60.0) if is_once else feed(source, cache.apply, cache))


def test_that_nothing_can_be_read_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot read objects: no such file"):
        read(Speaking(OSError("no such file")))
