"""Mode userspace when endpoints, clients and the system misbehave: others are unaffected, memory and files bounded, no busy loop.

One namespace is node, clients and endpoints. `--whole` makes many more connections.
"""

import contextlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from e2e.demo.daemon import Daemon
from e2e.flows.tally import FIGURES
from e2e.manifests import NODE_NAME, Directory, synced, until
from e2e.namespace import Namespace
from tests.builders import make_endpoint, make_node, make_service, make_slice
from tests.effort import patience_s

pytestmark = pytest.mark.requires("userspace")

VIP: Final = "10.96.0.10"
ENDPOINT: Final = "10.1.0.1"
GOOD: Final = 80
BAD: Final = 81
FEW: Final = 3_000
MANY: Final = 200_000
_RESET: Final = struct.pack("ii", 1, 0)
_LIMIT_S: Final = patience_s(10.0)
_SMALL_KB: Final = 24 * 1024
"""More memory than this is not taken for some misbehaviour."""


class Site:
    """A daemon that forwards to endpoints in the same namespace: a good one, and one that does as a test likes."""

    def __init__(self, namespace: Namespace, daemon: Daemon, pid: int) -> None:
        self.namespace = namespace
        self.daemon = daemon
        self.pid = pid

    def connect(self, port: int = GOOD) -> socket.socket:
        with self.namespace.entered():
            return socket.create_connection((VIP, port), timeout=_LIMIT_S)

    def ask(self, port: int = GOOD) -> bytes:
        with self.connect(port) as client:
            client.send(b"?")
            return client.recv(100)

    @contextlib.contextmanager
    def endpoint(self, port: int, serve: Callable[[socket.socket], None]) -> Iterator[None]:
        """An endpoint of that port does so with each client, which it then closes."""
        with self.namespace.entered():
            listener = socket.create_server((ENDPOINT, port), backlog=4096)

        def work() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, contextlib.suppress(OSError):
                    serve(client)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(_LIMIT_S)

    @property
    def files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @property
    def memory_kb(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = [each for each in status.splitlines() if each.startswith("VmRSS")]
        return int(line.split()[1])

    @property
    def spent_s(self) -> float:
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9


def answer(client: socket.socket) -> None:
    client.recv(1024)
    client.send(b"good")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Namespace("faults") as namespace, tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        namespace.ip(f"address add {ENDPOINT}/32 dev lo", "address add 192.0.2.1/32 dev lo")
        names = {"good": (GOOD, 8080), "bad": (BAD, 8081)}
        Directory(directory / "manifests").put(
            "objects",
            make_node(NODE_NAME, internal_ips=["192.0.2.1"]),
            make_service(
                "web",
                cluster_ips=[VIP],
                ports=[
                    {"name": name, "protocol": "TCP", "port": port}
                    for name, (port, _) in names.items()
                ],
            ),
            make_slice(
                "web-1",
                service="web",
                address_type="IPv4",
                ports=[
                    {"name": name, "protocol": "TCP", "port": port}
                    for name, (_, port) in names.items()
                ],
                endpoints=[make_endpoint(ENDPOINT, node=NODE_NAME)],
            ),
        )
        arguments = ["--manifests", str(directory / "manifests"), "--proxy-mode", "userspace"]
        arguments += ["--state-dir", str(directory / "state")]
        daemon = Daemon(namespace, NODE_NAME, arguments, directory / "log")
        daemon.start()
        synced(daemon)
        (pid,) = namespace.process_ids()
        made = Site(namespace, daemon, pid)
        with made.endpoint(8080, answer):
            assert made.ask() == b"good"
            yield made
        daemon.terminate()


def test_an_endpoint_that_never_answers_keeps_nobody_else_waiting(site: Site) -> None:
    is_over = threading.Event()

    def keep_silent(client: socket.socket) -> None:
        is_over.wait(_LIMIT_S)

    with site.endpoint(8081, keep_silent), contextlib.ExitStack() as waiting:
        for _ in range(50):
            waiting.enter_context(site.connect(BAD)).send(b"?")
        before_s = site.spent_s
        assert [site.ask() for _ in range(20)] == [b"good"] * 20
        assert site.spent_s - before_s < patience_s(1.0)
        is_over.set()


def test_an_endpoint_that_resets_has_its_clients_reset_and_no_others(site: Site) -> None:
    def reset(client: socket.socket) -> None:
        client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    before = site.files
    with site.endpoint(8081, reset):
        for _ in range(50):
            with pytest.raises(ConnectionResetError):
                site.ask(BAD)
            assert site.ask() == b"good"
    until(lambda: site.files <= before, "all files are closed again")


def test_a_client_that_never_reads_costs_little_memory_and_delays_nobody(site: Site) -> None:
    def say_much(client: socket.socket) -> None:
        client.settimeout(_LIMIT_S)
        block = bytes(1 << 20)
        while not is_over.is_set():
            try:
                client.settimeout(0.1)
                client.send(block)
            except TimeoutError:
                continue

    is_over = threading.Event()
    before_kb = site.memory_kb
    with site.endpoint(8081, say_much), contextlib.ExitStack() as waiting:
        lazy = waiting.enter_context(site.connect(BAD))
        # it has said what there is room for, on both sides
        until(lambda: _is_at_rest(site), "the forwarder has nothing more to do")
        assert [site.ask() for _ in range(20)] == [b"good"] * 20
        assert site.memory_kb - before_kb < _SMALL_KB
        assert lazy.recv(1 << 20)
        is_over.set()


def _is_at_rest(site: Site) -> bool:
    before_s = site.spent_s
    time.sleep(0.2)
    return site.spent_s - before_s < 0.1


def test_without_files_others_wait_and_nothing_spins(site: Site) -> None:
    def keep_silent(client: socket.socket) -> None:
        is_over.wait(_LIMIT_S)

    is_over = threading.Event()
    soft, hard = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)
    before = site.files
    with site.endpoint(8081, keep_silent), contextlib.ExitStack() as waiting:
        resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (before + 40, hard))
        try:
            clients = [waiting.enter_context(site.connect(BAD)) for _ in range(60)]
            until(lambda: site.files >= before + 38, "all files are in use")
            before_s, begun_s = site.spent_s, time.monotonic()
            time.sleep(1.0)
            share = (site.spent_s - before_s) / (time.monotonic() - begun_s)
            assert share < 0.4, f"{share:.0%} of a processor while nothing can be done"
            for client in clients:
                client.close()
            is_over.set()
            until(lambda: site.files < before + 20, "files are free again")
            assert site.ask() == b"good"
        finally:
            resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (soft, hard))


def test_many_short_connections_leave_nothing_behind(
    site: Site, request: pytest.FixtureRequest
) -> None:
    count = MANY if request.config.getoption("--whole") else FEW
    _ask_often(site, FEW)  # what grows once is not counted
    files, memory_kb = site.files, site.memory_kb

    done, failed = _ask_often(site, count)

    assert (done >= count, failed) == (True, 0)
    until(lambda: site.files <= files + 2, "all files are closed again")
    more_kb = site.memory_kb - memory_kb
    FIGURES.append(
        f"forwarder: {done} short connections, {failed} failed; files {files}, then {site.files}; "
        f"memory {memory_kb // 1024} MiB, then {more_kb:+d} KiB"
    )
    assert more_kb < _SMALL_KB


def _ask_often(site: Site, count: int) -> tuple[int, int]:
    """Ask so often at least, by 32 clients at a time; return how many were answered, and how many were not."""
    done = failed = 0
    program = [sys.executable, "-m", "bench.forwarder_load", "ask-short", VIP, str(GOOD), "32"]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    while done < count and not failed:
        with site.namespace.entered():
            told = subprocess.run(
                [*program, "0.5" if count <= FEW else "5"],
                check=True,
                capture_output=True,
                text=True,
                env=environment,
                cwd=root,
            )
        found = json.loads(told.stdout)
        done, failed = done + found["done"], failed + found["failed"]
    return done, failed
