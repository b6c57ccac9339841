"""Load balancers get kube-proxy's answers, from where NodePorts listen, and for as long as the Service wants it."""

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
import pytest
import uvloop
from aiohttp import hdrs

from proxy.backend import Applied
from proxy.desired_node import NodeSettings
from proxy.health_checks import HealthCheck
from proxy.journal import Round
from proxy.model import Endpoint, Service
from proxy.reconciler import Reconciler
from proxy.server import health_check_node_ports
from proxy.server.connections import Connections
from proxy.server.health_check_node_ports import HealthCheckNodePorts
from proxy.sources.events import Delete, Event, Upsert
from tests.model_builders import (
    make_endpoint,
    make_service,
    make_service_port,
    make_slice,
)
from tests.ports import free_port
from tests.unit.proxy.server.serving_debug import Answer, make_reconciler

LIMIT_S = 60.0
RETRY_S = 0.02
BODY = """{
	"service": {
		"namespace": "default",
		"name": "web"
	},
	"localEndpoints": %d,
	"serviceProxyHealthy": %s
}"""


class Node:
    """The reconciler on a fake kernel, with health check node ports that run."""

    def __init__(self, *addresses: str, retry_s: float = RETRY_S, most: int = 10) -> None:
        self.reconciler: Reconciler = make_reconciler([])
        self.reconciler.desired.settings = NodeSettings(node_port_addresses=addresses)
        self.is_healthy = True
        self.busy: list[tuple[HealthCheck, str]] = []
        self.ports = HealthCheckNodePorts(
            self.reconciler,
            lambda: self.is_healthy,
            lambda check, error: self.busy.append((check, error)),
            retry_s=retry_s,
            connections=Connections(most=most),
        )
        self.reconciler.on_round = self.ports.heard

    def tell(self, *events: Event) -> None:
        self.reconciler.cache.apply(events, 0.0)
        self.reconciler.wake()

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not is_so():  # noqa: ASYNC110 - nobody tells of what is asked here
                await asyncio.sleep(0.001)

    async def listens_on(self, *places: str) -> None:
        await self.until(lambda: self.ports.places == sorted(places))

    async def counts(self, endpoints: int) -> None:
        """Wait until the only Service there is has so many, and what follows from that is done."""
        wanted = self.ports._wanted
        await self.until(lambda: [c.local["IPv4"] for c in wanted.values()] == [endpoints])
        await self.until(lambda: not self.ports._wake.is_set() and not self.ports._due)

    def run(self, life: Callable[["Node"], Awaitable[None]]) -> None:
        async def main() -> None:
            tasks = [
                asyncio.create_task(self.reconciler.run()),
                asyncio.create_task(self.ports.run()),
            ]
            try:
                await life(self)
            finally:
                for task in tasks:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
            assert self.ports.places == []

        # that of the daemon: asyncio's own forgets connections that come while a server closes
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())


@pytest.fixture
def port() -> int:
    return free_port("0.0.0.0")


def web(port: int, name: str = "default/web", *cluster_ips: str) -> Upsert:
    return Upsert(_service(port, name, *cluster_ips))


def _service(port: int, name: str, *cluster_ips: str) -> Service:
    ports = [
        make_service_port(
            name, cluster_ip=ip, external_local=True, node_port=30080, health_check_node_port=port
        )
        for ip in cluster_ips or ("10.96.0.10",)
    ]
    return make_service(name, *ports)


def pods(*addresses: str, service: str = "web") -> Upsert:
    endpoints: Sequence[Endpoint] = [make_endpoint(each, is_local=True) for each in addresses]
    return Upsert(make_slice(f"{service}-a", *endpoints, service=service))


async def ask(
    port: int, path: str = "/", *, method: str = "GET", host: str = "127.0.0.1"
) -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{host}:{port}{path}") as response,
    ):
        return Answer(response.status, dict(response.headers), await response.text())


def test_the_answer_is_kube_proxys(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port), pods("10.1.0.1:80", "10.1.0.2:80"))
        await node.listens_on(f"0.0.0.0:{port}")

        answer = await ask(port)

        assert (answer.status, answer.text) == (200, BODY % (2, "true"))
        assert (
            answer.headers.items()
            >= {
                "Content-Type": "application/json",
                "X-Content-Type-Options": "nosniff",
                "X-Load-Balancing-Endpoint-Weight": "2",
            }.items()
        )

    Node().run(life)


def test_without_local_endpoints_it_is_503_with_the_weight(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port))
        await node.listens_on(f"0.0.0.0:{port}")

        answer = await ask(port)

        assert (answer.status, answer.text) == (503, BODY % (0, "true"))
        assert answer.headers["X-Load-Balancing-Endpoint-Weight"] == "0"

    Node().run(life)


def test_a_proxy_that_does_not_keep_up_gets_nothing_sent(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port), pods("10.1.0.1:80"))
        await node.listens_on(f"0.0.0.0:{port}")
        node.is_healthy = False

        answer = await ask(port)

        assert (answer.status, answer.text) == (503, BODY % (1, "false"))
        assert answer.headers["X-Load-Balancing-Endpoint-Weight"] == "1"

    Node().run(life)


@pytest.mark.parametrize("method", [hdrs.METH_GET, hdrs.METH_POST, hdrs.METH_DELETE, "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/healthz", "/a/b?c=d"])
def test_path_and_method_do_not_matter(port: int, method: str, path: str) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port), pods("10.1.0.1:80"))
        await node.listens_on(f"0.0.0.0:{port}")

        answer = await ask(port, path, method=method)

        assert (answer.status, json.loads(answer.text)["localEndpoints"]) == (200, 1)

    Node().run(life)


def test_a_change_of_endpoints_keeps_the_server_and_its_connections(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port), pods("10.1.0.1:80"))
        await node.listens_on(f"0.0.0.0:{port}")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def ask_again() -> bytes:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
            return head.split()[1]

        assert await ask_again() == b"200"
        node.tell(pods())
        async with asyncio.timeout(LIMIT_S):
            while await ask_again() != b"503":
                pass
        writer.close()

    Node().run(life)


def test_a_service_that_goes_takes_its_port_along(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port))
        await node.listens_on(f"0.0.0.0:{port}")

        node.tell(Delete("Service", "default", "web"))

        await node.listens_on()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    Node().run(life)


def test_connections_go_with_the_service_also_those_on_which_nobody_reads(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port))
        await node.listens_on(f"0.0.0.0:{port}")
        _, idle = await asyncio.open_connection("127.0.0.1", port)
        _, deaf = await asyncio.open_connection("127.0.0.1", port, limit=1)
        await node.until(lambda: len(node.ports._connections) == 2)
        ((listener,),) = [[*each.values()] for each in node.ports._listeners.values()]
        transports = [each.transport for each in listener.answering.connections]
        for each in transports:
            assert each is not None
            each.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        def is_stuck() -> bool:
            deaf.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
            return any(each is not None and each.get_write_buffer_size() for each in transports)

        await node.until(is_stuck)
        node.tell(Delete("Service", "default", "web"))

        await node.until(lambda: not listener.answering.connections)
        for writer in (idle, deaf):
            writer.transport.abort()

    Node().run(life)


def test_a_port_may_change_hands_in_one_step(port: int, caplog: pytest.LogCaptureFixture) -> None:
    async def life(node: Node) -> None:
        other = free_port("0.0.0.0")
        node.tell(web(port), web(other, "default/zoo", "10.96.0.11"))
        await node.listens_on(f"0.0.0.0:{port}", f"0.0.0.0:{other}")

        node.tell(web(other), web(port, "default/zoo", "10.96.0.11"))

        async def name_at(number: int) -> str:
            try:
                return str(json.loads((await ask(number)).text)["service"]["name"])
            except aiohttp.ClientError:  # in between
                return ""

        await node.until(lambda: node.ports._wanted.keys() and not node.ports._due)
        await node.listens_on(f"0.0.0.0:{port}", f"0.0.0.0:{other}")
        async with asyncio.timeout(LIMIT_S):
            while (await name_at(port), await name_at(other)) != ("zoo", "web"):
                pass

    Node().run(life)

    assert caplog.records == []


def test_each_family_has_an_answer_of_its_own(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port, "default/web", "10.96.0.10", "fd00:10::a"), pods("10.1.0.1:80"))
        await node.listens_on(f"0.0.0.0:{port}", f"[::]:{port}")

        four, six = await ask(port), await ask(port, host="[::1]")

        assert (four.status, six.status) == (200, 503)

    Node().run(life)


def test_it_listens_where_node_ports_do_and_follows_addresses(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port))
        node.reconciler.hear_host_addresses(frozenset({"127.0.0.1", "192.0.2.1"}))
        await node.until(lambda: node.reconciler.desired.health_checks.wanted)
        await node.until(lambda: not node.ports._due)
        assert node.ports.places == []

        # nobody has this address, so it cannot be listened on
        node.reconciler.hear_host_addresses(frozenset({"198.51.100.7"}))
        await node.until(lambda: node.busy)

        [(check, error)] = node.busy
        assert str(check.service) == "default/web"
        assert f"198.51.100.7:{port}" in error

    Node("198.51.100.0/24").run(life)


def test_a_taken_port_is_said_once_and_had_when_it_is_free(port: int) -> None:
    async def life(node: Node) -> None:
        with socket.create_server(("0.0.0.0", port)):
            node.tell(web(port), pods("10.1.0.1:80"))
            await node.until(lambda: node.busy)
            await node.until(lambda: max(node.ports._failures.values()) > 4)

        await node.listens_on(f"0.0.0.0:{port}")

        assert (await ask(port)).status == 200
        [(check, error)] = node.busy
        assert (str(check.service), check.port) == ("default/web", port)
        assert error.endswith("Address already in use")

    Node().run(life)


def test_a_taken_port_is_not_tried_again_with_every_change(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # changes may be far apart where the machine is busy
    monkeypatch.setattr(health_check_node_ports, "_RETRY_AT_LEAST_S", LIMIT_S * 2)

    async def life(node: Node) -> None:
        with socket.create_server(("0.0.0.0", port)):
            node.tell(web(port))
            await node.until(lambda: node.ports._failures)
            for number in range(1, 5):
                node.tell(pods(*[f"10.1.0.{n}:80" for n in range(number)]))
                await node.counts(number)

            assert [*node.ports._failures.values()] == [1]
            assert node.busy == []

    Node(retry_s=LIMIT_S * 2).run(life)


def test_a_port_that_another_service_had_is_taken_at_once(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port, "default/old"))
        await node.listens_on(f"0.0.0.0:{port}")
        node.tell(web(port, "default/new", "10.96.0.11"))
        await node.until(lambda: node.ports._failures)

        node.tell(Delete("Service", "default", "old"))
        await node.until(lambda: not node.ports._failures)
        assert json.loads((await ask(port)).text)["service"]["name"] == "new"

    Node(retry_s=LIMIT_S * 2).run(life)


def test_a_taken_port_that_is_no_longer_wanted_is_forgotten(port: int) -> None:
    async def life(node: Node) -> None:
        with socket.create_server(("0.0.0.0", port)):
            node.tell(web(port))
            await node.until(lambda: node.ports._failures)
            node.tell(Delete("Service", "default", "web"))
            await node.until(lambda: not node.ports._failures)

    Node().run(life)


def test_a_failed_round_changes_no_answer(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port), pods("10.1.0.1:80"))
        await node.listens_on(f"0.0.0.0:{port}")
        rounds: list[Round] = []

        def heard(ended: Round) -> None:
            rounds.append(ended)
            node.ports.heard(ended)

        node.reconciler.on_round = heard

        async def fail(*_: object) -> None:
            raise RuntimeError("the kernel is away")

        node.reconciler.backend.apply = fail  # type: ignore[method-assign, assignment]
        node.tell(pods())
        await node.until(lambda: rounds)

        assert rounds[0].error
        assert (await ask(port)).status == 200

    Node().run(life)


def test_of_a_service_the_kernel_refuses_the_answer_stays_until_it_is_programmed(
    port: int,
) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port), pods("10.1.0.1:80"))
        await node.listens_on(f"0.0.0.0:{port}")
        backend = node.reconciler.backend
        accepting = backend.apply

        async def refuse(plan: object, observed: object) -> Applied:
            keys = node.reconciler.desired.ports
            await accepting(plan, observed)
            return Applied(failed=dict.fromkeys(keys, "no"))

        backend.apply = refuse  # type: ignore[method-assign]
        node.tell(pods(), web(free_port("0.0.0.0"), "default/zoo", "10.96.0.11"))
        await node.until(lambda: len(node.reconciler.quarantine) == 2)
        await node.until(lambda: not node.reconciler.backlog and not node.ports._due)
        assert node.ports.places == [f"0.0.0.0:{port}"]
        assert (await ask(port)).status == 200

        backend.apply = accepting  # type: ignore[method-assign]
        await node.until(lambda: not node.reconciler.quarantine)
        await node.until(lambda: len(node.ports.places) == 2)
        assert (await ask(port)).status == 503

    Node().run(life)


def test_connections_are_limited_over_all_ports_together(
    port: int,
) -> None:
    async def life(node: Node) -> None:
        other = free_port("0.0.0.0")
        node.tell(web(port), web(other, "default/zoo", "10.96.0.11"))
        await node.listens_on(f"0.0.0.0:{port}", f"0.0.0.0:{other}")
        connected = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        await node.until(lambda: len(node.ports._connections) == 3)

        assert (await ask(other)).status == 503
        (oldest, _), *others = connected
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(ConnectionResetError):
                assert await oldest.read() == b""
        for reader, writer in others:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b" 503 " in await reader.readline()
        for _, writer in connected:
            writer.close()
        await node.until(lambda: not node.ports._connections)

    Node(most=3).run(life)


def test_it_may_have_as_many_listeners_as_the_hard_limit_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))  # these tests need some
    try:

        async def life(node: Node) -> None:
            await node.until(lambda: resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))

        Node().run(life)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_no_request_ends_its_connection_only(port: int) -> None:
    async def life(node: Node) -> None:
        node.tell(web(port), pods("10.1.0.1:80"))
        await node.listens_on(f"0.0.0.0:{port}")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()

        assert (await ask(port)).status == 200

    Node().run(life)


def test_what_was_programmed_before_is_answered_too(port: int) -> None:
    node = Node()
    node.reconciler.on_round = lambda _: None
    node.tell(web(port), pods("10.1.0.1:80"))

    async def main() -> None:
        reconciling = asyncio.create_task(node.reconciler.run())
        await node.reconciler.is_synced.wait()
        listening = asyncio.create_task(node.ports.run())
        await node.listens_on(f"0.0.0.0:{port}")

        assert (await ask(port)).status == 200
        for task in (listening, reconciling):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
