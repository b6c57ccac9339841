import argparse
import asyncio
import contextlib
import socket
from collections.abc import Mapping

import aiohttp
import pytest

from proxy.announcer import Announcer
from proxy.config import load
from proxy.config.flags import add_flags
from proxy.config.settings import Settings
from proxy.conntrack_sweeper import Sweeper
from proxy.events_recorder import Recorder
from proxy.listeners import Listeners
from proxy.meter import Meter
from proxy.parts import Parts
from proxy.server import guard, servers
from proxy.sources.events import Deliver, WatchReport
from proxy.verifier import Verifier
from tests.fakes.conntrack import FakeFlows
from tests.ports import free_port
from tests.unit.proxy.server.serving_debug import make_reconciler, shop

ALLOWING = b"apiVersion: sliceproxy/v1alpha1\nkind: SliceProxyConfiguration\ndebug: {allowNonLoopback: true}\n"


class Nothing:
    """A source that says nothing."""

    async def run(self, deliver: Deliver) -> None:
        raise NotImplementedError

    def report(self) -> tuple[WatchReport, ...]:
        return ()


def settings(*flags: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    args = parser.parse_args([*flags, "--manifests", "x"])
    return load.load(args, hostname="n1", read_file=lambda _: ALLOWING)[0]


def ask(
    settings: Settings,
    *urls: str,
    headers: Mapping[str, str] | None = None,
    recorder: Recorder | None = None,
) -> list[tuple[int, str]]:
    """Return status and body of each URL, or (0, why) where nothing answers."""

    async def main() -> list[tuple[int, str]]:
        reconciler = make_reconciler(shop())
        reconciling = asyncio.create_task(reconciler.run())
        await reconciler.is_synced.wait()
        sweeper = Sweeper(reconciler, FakeFlows())
        events = recorder or Recorder("n1")
        parts = Parts(
            *(settings, Nothing(), reconciler, Verifier(reconciler), sweeper, Meter()),
            *(events, Announcer(events, "n1"), Listeners()),
        )
        serving = asyncio.create_task(servers.run(parts, []))
        try:
            async with aiohttp.ClientSession(headers=headers) as session:
                return [await get(session, url) for url in urls]
        finally:
            for task in (serving, reconciling):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def get(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
        for _ in range(100):  # until it listens
            try:
                async with session.get(url, allow_redirects=False) as response:
                    return response.status, await response.text()
            except aiohttp.ClientConnectorError as error:
                refused = str(error)
                await asyncio.sleep(0.01)
        return 0, refused

    return asyncio.run(main())


def test_each_page_is_at_the_address_the_settings_name() -> None:
    health, metrics = free_port(), free_port()
    given = settings(
        "--healthz-bind-address",
        f"127.0.0.1:{health}",
        "--metrics-bind-address",
        f"127.0.0.1:{metrics}",
    )
    answers = ask(
        given,
        *[f"http://127.0.0.1:{health}/{page}" for page in ("healthz", "livez", "readyz")],
        *[
            f"http://127.0.0.1:{metrics}/{page}"
            for page in ("metrics", "proxyMode", "debug/state")
        ],
        f"http://127.0.0.1:{metrics}/configz",
    )

    assert [status for status, _ in answers] == [200] * 7
    assert "kubeproxy_sync_proxy_rules_duration_seconds" in answers[3][1]
    assert answers[4][1] == "null"
    assert f'"metricsBindAddress":"127.0.0.1:{metrics}"' in answers[6][1]


@pytest.mark.parametrize(
    ("is_allowed", "is_from_here", "status"),
    [(False, True, 200), (False, False, 404), (True, False, 200)],
)
def test_where_others_can_ask_debug_pages_are_for_this_host_unless_they_are_allowed_to_all(
    is_allowed: bool, is_from_here: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_from_here:
        monkeypatch.setattr(guard, "came_to_loopback", lambda _: False)
    port = free_port()
    given = settings(
        *("--healthz-bind-address", "", "--metrics-bind-address", f"0.0.0.0:{port}"),
        *(("--sliceproxy-config", "own.yaml") if is_allowed else ()),
    )
    pages = [f"http://127.0.0.1:{port}/{page}" for page in ("metrics", "debug/state")]

    assert [found for found, _ in ask(given, *pages)] == [200, status]
    foreign = {"Host": "node-1.example"}
    assert [found for found, _ in ask(given, *pages, headers=foreign)] == [
        200,
        404 if status == 404 else 403,
    ]


def test_a_taken_port_is_told_in_an_event_and_the_other_is_served() -> None:
    recorder = Recorder("n1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        metrics = free_port()
        given = settings(
            *("--healthz-bind-address", f"127.0.0.1:{taken.getsockname()[1]}"),
            *("--metrics-bind-address", f"127.0.0.1:{metrics}"),
        )
        [(status, _)] = ask(given, f"http://127.0.0.1:{metrics}/metrics", recorder=recorder)

    assert status == 200
    message = recorder.take()
    assert message is not None
    assert message.body["reason"] == "FailedToStartProxierHealthcheck"


def test_what_is_switched_off_is_not_served() -> None:
    given = settings("--healthz-bind-address", "", "--metrics-bind-address", "")

    assert ask(given, "http://127.0.0.1:10256/healthz")[0][0] == 0


@pytest.mark.parametrize(
    ("host", "is_loopback"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False)]
)
def test_loopback_is_told_from_other_addresses(host: str, *, is_loopback: bool) -> None:
    assert servers.is_loopback(host) is is_loopback
