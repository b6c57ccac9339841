"""Events reach the API server; whatever goes wrong with them is counted, said once, and holds nothing up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from proxy.events_recorder import PATCH_EVERY_S, Recorder, Regarding, node_reference
from proxy.sources.access import Access
from proxy.sources.apiserver import ApiServerSource
from proxy.sources.credentials import Credentials
from proxy.sources.event_writer import EventWriter
from proxy.sources.transport import Transport
from tests.apiserver.faults import Rule
from tests.apiserver.resources import EVENTS
from tests.apiserver.running import Running, running
from tests.unit.proxy.config.loading import settings_of

LIMIT_S = 60.0
NODE = node_reference("n1")
WEB = Regarding(kind="Service", namespace="shop", name="web", uid="u-1")


class Sending:
    """A recorder whose Events are sent to a server."""

    def __init__(self, running: Running) -> None:
        self.now_s = 0.0
        self.recorder = Recorder("n1", clock=lambda: self.now_s)
        self.server = running.server

    def events(self) -> list[dict[str, Any]]:
        return [item.load() for item in self.server.store.items(EVENTS)]

    async def until(self, **results: int) -> None:
        """Wait for some counts."""
        async with asyncio.timeout(LIMIT_S):
            while any(self.recorder.results[name] != n for name, n in results.items()):  # type: ignore[index] # noqa: ASYNC110
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def sending(read: Callable[[str], Access] | None = None) -> AsyncIterator[Sending]:
    async with running() as server, Transport(5.0) as transport:
        sender = Sending(server)
        url = server.server.url
        who = Credentials(lambda: read(url) if read else Access(url, None, {}))
        writer = EventWriter(sender.recorder, who, transport, pause_s=0.001)
        task = asyncio.create_task(writer.run())
        try:
            yield sender
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def live(life: Callable[[Sending], Awaitable[None]]) -> None:
    async def main() -> None:
        async with sending() as sender:
            await life(sender)

    asyncio.run(main())


def test_an_event_is_made_and_then_counted_up() -> None:
    async def life(sender: Sending) -> None:
        sender.recorder.warn(WEB, "FailedToStartServiceHealthcheck", "taken", action="Listen")
        await sender.until(sent=1)
        sender.now_s += PATCH_EVERY_S
        sender.recorder.warn(WEB, "FailedToStartServiceHealthcheck", "taken", action="Listen")
        await sender.until(sent=2)

        [event] = sender.events()
        assert event["metadata"]["namespace"] == "shop"
        assert event["regarding"]["name"] == "web"
        assert event["series"]["count"] == 2
        assert [one.verb for one in sender.server.requests] == ["create", "patch"]

    live(life)


def test_an_event_that_is_there_already_is_fine() -> None:
    async def life(sender: Sending) -> None:
        sender.recorder.warn(WEB, "UnusableField", "x", is_shared=True)
        await sender.until(sent=1)
        other = Recorder("n2", clock=lambda: 0.0)
        other.warn(WEB, "UnusableField", "x", is_shared=True)
        message = other.take()
        assert message is not None
        sender.recorder._enqueue(message.record)
        await sender.until(sent=2)

        assert len(sender.events()) == 1

    live(life)


def test_what_is_forbidden_is_given_up_and_the_rule_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def life(sender: Sending) -> None:
        sender.server.faults.rules = [Rule(resource="events", status=403)]
        sender.recorder.warn(NODE, "Contended", "x")
        sender.recorder.warn(NODE, "NodeUnknown", "y")
        await sender.until(failed=2)

    live(life)
    [record] = caplog.records
    assert "verbs: [create, patch]" in record.getMessage()


def test_a_server_that_is_busy_is_asked_again() -> None:
    async def life(sender: Sending) -> None:
        sender.server.faults.rules = [Rule(resource="events", status=503, count=2)]
        sender.recorder.warn(NODE, "Contended", "x")
        await sender.until(sent=1)

        assert len(sender.events()) == 1
        assert sender.recorder.results["failed"] == 0

    live(life)


def test_a_server_that_stays_away_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        def nobody(_url: str) -> Access:
            return Access("http://127.0.0.1:1", None, {})

        async with sending(nobody) as sender:
            sender.recorder.warn(NODE, "Contended", "x")
            await sender.until(failed=1)

    asyncio.run(main())
    assert len(caplog.records) == 1


def test_an_event_that_has_gone_is_made_anew() -> None:
    async def life(sender: Sending) -> None:
        sender.recorder.warn(NODE, "Contended", "x")
        await sender.until(sent=1)
        [item] = sender.server.store.items(EVENTS)
        sender.server.store.delete(EVENTS, item.key)
        sender.now_s += PATCH_EVERY_S
        sender.recorder.warn(NODE, "Contended", "x")
        await sender.until(sent=2)

        [event] = sender.events()
        assert event["series"]["count"] == 2

    live(life)


def test_refused_credentials_are_read_again() -> None:
    reads: list[str] = []

    def read(url: str) -> Access:
        reads.append(url)
        return Access(url, None, {})

    async def main() -> None:
        async with sending(read) as sender:
            sender.server.faults.rules = [Rule(resource="events", status=401, count=1)]
            sender.recorder.warn(NODE, "Contended", "x")
            await sender.until(sent=1)

    asyncio.run(main())
    assert len(reads) == 2


def test_the_source_of_objects_sends_them_over_its_own_connections() -> None:
    async def main() -> list[dict[str, Any]]:
        async with running(credentials="token") as server:
            argv = ["--kubeconfig", str(server.kubeconfig), "--hostname-override", "n1"]
            recorder = Recorder("n1")
            recorder.normal(NODE, "Starting", "now", action="StartProxy")
            source = ApiServerSource(settings_of(*argv), recorder=recorder)
            task = asyncio.create_task(source.run(lambda _events, _received_s: None))
            async with asyncio.timeout(LIMIT_S):
                while not recorder.results["sent"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return [item.load() for item in server.server.store.items(EVENTS)]

    [event] = asyncio.run(main())
    assert (event["reason"], event["reportingController"]) == ("Starting", "sliceproxy")
