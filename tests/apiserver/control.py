"""Faults from outside: a second door, on a Unix socket, that stays open when the server's own is closed.

GET    /requests  all requests so far          DELETE /requests  forget them
GET    /faults    see faults.Faults            POST   /faults    set some    DELETE /faults  none any more
POST   /listener  {"mode": "closed" | "mute" | "serving", "seconds": 3, "is_dropping": true}; then it serves again
POST   /drop      reset every connection       POST   /compact   forget all history
POST   /rollback  {"seconds": 60}, {"changes": 5} or {"revision": 1234}: back to an earlier state; connections end
POST   /token     {"is_file_written": false}: another token    POST /token-file  write it now
POST   /objects   a list of objects: put       DELETE /objects   a list of objects: delete
POST   /storm     {"changes": 1000, "rate": 500}: answered when it is over
GET    /state     revision, oldest revision, numbers of objects, open watches
"""

import asyncio
import dataclasses
from typing import Any

from aiohttp import web

from tests.apiserver import resources, writing
from tests.apiserver.faults import Faults
from tests.apiserver.resources import Object
from tests.apiserver.server import ApiServer
from tests.apiserver.status import ApiStatusError
from tests.apiserver.storm import storm

_LARGEST_BODY = 256 * 1024 * 1024


class Control:
    """The door, and what each request does."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._return: asyncio.Task[None] | None = None
        app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_complain])
        app.add_routes(
            [
                web.get("/requests", self._requests),
                web.delete("/requests", self._forget),
                web.get("/faults", self._faults),
                web.post("/faults", self._break),
                web.delete("/faults", self._mend),
                web.post("/listener", self._listener),
                web.post("/drop", self._drop),
                web.post("/compact", self._compact),
                web.post("/rollback", self._rollback),
                web.post("/token", self._token),
                web.post("/token-file", self._token_file),
                web.post("/objects", self._put),
                web.delete("/objects", self._delete),
                web.post("/storm", self._storm),
                web.get("/state", self._state),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def start(self, path: str) -> None:
        """Listen on a Unix socket."""
        await self._runner.setup()
        await web.UnixSite(self._runner, path).start()

    async def stop(self) -> None:
        """Listen no more."""
        if self._return is not None:
            self._return.cancel()
        await self._runner.cleanup()

    async def _requests(self, _: web.Request) -> web.Response:
        return web.json_response([dataclasses.asdict(one) for one in self._server.requests])

    async def _forget(self, _: web.Request) -> web.Response:
        self._server.requests.clear()
        return web.json_response({})

    async def _faults(self, _: web.Request) -> web.Response:
        return web.json_response(self._server.faults.document())

    async def _break(self, request: web.Request) -> web.Response:
        self._server.faults.update(await request.json())
        self._server.wake()
        return web.json_response(self._server.faults.document())

    async def _mend(self, _: web.Request) -> web.Response:
        self._server.faults = Faults()
        return web.json_response({})

    async def _listener(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        if self._return is not None:
            self._return.cancel()
            self._return = None
        await self._server.become(wanted["mode"])
        if wanted.get("is_dropping"):
            self._server.drop_connections()
        if seconds := wanted.get("seconds"):
            self._return = asyncio.create_task(self._serve_again(seconds))
        return web.json_response({})

    async def _serve_again(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._server.become("serving")

    async def _drop(self, _: web.Request) -> web.Response:
        return web.json_response({"connections": self._server.drop_connections()})

    async def _compact(self, _: web.Request) -> web.Response:
        self._server.store.compact()
        return web.json_response({})

    async def _rollback(self, request: web.Request) -> web.Response:
        wanted, store = await request.json(), self._server.store
        to = wanted.get("revision")
        if changes := wanted.get("changes"):
            to = store.revision - changes
        revision = store.roll_back(to=to, seconds=wanted.get("seconds", 0.0))
        self._server.drop_connections()
        return web.json_response({"revision": revision})

    async def _token(self, request: web.Request) -> web.Response:
        self._server.access.rotate(**await request.json())
        return web.json_response({})

    async def _token_file(self, _: web.Request) -> web.Response:
        self._server.access.write_file()
        return web.json_response({})

    async def _put(self, request: web.Request) -> web.Response:
        put_all(self._server, await request.json())
        return web.json_response({"revision": self._server.store.revision})

    async def _delete(self, request: web.Request) -> web.Response:
        for obj in await request.json():
            metadata, resource = obj["metadata"], resources.of_object(obj)
            if resource is None:
                raise ValueError(f"no such kind: {obj.get('kind')}")
            key = metadata.get("namespace") or "", metadata["name"]
            self._server.store.delete(resource, key)
        return web.json_response({"revision": self._server.store.revision})

    async def _storm(self, request: web.Request) -> web.Response:
        took_s = await storm(self._server.store, **await request.json())
        return web.json_response({"seconds": took_s})

    async def _state(self, _: web.Request) -> web.Response:
        store = self._server.store
        return web.json_response(
            {
                "revision": store.revision,
                "oldest": store.oldest,
                "watches": len(self._server.woken),
                "objects": {one.qualified: store.count(one) for one in resources.RESOURCES},
            }
        )


def put_all(server: ApiServer, objects: list[Object]) -> None:
    """Create or replace many. Raises ValueError for a kind that is not served."""
    for obj in objects:
        resource = resources.of_object(obj)
        if resource is None:
            raise ValueError(f"not served: {obj.get('apiVersion')} {obj.get('kind')}")
        writing.put(server.store, resource, writing.identify(resource, obj, ""))


@web.middleware
async def _complain(request: web.Request, handler: Any) -> web.StreamResponse:
    """What the caller did wrong, as text: a test should fail with these words."""
    try:
        response: web.StreamResponse = await handler(request)
    except (ValueError, KeyError, TypeError, ApiStatusError) as error:
        return web.Response(status=400, text=f"{type(error).__name__}: {error}")
    return response
