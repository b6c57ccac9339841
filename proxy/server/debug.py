"""The debug pages under `/debug/`: what is known, chosen and programmed, and what the kernel holds. Shell.

For a page in a browser and for programs: `documents`, `listing` and `state` say what, `pages` shows it as HTML. Served on
loopback only unless configured, and never under a foreign Host header. No answer holds the event loop for long:
what concerns all services is made in small pieces, one answer at a time, and a very large service in a thread.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Generator, Sequence
from typing import Any, Final, TypeVar

from aiohttp import hdrs, web

from proxy import __version__, explain, explain_text, health
from proxy.backend import Held
from proxy.beside import at_localhost
from proxy.config.settings import Settings
from proxy.errors import KernelError, ProxyError
from proxy.explain_text import Output
from proxy.model import PortKey, Service, ServiceName
from proxy.reconciler import Reconciler
from proxy.server import (
    changes_page,
    documents,
    guard,
    listing,
    pages,
    pieces,
    service_page,
    state,
)
from proxy.server.client import NOTE
from proxy.server.documents import Clock, Subject, encode
from proxy.server.overview import Overview, in_order
from proxy.server.style import CONTENT_SECURITY_POLICY
from proxy.sources.events import WatchReport

T = TypeVar("T")
REMEMBERED_S: Final = 60.0
"""How long the list of services is kept after somebody asked for it."""
_LARGE: Final = 500
"""A service of more endpoints is worked through in a thread."""

Reports = Callable[[], Sequence[WatchReport]]


def no_reports() -> Sequence[WatchReport]:
    """Say nothing of an API server: there is none."""
    return ()


def add_routes(
    app: web.Application,
    reconciler: Reconciler,
    settings: Settings | None = None,
    reports: Reports = no_reports,
    *,
    is_for_all: bool = False,
) -> None:
    """Serve the debug pages in an application: to who came to a loopback address, or to all.

    They ask for a local Host header whatever else it answers to.
    """
    debug = _Debug(reconciler, settings, reports)
    routes = {
        "/debug": debug.get_redirect,
        "/debug/": debug.get_front,
        "/debug/services": debug.get_services,
        "/debug/services/{namespace:[^/]+}/{name:[^/]+}": debug.get_service,
        "/debug/state": debug.get_state,
        "/debug/explain": debug.get_explain,
        "/debug/changes": debug.get_changes,
        "/debug/kernel": debug.get_kernel,
        "/debug/config": debug.get_config,
    }
    for path, handler in routes.items():
        app.router.add_get(path, _local(handler, is_for_all=is_for_all), allow_head=False)


def _local(handler: guard.Handler, *, is_for_all: bool) -> guard.Handler:
    async def local(request: web.Request) -> web.StreamResponse:
        if not (is_for_all or guard.came_to_loopback(request)):
            raise web.HTTPNotFound
        guard.require_local_host(request)
        try:
            return await handler(request)
        except listing.ParameterError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error

    return local


class _Debug:
    """The handlers, with what they look at."""

    def __init__(
        self, reconciler: Reconciler, settings: Settings | None, reports: Reports
    ) -> None:
        self._reconciler = reconciler
        self._cache = reconciler.cache
        self._settings = settings
        self._reports = reports
        self._timeout_s = health.PERIODS_TO_LATE * (settings.sync_period_s if settings else 30.0)
        self._overview = Overview(
            reconciler.cache, reconciler.desired.ports, reconciler.quarantine, self._version
        )
        self._turn = asyncio.Lock()
        self._forgetting: asyncio.TimerHandle | None = None

    async def get_redirect(self, _request: web.Request) -> web.StreamResponse:
        raise web.HTTPMovedPermanently("/debug/")

    async def get_front(self, request: web.Request) -> web.StreamResponse:
        query = listing.parse_query(request.query)
        async with self._turn:
            found = await self._listing(query)
            await asyncio.sleep(0)
            document = self._state()
            await asyncio.sleep(0)
            return _html(pages.front(found, query, document))

    async def get_services(self, request: web.Request) -> web.StreamResponse:
        query = listing.parse_query(request.query)
        async with self._turn:
            return _json(await self._listing(query))

    async def _listing(self, query: listing.Query) -> listing.Services:
        if self._forgetting is not None:
            self._forgetting.cancel()
        loop = asyncio.get_running_loop()
        try:
            return await pieces.in_pieces(listing.listing(self._overview, query))
        finally:
            self._forgetting = loop.call_later(REMEMBERED_S, self._overview.forget)

    async def get_service(self, request: web.Request) -> web.StreamResponse:
        wants_html = _wants_html(request)
        page = listing.number(request.query, "page", 1, 10**6)
        name = ServiceName(request.match_info["namespace"], request.match_info["name"])
        service = self._cache.services.get(name) or self._find(str(name))
        held: list[Held] = []
        error = ""
        try:
            held = [h async for h in self._read_back([port.key for port in service.ports])]
        except ProxyError as unreadable:
            error = str(unreadable)
        subject = self._subject(self._cache.services.get(name, service), held, error)

        frame = self._frame()

        def answer() -> web.Response:
            document = documents.service_document(subject, _now())
            return (
                _html(service_page.service(document, page, frame))
                if wants_html
                else _json(document)
            )

        return await (asyncio.to_thread(answer) if subject.weight > _LARGE else _at_once(answer))

    async def get_state(self, request: web.Request) -> web.StreamResponse:
        document = self._state()
        if _choice(request, "output", ("json", "text")) == "text":
            return _text(state.render_text(document))
        return _json(document)

    async def get_changes(self, request: web.Request) -> web.StreamResponse:
        document = documents.changes_document(self._reconciler.journal, _now())
        return (
            _html(changes_page.changes(document, self._frame()))
            if _wants_html(request)
            else _json(document)
        )

    async def get_config(self, _request: web.Request) -> web.StreamResponse:
        if self._settings is None:
            raise web.HTTPNotFound(text="the settings are not known here\n")
        return _json(documents.config_document(self._settings, self._mode()))

    async def get_explain(self, request: web.Request) -> web.StreamResponse:
        outputs: tuple[Output, ...] = ("json", "text", "ansi")
        output = _choice(request, "output", outputs)
        where = f"on node {self._cache.node.name}"
        if wanted := request.query.get("service"):
            services = [self._find(wanted)]
        else:
            services = list(self._cache.services.values())
        response = web.StreamResponse()
        response.content_type = "application/json" if output == "json" else "text/plain"
        response.charset = "utf-8"
        if not any(service.ports for service in services):
            note = explain_text.shown(explain.why_nothing(services, where))
            response.headers[NOTE] = note.encode("ascii", "backslashreplace").decode()
        return await pieces.stream(request, response, self._explained(services, output))

    async def _explained(self, services: list[Service], output: Output) -> AsyncIterator[str]:
        printing = explain_text.Printing(output)
        async with self._turn:
            names = await pieces.in_pieces(_in_order([service.name for service in services]))
        for name in names:
            async with self._turn:
                service = self._cache.services.get(name)
                if service is None or not service.ports:
                    continue
                slices, node = self._cache.slices(name), self._cache.node
                families = at_localhost(self._reconciler.backend)

                def piece(service: Service = service) -> str:
                    explained = explain.explain_service(service, slices, node, families)  # noqa: B023
                    return printing.piece(explained)

                weight = sum([len(es) for each in slices for _, es in each.ports])
                text = await (asyncio.to_thread(piece) if weight > _LARGE else _at_once(piece))
            yield text
        yield printing.end()

    async def get_kernel(self, request: web.Request) -> web.StreamResponse:
        only_differences = _choice(request, "only", ("", "differences")) == "differences"
        keys = None
        if wanted := request.query.get("service"):
            keys = [port.key for port in self._find(wanted).ports]
        self._require_belief()
        response = web.StreamResponse()
        response.content_type, response.charset = "application/json", "utf-8"
        return await pieces.stream(request, response, self._held(keys, only_differences))

    async def _held(
        self, keys: Collection[PortKey] | None, only_differences: bool
    ) -> AsyncIterator[str]:
        """Yield an array with a line for each ServicePort; an error on the way is its last line."""
        before = "[\n"
        try:
            async for held in self._read_back(keys):
                if held.differences or not only_differences:
                    document = documents.held_document(held)
                    yield before + documents.encode_line(document).decode()
                    before = ",\n"
        except ProxyError as error:
            yield before + documents.encode_line({"error": str(error)}).decode()
            before = ",\n"
        yield "[]\n" if before == "[\n" else "\n]\n"

    def _require_belief(self) -> Any:
        observed = self._reconciler.observed
        if observed is None:
            raise KernelError("read back", 0, "our state in the kernel is just being read anew")
        return observed

    def _read_back(self, keys: Collection[PortKey] | None) -> AsyncIterator[Held]:
        """Read from the kernel. Raises KernelError when it cannot be read now."""
        observed = self._require_belief()
        return self._reconciler.backend.read_back(self._reconciler.desired.whole, observed, keys)

    def _find(self, wanted: str) -> Service:
        try:
            return explain.find(self._cache, wanted, f"on node {self._cache.node.name}")
        except ProxyError as error:
            raise web.HTTPNotFound(text=f"{explain_text.shown(str(error))}\n") from error

    def _subject(self, service: Service, held: Sequence[Held], error: str) -> Subject:
        reconciler, slices = self._reconciler, self._cache.slices(service.name)
        ports = [reconciler.desired.ports.get(port.key) for port in service.ports]
        return Subject(
            service=service,
            slices=slices,
            node=self._cache.node,
            ports=ports,
            quarantine={
                port.key: reconciler.quarantine[port.key]
                for port in service.ports
                if port.key in reconciler.quarantine
            },
            owners={
                (port.key, frontend): reconciler.desired.owner(port.key, frontend)
                for port in ports
                if port is not None
                for frontend in port.lost
            },
            entries=reconciler.journal.of(service.name)[: documents.CHANGES],
            problems=documents.problems_of(service, slices, self._cache.problems),
            held=held,
            kernel_error=error,
            at_localhost=at_localhost(reconciler.backend),
        )

    def _version(self) -> object:
        """Return what differs whenever the list of services may: all that was heard, and all that came of it."""
        reconciler, cache = self._reconciler, self._cache
        heard = (cache.service_events, cache.slice_events, cache.revision)
        return (*heard, reconciler.journal.total, len(reconciler.quarantine))

    def _mode(self) -> str:
        return self._reconciler.backend.name

    def _frame(self) -> pages.Frame:
        node = self._cache.node
        return pages.Frame(node.name, node.zone, self._mode(), __version__)

    def _state(self) -> state.StateDocument:
        reconciler, now_s, reports = self._reconciler, time.monotonic(), self._reports()
        facts = state.Facts(
            mode=self._mode(),
            passed_over=reconciler.passed_over,
            falls=reconciler.falls,
            version=__version__,
            is_synced=reconciler.is_synced.is_set(),
            last_error=reconciler.last_error,
            degraded=health.degraded(reconciler.condition(now_s), reports, now_s, self._timeout_s),
            quarantine=reconciler.quarantine,
            kernel=state.KernelWork(
                operations=reconciler.operations, transactions=reconciler.transactions
            ),
            changes=reconciler.journal.total,
            reports=reports,
            figures=reconciler.backend.figures(),
        )
        return state.state_document(self._cache, reconciler.desired.ports.values(), facts, now_s)


def _in_order(names: list[ServiceName]) -> Generator[None, None, list[ServiceName]]:
    ordered: list[ServiceName] = []
    for name in in_order(names, tuple):
        if name is not None:
            ordered.append(name)
        yield
    return ordered


async def _at_once(work: Callable[[], T]) -> T:
    return work()


def _now() -> Clock:
    return Clock(time.monotonic(), time.time())


def _choice(request: web.Request, name: str, allowed: tuple[T, ...]) -> T:
    """Return a parameter that is one of a few words, the first where it is missing. Raises ParameterError."""
    given = request.query.get(name, allowed[0])
    for word in allowed:
        if word == given:
            return word
    raise listing.ParameterError(f"{name}: one of {', '.join(filter(None, map(str, allowed)))}")


def _wants_html(request: web.Request) -> bool:
    """Whether a browser asks: by its Accept header, unless the output is named."""
    if "output" in request.query:
        return _choice(request, "output", ("json", "html")) == "html"
    return "text/html" in request.headers.get(hdrs.ACCEPT, "")


def _html(text: str) -> web.Response:
    return web.Response(
        body=text.encode("utf-8", "backslashreplace"),
        content_type="text/html",
        charset="utf-8",
        headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY},
    )


def _json(document: object) -> web.Response:
    return web.Response(body=encode(document), content_type="application/json", charset="utf-8")


def _text(text: str) -> web.Response:
    return web.Response(
        body=text.encode("utf-8", "backslashreplace"), content_type="text/plain", charset="utf-8"
    )
