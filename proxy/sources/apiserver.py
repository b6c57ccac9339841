"""The API server as a source: four reflectors, one connection each, and the loop that does what they ask.

Shell. What to request, what an answer means and when to try again is decided by `reflector`; who we are is found out by
`credentials`, HTTP is spoken by `transport`. Here are the clock, the randomness, the log, and the rule that the event
loop has its turn after a few milliseconds of work, however much has arrived.

Nothing a server does ends this source: whatever went wrong is counted, logged when it begins and when it is over, and
tried again. Only credentials that are wrong at the start are the operator's affair and end the program.
"""

import asyncio
import importlib
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from msgspec import structs

from proxy.config.settings import ApiServerSettings, Settings
from proxy.errors import ApiError
from proxy.events_recorder import Recorder
from proxy.sources import credentials
from proxy.sources.access import Access, public
from proxy.sources.answers import decode_status
from proxy.sources.backoff import Backoff, parse_retry_after
from proxy.sources.event_writer import EventWriter
from proxy.sources.events import Deliver, Event, Trouble, WatchReport
from proxy.sources.lines import LineCutter
from proxy.sources.reflector import Limits, Reflector, Wait
from proxy.sources.resources import Request, resources

if TYPE_CHECKING:
    from proxy.sources.transport import Answer, Transport

_LOG = logging.getLogger(__name__)

T = TypeVar("T")

_LONGEST_REFUSAL: Final = 64 << 10
_BUDGET_S: Final = 0.003
_BATCH: Final = 256
# While the server is away one kind keeps asking for it. The others ask seldom, and join in when it has answered.
_ASKING: Final = "EndpointSlice"
_SELDOM: Final = 4.0


class ApiServerSource:
    """Delivers the Services and EndpointSlices of a cluster, the own Node, and its ranges of cluster IPs."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Access] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """What the `recorder` has is sent while the source runs."""
        self._settings = settings
        self._recorder = recorder
        self._load = load or (lambda: credentials.load(settings))
        self._lack: Lack | None = None
        now_s = time.monotonic()
        self._reflectors = [
            Reflector(
                resource,
                _limits(settings.api_server, asks_often=resource.kind == _ASKING),
                settings.node_name,
                now_s,
            )
            for resource in resources(settings.node_name)
        ]

    def report(self) -> Sequence[WatchReport]:
        """Return how it stands, kind by kind."""
        reports = [reflector.report() for reflector in self._reflectors]
        return tuple(reports if self._lack is None else map(self._lack.amend, reports))

    async def run(self, deliver: Deliver) -> None:
        """Deliver what the server has and what changes in it. Never returns. Raises ConfigError at the start only."""
        who = credentials.Credentials(self._load)
        # The two large imports; neither is worth a stalled event loop.
        importing = credentials.in_thread(
            lambda: importlib.import_module("proxy.sources.transport")
        )
        access, module = await asyncio.gather(self._first(who), importing)
        _announce(access)
        async with (
            module.Transport(self._settings.api_server.connect_timeout_s) as transport,
            asyncio.TaskGroup() as tasks,
        ):
            watchers: list[Watcher] = []

            def on_contact() -> None:
                for watcher in watchers:
                    watcher.hurry()

            watchers += [
                Watcher(reflector, who, transport, deliver, on_contact)
                for reflector in self._reflectors
            ]
            for watcher in watchers:
                tasks.create_task(watcher.run())
            if self._recorder is not None:
                tasks.create_task(EventWriter(self._recorder, who, transport).run())

    async def _first(self, who: credentials.Credentials) -> Access:
        """Return the first credentials; as long as a plugin fails, as at the start of a host, it is asked again."""
        backoff = _limits(self._settings.api_server, asks_often=True).backoff
        for failures in itertools.count(1):
            try:
                access = await who.get()
            except ApiError as error:
                if self._lack is None or self._lack.error != str(error):
                    _LOG.warning("no credentials yet: %s; it is tried again", error)
                self._lack = Lack(failures, str(error))
            else:
                self._lack = None
                return access
            await asyncio.sleep(backoff.pause_s(failures, random.random()))  # noqa: S311 - jitter
        raise AssertionError


class Lack(NamedTuple):
    """There are no credentials yet, so nothing can be asked."""

    failures: int
    error: str

    def amend(self, report: WatchReport) -> WatchReport:
        """Return the report of somebody who could not ask for this reason."""
        return structs.replace(report, failures=self.failures, error=self.error)


def _limits(settings: ApiServerSettings, *, asks_often: bool) -> Limits:
    first_s, max_s = settings.backoff_first_s, settings.backoff_max_s
    factor = 1.0 if asks_often else _SELDOM
    return Limits(
        backoff=Backoff(first_s=first_s, max_s=max_s),
        away_backoff=Backoff(first_s=first_s, max_s=max_s * factor),
        silence_s=settings.silence_timeout_s,
        resume_within_s=settings.resume_within_s,
        page_size=settings.list_page_size,
        uses_watch_list=settings.uses_watch_list,
        watch_list_s=settings.watch_list_timeout_s,
    )


def _announce(access: Access) -> None:
    through = f" through {public(access.proxy)}" if access.proxy else ""
    _LOG.info("API server %s%s", access.server, through)
    if access.tls is None:
        _LOG.warning(
            "%s is asked without TLS: anybody in between can read and change it", access.server
        )
    elif not access.tls.check_hostname:
        _LOG.warning(
            "the certificate of %s is not verified (insecure-skip-tls-verify)", access.server
        )


class Watcher:
    """Does what one reflector asks for."""

    def __init__(
        self,
        reflector: Reflector,
        who: credentials.Credentials,
        transport: "Transport",
        deliver: Deliver,
        on_contact: Callable[[], None],
    ) -> None:
        self._reflector = reflector
        self._who = who
        self._transport = transport
        self._deliver = deliver
        self._on_contact = on_contact
        self._access: Access | None = None
        self._nudge = asyncio.Event()
        self._voice = Voice(reflector)

    def hurry(self) -> None:
        """End a pause that was for a server which is back."""
        if self._reflector.hurry(time.monotonic()):
            self._nudge.set()

    async def run(self) -> None:
        """Ask, for ever."""
        while True:
            step = self._reflector.next(time.monotonic(), random.random())  # noqa: S311 - jitter
            if isinstance(step, Wait):
                await self._wait(step.until_s)
            else:
                await self._perform(step)
                self._voice.speak(self._access)

    async def _wait(self, until_s: float) -> None:
        self._nudge.clear()
        try:
            async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                await self._nudge.wait()
        except TimeoutError:
            pass

    async def _perform(self, request: Request) -> None:
        from proxy.sources.transport import TransportError  # noqa: PLC0415 - loaded by now

        reflector = self._reflector
        try:
            refused = self._access if reflector.is_unauthorized else None
            self._access = await self._who.get(refused)
            await self._exchange(self._access, request)
        except ApiError as error:
            reflector.fail("unauthorized", str(error), time.monotonic())
        except TransportError as error:
            reflector.fail(error.trouble, str(error), time.monotonic())

    async def _exchange(self, access: Access, request: Request) -> None:
        reflector = self._reflector
        answer = await self._timely(
            self._transport.get(access, request.target, is_watch=request.is_watch)
        )
        if answer is None:
            if reflector.is_open:  # the timer was early; the request is lost all the same
                reflector.fail("timeout", "no answer in time", time.monotonic())
            return
        try:
            now_s = time.monotonic()
            if answer.status != 200:
                await self._be_refused(answer)
                return
            reflector.accept(now_s)
            self._on_contact()
            if request.is_watch:
                await self._follow(answer)
            else:
                body = await self._body(answer)
                if reflector.is_open:
                    now_s = time.monotonic()
                    await self._work(reflector.read_page(body, now_s), now_s)
        finally:
            answer.close()

    async def _be_refused(self, answer: "Answer") -> None:
        body = await self._body(answer, _LONGEST_REFUSAL)
        if not self._reflector.is_open:
            return
        status = decode_status(body, answer.status)
        header_s = parse_retry_after(answer.headers.get("Retry-After"))
        asked_s = max(header_s, status.retry_after_s)
        self._reflector.refuse(status._replace(retry_after_s=asked_s), time.monotonic())
        if answer.status < 500:
            self._on_contact()

    async def _timely(self, result: Awaitable[T]) -> T | None:
        """Wait for something until the reflector's deadline; None if that has come."""
        until_s = self._reflector.deadline_s - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, until_s)):
                return await result
        except TimeoutError:
            self._reflector.expire(time.monotonic())
            return None

    async def _body(self, answer: "Answer", at_most: int | None = None) -> bytearray:
        """Return the body, or the beginning of one that is of no interest beyond that."""
        body = bytearray()  # joining the pieces of a long list takes its memory twice
        while self._reflector.is_open and (at_most is None or len(body) < at_most):
            piece = await self._timely(answer.piece())
            if piece is None:
                continue
            if not piece:
                break
            self._reflector.heard(time.monotonic())
            body += piece
        return body

    async def _follow(self, answer: "Answer") -> None:
        """Read a watch for as long as the reflector wants it."""
        reflector, lines = self._reflector, LineCutter()
        while reflector.is_open:
            piece = await self._timely(answer.piece())
            self._voice.speak(self._access)
            if piece is None:
                continue
            received_s = time.monotonic()
            if not piece:
                reflector.end(received_s, is_truncated=lines.is_within_line)
                return
            reflector.heard(received_s)
            events = (reflector.read_line(line, received_s) for line in lines.cut(piece))
            await self._work(events, received_s)

    async def _work(self, steps: Iterable[list[Event]], received_s: float) -> None:
        """Deliver what the steps come to, in batches that each take a bounded time."""
        batch: list[Event] = []
        deadline_s = time.monotonic() + _BUDGET_S
        for events in steps:
            batch += events
            if not self._reflector.is_open:
                break
            if time.monotonic() >= deadline_s:
                await self._hand_over(batch, received_s)
                await asyncio.sleep(0)
                batch, deadline_s = [], time.monotonic() + _BUDGET_S
        await self._hand_over(batch, received_s)

    async def _hand_over(self, batch: list[Event], received_s: float) -> None:
        """Deliver. A list that ends may delete thousands at once."""
        for start in range(0, len(batch), _BATCH):
            if start:
                await asyncio.sleep(0)
            self._deliver(batch[start : start + _BATCH], received_s)


class Voice:
    """Says once that something is wrong, and once that it is over, however often it is tried in between."""

    def __init__(self, reflector: Reflector) -> None:
        self._reflector = reflector
        self._said: set[Trouble] = set()
        self._began_s = 0.0
        self._no_stream = ""

    def speak(self, access: Access | None) -> None:
        """Log what is new."""
        trouble = self._reflector.last_trouble
        if trouble is None:
            if self._said:
                self._say_over()
        elif trouble not in self._said:
            self._begin(trouble, access)
        if self._reflector.no_stream != self._no_stream:
            self._no_stream = self._reflector.no_stream
            _LOG.info("%s are listed in pages: %s", self._name, self._no_stream)

    @property
    def _name(self) -> str:
        return self._reflector.report().kind + "s"

    def _begin(self, trouble: Trouble, access: Access | None) -> None:
        if not self._said:
            self._began_s = time.monotonic()
        self._said.add(trouble)
        server = access.server if access is not None else "API server"
        error = self._reflector.report().error
        # Where little changes, watches of servers that are well are silent, and load balancers cut them off.
        level = logging.INFO if trouble in ("silent", "closed") else logging.WARNING
        _LOG.log(level, "%s: %s: %s: %s; it is tried again", server, self._name, trouble, error)

    def _say_over(self) -> None:
        self._said.clear()
        seconds = time.monotonic() - self._began_s
        _LOG.info("%s are watched again, after %.1f s of trouble", self._name, seconds)
