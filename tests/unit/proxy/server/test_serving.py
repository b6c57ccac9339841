"""Listening on an address that may be taken."""

import asyncio
import contextlib
import socket

import aiohttp
import pytest
from aiohttp import web

from proxy.errors import ConfigError, ProxyError
from proxy.server import guard, serving
from proxy.server.connections import Connections


@pytest.fixture
def taken() -> "socket.socket":
    return socket.create_server(("127.0.0.1", 0))


def test_a_taken_address_is_tried_again_until_it_is_free(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = taken.getsockname()[1]

    async def main() -> int:
        said, told = asyncio.Event(), list[str]()
        monkeypatch.setattr(serving.log, "error", lambda *_: said.set())
        app = guard.application(is_local_only=True)
        task = asyncio.create_task(
            serving.serve_forever(
                app, "127.0.0.1", port, is_hard_fail=False, retry_s=0.01, tell=told.append
            )
        )
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            await said.wait()
            assert f"127.0.0.1 port {port}" in told[0]
            taken.close()
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{port}/") as response:
                        break
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        return response.status

    assert asyncio.run(main()) == 404


def test_a_taken_address_ends_the_process_if_so_configured(taken: socket.socket) -> None:
    port = taken.getsockname()[1]

    told: list[str] = []

    async def main() -> None:
        app = guard.application(is_local_only=True)
        await serving.serve_forever(app, "127.0.0.1", port, is_hard_fail=True, tell=told.append)

    with taken, pytest.raises(ProxyError, match=f"127.0.0.1 port {port}") as caught:
        asyncio.run(main())
    assert not isinstance(caught.value, ConfigError)  # it may be free the next time
    assert told == []


def test_what_is_no_request_is_refused_and_fills_no_log_but_our_mistakes_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(_request: web.Request) -> web.Response:
        raise KeyError("a mistake")

    async def asked(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def main() -> list[bytes]:
        app = web.Application()
        app.router.add_get("/mistake", fail)
        requests = (
            b"\x16\x03\x01nonsense\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"GET /mistake HTTP/1.0\r\n\r\n",
        )
        async with serving.serving(app, "127.0.0.1", 0, Connections()) as port:
            return [await asked(port, request) for request in requests]

    answers = asyncio.run(main())

    assert [answer.split()[1] for answer in answers] == [b"400", b"400", b"500"]
    [record] = caplog.records
    assert "a mistake" in caplog.text
    assert record.name.startswith("proxy.")


def test_clients_are_limited() -> None:
    async def main() -> None:
        connections = Connections(most=1)
        app = guard.application(is_local_only=True)
        async with serving.serving(app, "127.0.0.1", 0, connections) as port:
            oldest, first = await asyncio.open_connection("127.0.0.1", port)
            reader, second = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionResetError):
                assert await oldest.read() == b""
            second.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 404 " in await reader.readline()
            for writer in (first, second):
                writer.close()

    asyncio.run(main())
