"""One question to an application over a real socket, and the answer as it came over the wire."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer


class Answer(NamedTuple):
    """What came back; the body is as it was sent, zipped or not."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    app: web.Application,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Serve an application for as long as one question takes."""

    async def main() -> Answer:
        async with (
            TestServer(app) as server,
            ClientSession(auto_decompress=False) as session,
            session.request(method, server.make_url(path), headers=headers) as response,
        ):
            return Answer(response.status, dict(response.headers), await response.read())

    return asyncio.run(main())
