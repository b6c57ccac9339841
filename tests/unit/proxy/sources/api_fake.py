"""The smallest API server that a source can be tried on: it says what a test tells it to, over real connections.

It knows nothing of the protocol beyond lists, streams and watches that go well; whatever else is to happen, a test
writes into `refusals`, pushes as bytes, or does by closing connections.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from tests.builders import make_node, make_service, make_slice
from tests.unit.proxy.sources.reflecting import bookmark

KINDS = {
    "services": "Service",
    "endpointslices": "EndpointSlice",
    "nodes": "Node",
    "servicecidrs": "ServiceCIDR",
}


class Refusal:
    """An answer that is not what was asked for."""

    def __init__(self, status: int, body: str = "", **headers: str) -> None:
        self.status = status
        self.body = body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Server:
    """Objects and open watches."""

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {
            "services": [make_service("web")],
            "endpointslices": [make_slice("web-1")],
            "nodes": [make_node("node-1")],
            "servicecidrs": [],
        }
        self.requests: list[web.Request] = []
        self.refusals: dict[str, Refusal] = {}
        self.token = ""
        self.answers = asyncio.Event()
        """Cleared for a server that takes requests and says nothing."""
        self.answers.set()
        self.port = 0
        self._open: dict[str, list[web.StreamResponse]] = {plural: [] for plural in KINDS}
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def targets(self) -> list[str]:
        return [request.path_qs for request in self.requests]

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen, on the same port as before if there was one."""
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        # of 0 it would wait for ever, for a watch that has begun just now
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close everything."""
        self.answers.set()
        await self.drop(*KINDS)
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    async def push(self, plural: str, data: bytes) -> None:
        """Send bytes on every open watch of a kind."""
        for response in self._open[plural]:
            await response.write(data)

    async def end(self, plural: str) -> None:
        """End every open watch of a kind as a server does whose time is over."""
        responses, self._open[plural] = self._open[plural], []
        for response in responses:
            await response.write_eof()
        self._notify()

    async def drop(self, *plurals: str) -> None:
        """Cut the connections of open watches."""
        for plural in plurals:
            responses, self._open[plural] = self._open[plural], []
            for response in responses:
                if response._req is not None and response._req.transport is not None:
                    response._req.transport.abort()
        self._notify()

    async def until_watched(self, plural: str) -> None:
        """Wait until a watch of this kind is open."""
        async with asyncio.timeout(60):
            while not self._open[plural]:
                await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        plural = request.path.rpartition("/")[2]
        self.requests.append(request)
        self._notify()
        await self.answers.wait()
        refusal = self.refusals.get(plural)
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            refusal = Refusal(401, '{"reason":"Unauthorized"}')
        if refusal is not None:
            return web.Response(status=refusal.status, text=refusal.body, headers=refusal.headers)
        if request.query.get("watch"):
            return await self._watch(request, plural)
        return self._list(request, plural)

    def _list(self, request: web.Request, plural: str) -> web.Response:
        objects = self.objects[plural]
        start, limit = (
            int(request.query.get("continue", "0")),
            int(request.query.get("limit", "0")),
        )
        end = start + limit if limit else len(objects)
        metadata = {"resourceVersion": "100"}
        if end < len(objects):
            metadata["continue"] = str(end)
        body = {"kind": f"{KINDS[plural]}List", "metadata": metadata, "items": objects[start:end]}
        response = web.Response(text=json.dumps(body), content_type="application/json")
        if request.headers["Accept-Encoding"] == "gzip":
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.query.get("sendInitialEvents"):
            for obj in self.objects[plural]:
                await response.write(json.dumps({"type": "ADDED", "object": obj}).encode() + b"\n")
            await response.write(bookmark(100, ends=True, kind=KINDS[plural]))
        self._open[plural].append(response)
        changed = self._changed
        self._notify()
        while response in self._open[plural]:
            await changed.wait()
            changed = self._changed
        return response


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Run a server while the block runs."""
    server = Server()
    await server.start(tls)
    try:
        yield server
    finally:
        await server.stop()
