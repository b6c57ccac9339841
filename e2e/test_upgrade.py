"""Upgrades: a new process is started beside the old one, which is told to stop when the new one has taken over.

Whoever asks for health meanwhile is always answered, since the listening sockets are passed on; in mode userspace whoever
connects to a service is, too, and connections that are open go on until they end, or until the old process may drain no longer.
"""

import concurrent.futures
import contextlib
import http.client
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e import topology
from e2e.demo.daemon import Daemon
from e2e.demo.source import Manifests
from e2e.faults import lost, report
from e2e.manifests import NODE_NAME, Directory, address, node, service, slices, synced, until
from e2e.topology import World

PORTS = [("web", "tcp", 80)]
POD_PORTS = [("web", "tcp", 8080)]
HEALTH_PORT = 10256
CHECK_PORT = 31000
ASKED_AFTER = 50
OPEN = 500
RATE = 200


class Asking:
    """Asks over new connections, one after the other, until stopped."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self.answers: list[int | str] = []
        self._ask = ask
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def wait_for_more(self, count: int) -> None:
        wanted = len(self.answers) + count
        until(lambda: len(self.answers) >= wanted, "more answers")

    def _run(self) -> None:
        while not self._stopping.wait(0.002):
            try:
                self.answers.append(self._ask())
            except OSError as error:
                self.answers.append(repr(error))


@pytest.fixture
def world() -> Iterator[World]:
    with topology.world(pods=1) as world:
        topology.serve_on(world.pods, "tcp:8080")
        yield world


@pytest.mark.requires("nftables")
def test_who_asks_for_health_is_answered_all_the_time(world: World, tmp_path: Path) -> None:
    directory = Directory(tmp_path / "manifests")
    directory.put("node", node(world))
    outside = service("web", address(10), PORTS)
    outside["spec"] |= {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": CHECK_PORT,
    }
    directory.put("service", outside)
    directory.put("slices", *slices("web", world.pods, POD_PORTS, world))
    host = world.node.addresses.v4
    arguments = [
        *Manifests(directory.path).arguments,
        *("--state-dir", str(tmp_path / "state")),
        *("--healthz-bind-address", f"0.0.0.0:{HEALTH_PORT}"),
    ]

    def ask(port: int, path: str) -> int:
        with world.node.entered():
            connection = http.client.HTTPConnection(host, port, timeout=10.0)
            with contextlib.closing(connection):
                connection.request("GET", path)
                return connection.getresponse().status

    old, new = (
        Daemon(world.node.namespace, NODE_NAME, arguments, tmp_path / name) for name in ("1", "2")
    )
    old.start()
    synced(old)
    until(lambda: _is_answered(lambda: ask(CHECK_PORT, "/")), "the load balancer is answered")
    with (
        Asking(lambda: ask(HEALTH_PORT, "/livez")) as health,
        Asking(lambda: ask(CHECK_PORT, "/")) as check,
    ):
        new.start()
        until(lambda: any("took over 4 listening" in line for line in new.log()), "it took over")
        old.terminate()
        for asking in (health, check):
            asking.wait_for_more(ASKED_AFTER)
        new.check()

    for asking in (health, check):
        assert set(asking.answers) == {200}


def _is_answered(ask: Callable[[], int]) -> bool:
    try:
        return ask() == 200
    except OSError:
        return False


def test_forwarded_connections_go_on_and_new_ones_are_taken_through_an_upgrade(
    world: World, tmp_path: Path
) -> None:
    directory = Directory(tmp_path / "manifests")
    directory.put("node", node(world))
    directory.put("service", service("web", address(10), PORTS))
    directory.put("slices", *slices("web", world.pods, POD_PORTS, world))
    own = tmp_path / "own.yaml"
    own.write_text(
        "apiVersion: sliceproxy/v1alpha1\nkind: SliceProxyConfiguration\nmode: userspace\n"
        "userspace: {drainTimeout: 60s}\n"
    )
    arguments = [
        *Manifests(directory.path).arguments,
        *("--state-dir", str(tmp_path / "state")),
        *("--sliceproxy-config", str(own)),
    ]
    old, new = (
        Daemon(world.node.namespace, NODE_NAME, arguments, tmp_path / name) for name in ("1", "2")
    )
    old.start()
    synced(old)
    with world.client.load(address(10).v4, 80, rate=RATE, workers=4) as load:
        with contextlib.ExitStack() as stack:
            opened = [
                stack.enter_context(world.client.converse(address(10).v4, 80)) for _ in range(OPEN)
            ]
            partners = [conversation.ask().name for conversation in opened]
            load.wait_for_more(RATE // 4, within_s=20)
            new.start()
            until(lambda: any("programmed" in line for line in new.log()), "it took over")
            with concurrent.futures.ThreadPoolExecutor() as threads:
                ending = threads.submit(old.terminate)
                load.wait_for_more(RATE, within_s=20)
                assert not ending.done()
                assert [conversation.ask().name for conversation in opened] == partners
                stack.close()
                assert ending.result() == 0
        load.wait_for_more(RATE // 4, within_s=20)
        new.check()
        outcomes = load.stop()
        # whoever is told to stop twice waits for nobody
        with world.client.converse(address(10).v4, 80) as conversation:
            conversation.ask()
            (pid,) = world.node.namespace.process_ids()
            os.kill(pid, signal.SIGTERM)
            until(lambda: any("stopping;" in line for line in new.log()), "it was told")
            os.kill(pid, signal.SIGTERM)
            assert new.wait() == 0
    assert "told to stop again" in new.log()[-1]

    report(f"upgrade in mode userspace with {OPEN} open connections, all kept", outcomes)
    assert lost(outcomes) == []
