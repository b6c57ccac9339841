"""The server over HTTP: answers, errors, watches as streams, and each fault as a client meets it."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
import pytest

from tests.apiserver import resources
from tests.apiserver.faults import Rule
from tests.apiserver.running import Running, running
from tests.apiserver.server import ApiServer
from tests.builders import make_node, make_service, make_slice

SERVICES = "/api/v1/services"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
WATCH_LIST = (
    "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
)
OBJECTS = [make_service("a"), make_service("b"), make_slice("a-1", service="a"), make_node()]
LIMIT_S = 60.0

Wire = dict[str, Any]


class Client:
    """A client of a server with a few objects."""

    def __init__(self, started: Running, session: aiohttp.ClientSession) -> None:
        self.server: ApiServer = started.server
        self.started = started
        self.session = session

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        async with self.session.get(self.server.url + path, headers=headers) as response:
            body = await response.read()
            return response.status, json.loads(body) if body[:1] == b"{" else body

    def watch(self, path: str) -> "contextlib.AbstractAsyncContextManager[Stream]":
        return _watch(self, path)


class Stream:
    """The events of a watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> tuple[str, str]:
        """Type and name (or code, or end mark) of the next event."""
        event = json.loads(await self.response.content.readline())
        obj = event["object"]
        if event["type"] == "ERROR":
            return "ERROR", str(obj["code"])
        if event["type"] == "BOOKMARK":
            return "BOOKMARK", ",".join(obj["metadata"].get("annotations", {}))
        return event["type"], obj["metadata"]["name"]

    async def rest(self) -> bytes:
        return await self.response.content.read()


@contextlib.asynccontextmanager
async def _watch(client: Client, path: str) -> AsyncIterator[Stream]:
    async with client.session.get(client.server.url + path) as response:
        assert response.status == 200, await response.text()
        yield Stream(response)


def play(scene: Callable[[Client], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a scene against a server."""

    async def main() -> None:
        async with (
            asyncio.timeout(LIMIT_S),
            running(OBJECTS, **options) as started,
            aiohttp.ClientSession() as session,
        ):
            await scene(Client(started, session))

    asyncio.run(main())


# --- requests and answers


def test_objects_are_found_alone_in_their_namespace_and_everywhere() -> None:
    async def scene(client: Client) -> None:
        for path, names in (
            (SERVICES, ["a", "b"]),
            ("/api/v1/namespaces/default/services", ["a", "b"]),
            ("/api/v1/namespaces/other/services", []),
            (SLICES + "?labelSelector=kubernetes.io/service-name%3Da", ["a-1"]),
            ("/api/v1/nodes?fieldSelector=metadata.name%3Dnode-1", ["node-1"]),
        ):
            code, body = await client.get(path)
            assert code == 200
            assert [item["metadata"]["name"] for item in body["items"]] == names
        code, one = await client.get("/api/v1/namespaces/default/services/a")
        assert (code, one["kind"], one["metadata"]["name"]) == (200, "Service", "a")

    play(scene)


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [
        ("/api/v1/namespaces/default/services/absent", 404, "NotFound"),
        (SERVICES + "?continue=junk", 400, "BadRequest"),
        (SERVICES + "?watch=1&sendInitialEvents=true", 422, "Invalid"),
        (SERVICES + "?resourceVersion=99999", 504, "Timeout"),
    ],
)
def test_errors_are_documents(path: str, code: int, reason: str) -> None:
    async def scene(client: Client) -> None:
        client.server.faults.freshness_wait_s = 0.01
        status, body = await client.get(path)
        assert (status, body["kind"], body["code"], body["reason"]) == (
            code,
            "Status",
            code,
            reason,
        )

    play(scene)


@pytest.mark.parametrize("path", ["/nowhere", "/api/v1/pods", "/api/v1/services/a", "/apis/x"])
def test_other_paths_lead_nowhere(path: str) -> None:
    async def scene(client: Client) -> None:
        assert (await client.get(path))[0] == 404

    play(scene)


def test_discovery_names_every_kind() -> None:
    async def scene(client: Client) -> None:
        _, core = await client.get("/api/v1")
        assert {"services", "nodes", "events"} == {each["name"] for each in core["resources"]}
        _, groups = await client.get("/apis")
        assert {each["name"] for each in groups["groups"]} == {
            "discovery.k8s.io",
            "events.k8s.io",
            "networking.k8s.io",
        }
        assert (await client.get("/version"))[1]["major"] == "1"

    play(scene)


def test_writes_are_answered_and_told_to_watches() -> None:
    async def scene(client: Client) -> None:
        home = client.server.url + "/api/v1/namespaces/default/services"
        version = client.server.store.revision
        async with client.watch(f"{SERVICES}?watch=1&resourceVersion={version}") as stream:
            async with client.session.post(home, json=make_service("c")) as created:
                assert created.status == 201
            patch = {"Content-Type": "application/merge-patch+json"}
            change = json.dumps({"metadata": {"labels": {"x": "y"}}})
            async with client.session.patch(f"{home}/c", data=change, headers=patch) as patched:
                assert (await patched.json())["metadata"]["labels"] == {"x": "y"}
            async with client.session.delete(f"{home}/c") as deleted:
                assert (await deleted.json())["status"] == "Success"
            for expected in ("ADDED", "MODIFIED", "DELETED"):
                assert await stream.next() == (expected, "c")
        async with client.session.post(home, json=make_service("a")) as twice:
            assert (twice.status, (await twice.json())["reason"]) == (409, "AlreadyExists")
        async with client.session.post(home, data="{") as broken:
            assert broken.status == 415
        json_type = {"Content-Type": "application/json"}
        async with client.session.post(home, data="{", headers=json_type) as broken:
            assert broken.status == 400

    play(scene)


def test_a_table_is_what_kubectl_shows() -> None:
    async def scene(client: Client) -> None:
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
        _, shown = await client.get(SERVICES, Accept=accept)
        assert shown["kind"] == "Table"
        assert [column["name"] for column in shown["columnDefinitions"]][:2] == ["Name", "Type"]
        assert shown["rows"][0]["cells"][:3] == ["a", "ClusterIP", "10.96.0.10"]
        assert (await client.get(SERVICES, Accept="application/vnd.x"))[0] == 406

    play(scene)


def test_large_lists_are_compressed_for_who_accepts_it() -> None:
    async def scene(client: Client) -> None:
        for number in range(400):
            client.server.store.put(resources.SERVICES, make_service(f"many-{number}"))
        plain = await client.session.get(
            client.server.url + SERVICES, headers={"Accept-Encoding": ""}
        )
        async with aiohttp.ClientSession(auto_decompress=False) as raw:
            zipped = await raw.get(
                client.server.url + SERVICES, headers={"Accept-Encoding": "gzip"}
            )
            assert zipped.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(await zipped.read()) == await plain.read()
            small = await raw.get(client.server.url + SLICES, headers={"Accept-Encoding": "gzip"})
            assert "Content-Encoding" not in small.headers

    play(scene)


def test_every_request_is_remembered_as_an_authorizer_sees_it() -> None:
    async def scene(client: Client) -> None:
        await client.get(SERVICES + "?limit=5")
        await client.get("/api/v1/nodes/node-1")
        await client.get(SLICES + "?watch=1&timeoutSeconds=1&labelSelector=junk%3D%3D%3D")
        seen = [
            (each.verb, each.group, each.resource, each.name, each.code)
            for each in client.server.requests
        ]
        assert seen == [
            ("list", "", "services", "", 200),
            ("get", "", "nodes", "node-1", 200),
            ("watch", "discovery.k8s.io", "endpointslices", "", 400),
        ]
        assert client.server.requests[0].query == {"limit": "5"}

    play(scene)


# --- who asks


def test_without_a_good_token_nobody_is_answered() -> None:
    async def scene(client: Client) -> None:
        assert (await client.get(SERVICES))[0] == 401
        assert (await client.get("/version"))[0] == 200
        old = f"Bearer {client.started.token_file.read_text()}"
        assert (await client.get(SERVICES, Authorization=old))[0] == 200

        client.server.access.rotate(is_file_written=False)

        assert (await client.get(SERVICES, Authorization=old))[0] == 401
        assert client.started.token_file.read_text() == old.removeprefix("Bearer ")
        client.server.access.write_file()
        new = f"Bearer {client.started.token_file.read_text()}"
        assert (await client.get(SERVICES, Authorization=new))[0] == 200
        assert client.server.requests[-1].user == "system:serviceaccount:kube-system:kube-proxy"

    play(scene, credentials="token")


# --- watches


def test_a_watch_list_ends_its_first_part_with_a_mark_and_goes_on() -> None:
    async def scene(client: Client) -> None:
        async with client.watch(f"{SERVICES}?{WATCH_LIST}") as stream:
            assert await stream.next() == ("ADDED", "a")
            assert await stream.next() == ("ADDED", "b")
            assert await stream.next() == ("BOOKMARK", "k8s.io/initial-events-end")
            client.server.store.put(resources.SERVICES, make_service("c"))
            assert await stream.next() == ("ADDED", "c")

    play(scene)


def test_a_watch_ends_in_good_order_with_a_bookmark_when_its_time_is_over() -> None:
    async def scene(client: Client) -> None:
        query = f"watch=1&resourceVersion={client.server.store.revision}&timeoutSeconds=1"
        async with client.watch(f"{SERVICES}?{query}&allowWatchBookmarks=true") as stream:
            assert await stream.next() == ("BOOKMARK", "")
            assert await stream.rest() == b""
        async with client.watch(f"{SERVICES}?{query}") as stream:
            assert await stream.rest() == b""

    play(scene)


def test_bookmarks_come_again_and_again() -> None:
    async def scene(client: Client) -> None:
        client.server.faults.bookmark_s = 0.01
        version = client.server.store.revision
        query = f"watch=1&resourceVersion={version}&allowWatchBookmarks=true"
        async with client.watch(f"{SERVICES}?{query}") as stream:
            for _ in range(3):
                assert await stream.next() == ("BOOKMARK", "")

    play(scene)


def test_a_watch_from_forgotten_history_gets_gone_as_an_event() -> None:
    async def scene(client: Client) -> None:
        client.server.store.compact()
        async with client.watch(f"{SERVICES}?watch=1&resourceVersion=1001") as stream:
            assert await stream.next() == ("ERROR", "410")
            assert await stream.rest() == b""

    play(scene)


def test_a_watch_list_from_a_version_to_come_waits_for_it_and_gives_up() -> None:
    async def scene(client: Client) -> None:
        server = client.server
        server.faults.freshness_wait_s = LIMIT_S
        wanted = server.store.revision + 1
        path = f"{SERVICES}?{WATCH_LIST}&resourceVersion={wanted}"
        async with client.watch(path) as stream:
            server.store.put(resources.SERVICES, make_service("c"))
            assert [await stream.next() for _ in range(3)] == [("ADDED", name) for name in "abc"]
        server.faults.freshness_wait_s = 0.01
        async with client.watch(path + "9") as stream:
            assert await stream.next() == ("ERROR", "504")

    play(scene)


# --- faults


def test_a_closed_port_refuses_and_serves_again() -> None:
    async def scene(client: Client) -> None:
        url = client.server.url
        await client.server.become("closed")
        client.server.drop_connections()
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(SERVICES)
        await client.server.become("serving")
        assert client.server.url == url
        assert (await client.get(SERVICES))[0] == 200

    play(scene)


def test_a_mute_port_accepts_and_never_answers() -> None:
    async def scene(client: Client) -> None:
        await client.server.become("mute")
        client.server.drop_connections()
        timeout = aiohttp.ClientTimeout(total=0.2)
        with pytest.raises(TimeoutError):
            await client.session.get(client.server.url + SERVICES, timeout=timeout)
        await client.server.become("serving")
        assert (await client.get(SERVICES))[0] == 200

    play(scene)


def test_dropped_connections_end_in_the_middle() -> None:
    async def scene(client: Client) -> None:
        async with client.watch(f"{SERVICES}?watch=1&resourceVersion=1001") as stream:
            assert await stream.next() == ("ADDED", "b")
            assert client.server.drop_connections() == 1
            with pytest.raises(aiohttp.ClientError):
                await stream.rest()

    play(scene)


def test_a_silent_watch_stays_silent_though_others_hear_again() -> None:
    async def scene(client: Client) -> None:
        path = f"{SERVICES}?watch=1&resourceVersion=1004"
        async with client.watch(path) as silent:
            client.server.faults.is_silent = True
            client.server.wake()
            client.server.store.put(resources.SERVICES, make_service("c"))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await silent.next()
            client.server.faults.is_silent = False
            client.server.wake()
            async with client.watch(path) as other:
                assert await other.next() == ("ADDED", "c")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await silent.next()

    play(scene)


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_an_event_is_cut_once(ending: str) -> None:
    async def scene(client: Client) -> None:
        path = f"{SERVICES}?watch=1&resourceVersion=1001"
        client.server.faults.update({"ending": ending})
        async with client.watch(path) as stream:
            if ending == "close":
                with pytest.raises(json.JSONDecodeError):
                    json.loads(await stream.rest())
            else:
                with pytest.raises(aiohttp.ClientError):
                    await stream.rest()
        async with client.watch(path) as stream:
            assert await stream.next() == ("ADDED", "b")

    play(scene)


def test_a_broken_event_stands_for_a_whole_one() -> None:
    async def scene(client: Client) -> None:
        client.server.faults.update({"mutations": ["unknown-type"]})
        async with client.watch(f"{SERVICES}?watch=1&resourceVersion=1001") as stream:
            assert await stream.next() == ("RENAMED", "b")
            client.server.store.put(resources.SERVICES, make_service("c"))
            assert await stream.next() == ("ADDED", "c")

    play(scene)


def test_everything_comes_in_pieces_of_one_byte() -> None:
    async def scene(client: Client) -> None:
        client.server.store.put(resources.SERVICES, make_service("c", labels={"name": "ü€😀"}))
        _, whole = await client.get(SERVICES)
        client.server.faults.chunk_bytes = 1
        assert (await client.get(SERVICES))[1] == whole
        sizes = []
        async with client.watch(f"{SERVICES}?watch=1&resourceVersion=1004") as stream:
            line = b""
            while not line.endswith(b"\n"):
                data, _ = await stream.response.content.readchunk()
                sizes.append(len(data))
                line += data
        assert json.loads(line)["object"]["metadata"]["labels"] == {"name": "ü€😀"}
        assert set(sizes) == {1}

    play(scene)


@pytest.mark.parametrize("code", [401, 403, 410, 429, 500, 503])
def test_a_rule_answers_in_the_place_of_the_server(code: int) -> None:
    async def scene(client: Client) -> None:
        client.server.faults.rules = [Rule(status=code, verb="list", count=1, retry_after_s=2)]
        response = await client.session.get(client.server.url + SERVICES)
        assert (response.status, (await response.json())["code"]) == (code, code)
        assert response.headers["Retry-After"] == "2"
        assert (await client.get(SERVICES))[0] == 200

    play(scene)


def test_a_storm_of_410_ends_watches_by_an_event() -> None:
    async def scene(client: Client) -> None:
        client.server.faults.rules = [Rule(status=410, is_event=True, count=2)]
        path = f"{SERVICES}?watch=1&resourceVersion=1001"
        for _ in range(2):
            async with client.watch(path) as stream:
                assert await stream.next() == ("ERROR", "410")
        assert (await client.get(SERVICES))[0] == 200
        async with client.watch(path) as stream:
            assert await stream.next() == ("ADDED", "b")

    play(scene)


def test_a_slow_list_keeps_nobody_else_waiting() -> None:
    async def scene(client: Client) -> None:
        client.server.faults.rules = [Rule(verb="list", resource="services", delay_s=60.0)]
        slow = asyncio.create_task(client.get(SERVICES))
        assert (await client.get(SLICES))[0] == 200
        assert not slow.done()
        slow.cancel()

    play(scene)
