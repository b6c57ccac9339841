"""Listening on an address that may be taken."""

import asyncio
import contextlib
import socket

import aiohttp
import pytest

from proxy.errors import ConfigError
from proxy.server import guard, serving


@pytest.fixture
def taken() -> "socket.socket":
    return socket.create_server(("127.0.0.1", 0))


def test_a_taken_address_is_tried_again_until_it_is_free(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = taken.getsockname()[1]

    async def main() -> int:
        said = asyncio.Event()
        monkeypatch.setattr(serving.log, "error", lambda *_: said.set())
        app = guard.application(is_local_only=True)
        task = asyncio.create_task(
            serving.serve_forever(app, "127.0.0.1", port, is_hard_fail=False, retry_s=0.01)
        )
        async with asyncio.timeout(10), aiohttp.ClientSession() as session:
            await said.wait()
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

    async def main() -> None:
        app = guard.application(is_local_only=True)
        await serving.serve_forever(app, "127.0.0.1", port, is_hard_fail=True)

    with taken, pytest.raises(ConfigError, match=f"127.0.0.1 port {port}"):
        asyncio.run(main())
