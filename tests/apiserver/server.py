"""Requests and answers: who asks, for what, and what the faults make of it."""

import asyncio
import collections
import gzip
import ssl

from aiohttp import web

from tests.apiserver import discovery, listing, messages, paths, status, table, watching, writing
from tests.apiserver.access import Access
from tests.apiserver.faults import Faults, Rule
from tests.apiserver.listener import Listener, Mode
from tests.apiserver.paths import Recorded, Target
from tests.apiserver.resources import Object
from tests.apiserver.status import ApiStatusError
from tests.apiserver.store import Item, Store, encode
from tests.apiserver.stream import Watch, write_in_pieces

_GZIP_BYTES = 128 * 1024  # as kube-apiserver: smaller answers are not worth it
_CACHED_ANSWERS = 64
_REMEMBERED_REQUESTS = 100_000
_LARGEST_BODY = 64 * 1024 * 1024
_PUBLIC = ("/version", "/healthz", "/livez", "/readyz")


class ApiServer:
    """One server: its objects, its clients, its faults."""

    def __init__(
        self,
        store: Store,
        access: Access,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.store = store
        self.access = access
        self.faults = Faults()
        self.woken: set[asyncio.Event] = set()
        self.requests: collections.deque[Recorded] = collections.deque(maxlen=_REMEMBERED_REQUESTS)
        store.on_change = self.wake
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # a client that goes away ends what is done for it
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        self._host, self._port, self._tls = host, port, tls
        self._listener: Listener | None = None
        self._compressed: collections.OrderedDict[object, bytes] = collections.OrderedDict()

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        port = self._listener.port if self._listener else self._port
        return f"{'https' if self._tls else 'http'}://{host}:{port}"

    async def start(self) -> None:
        """Listen."""
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = Listener(
            self._runner.server, host=self._host, port=self._port, tls=self._tls
        )
        await self._listener.become("serving")

    async def stop(self) -> None:
        """End every connection, and listen no more."""
        if self._listener is not None:
            self._listener.close()
        self.drop_connections()
        await self._runner.cleanup()

    async def become(self, mode: Mode) -> None:
        """Serve, close the port, or accept and never answer. Open connections stay."""
        assert self._listener is not None
        await self._listener.become(mode)

    def drop_connections(self) -> int:
        """Reset every connection, in the middle of whatever is sent, and return how many there were."""
        server = self._runner.server
        transports = [] if server is None else [each.transport for each in server.connections]
        for transport in transports:
            if transport is not None:
                transport.abort()
        return len(transports)

    def wake(self) -> None:
        """Have all open watches look at what is new."""
        for each in self.woken:
            each.set()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        target = paths.target(request.path)
        recorded = paths.recorded(request.method, request.path, dict(request.query), target)
        self.requests.append(recorded)
        try:
            if request.path not in _PUBLIC:
                recorded.user = self.access.user(request)
            rule = self.faults.take_rule(recorded.verb, recorded.resource)
            if rule is not None:
                await asyncio.sleep(rule.delay_s)
                if rule.status and not rule.is_event:
                    raise rule.error()
            response = await self._answer(request, target, rule)
        except ApiStatusError as error:
            response = messages.failed(error)
        recorded.code = response.status
        if not response.prepared and self.faults.chunk_bytes:
            return await self._in_pieces(request, response)
        return response

    async def _answer(
        self, request: web.Request, target: Target | None, rule: Rule | None
    ) -> web.StreamResponse:
        if target is None:
            return self._answer_other(request.path)
        is_table = messages.wants_table(request)
        if request.method == "GET" and not target.name:
            if paths.is_watch(request.query):
                return await self._watch(request, target, rule, is_table=is_table)
            return await self._list(request, target, is_table=is_table)
        answer, code = await self._answer_one(request, target)
        if isinstance(answer, Item):
            if is_table:
                metadata = {"resourceVersion": str(answer.revision)}
                return messages.json_response(
                    encode(table.render(target.resource, [answer], metadata))
                )
            return messages.json_response(answer.whole, code)
        return messages.json_response(encode(answer), code)

    def _answer_other(self, path: str) -> web.Response:
        document = discovery.documents(self.url.partition("://")[2]).get(path.rstrip("/"))
        if document is not None:
            return messages.json_response(encode(document))
        if path in _PUBLIC:
            return web.Response(text="ok")
        return web.Response(status=404, text="404 page not found\n")

    async def _watch(
        self, request: web.Request, target: Target, rule: Rule | None, *, is_table: bool
    ) -> web.StreamResponse:
        question = watching.ask(
            target.resource, target.namespace, request.query, self.faults.watch_list
        )
        error = rule.error() if rule is not None and rule.status else None
        return await Watch(self, request, question, is_table=is_table).run(error)

    async def _list(
        self, request: web.Request, target: Target, *, is_table: bool
    ) -> web.StreamResponse:
        question = listing.ask(target.resource, target.namespace, request.query)
        if question.is_too_new(self.store):
            await asyncio.sleep(self.faults.freshness_wait_s)
        page = listing.answer(self.store, question)
        if is_table:
            return messages.json_response(
                encode(table.render(target.resource, page.items, page.metadata))
            )
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return messages.json_response(page.body())
        return await self._zipped((request.path_qs, self.store.revision), page)

    async def _zipped(self, key: object, page: listing.Page) -> web.Response:
        """Compressed once for each state and question, so that a benchmark measures its client."""
        cached = self._compressed.get(key)
        if cached is None:
            body = page.body()
            if len(body) < _GZIP_BYTES:
                return messages.json_response(body)
            cached = await asyncio.to_thread(gzip.compress, body, 1, mtime=0)
            self._compressed[key] = cached
            if len(self._compressed) > _CACHED_ANSWERS:
                self._compressed.popitem(last=False)
        return messages.json_response(cached, encoding="gzip")

    async def _answer_one(self, request: web.Request, target: Target) -> tuple[Item | Object, int]:
        resource, namespace, name = target
        key = namespace, name
        method = request.method
        if method == "POST" and not name:
            obj = writing.identify(resource, await messages.body(request), namespace)
            return writing.create(self.store, resource, obj), 201
        if method == "PUT" and name:
            obj = writing.identify(resource, await messages.body(request), namespace, name)
            return writing.replace(self.store, resource, obj), 200
        if method not in ("GET", "PATCH", "DELETE") or not name:
            message = "the server does not allow this method on the requested resource"
            raise ApiStatusError(405, message)
        existing = self.store.get(resource, key)
        if existing is None:
            raise status.not_found(resource, name)
        if method == "PATCH":
            change, kind = await messages.body(request), request.content_type
            changed = writing.patch(resource, existing.load(), change, kind)
            obj = writing.identify(resource, changed, namespace, name)
            return writing.put(self.store, resource, obj), 200
        if method == "DELETE":
            self.store.delete(resource, key)
            uid = str(existing.load()["metadata"].get("uid", ""))
            return status.success(resource, name, uid), 200
        return existing, 200

    async def _in_pieces(
        self, request: web.Request, whole: web.StreamResponse
    ) -> web.StreamResponse:
        assert isinstance(whole, web.Response)
        pieces = web.StreamResponse(status=whole.status, headers=whole.headers)
        pieces.headers.pop("Content-Length", None)
        pieces.enable_chunked_encoding()
        await pieces.prepare(request)
        body = whole.body if isinstance(whole.body, bytes) else b""
        await write_in_pieces(pieces, body, self.faults.chunk_bytes)
        return pieces
