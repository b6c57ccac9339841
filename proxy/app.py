"""The composition root: builds everything from settings, runs it in one task group, and takes it down. Shell.

The only module that imports backends. A task that dies takes the process down; SIGTERM and SIGINT end it in
order. Either way the rules stay in the kernel: a proxy that restarts must not be noticed.
"""

import asyncio
import contextlib
import errno
import functools
import importlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import uvloop
from msgspec import structs

import backends
from proxy import (
    descent,
    feeding,
    handover,
    heap,
    host_addresses,
    ladder,
    listeners,
    localhost,
    rehearsal,
    rejections,
    sysctls,
    threads,
)
from proxy.announcer import Announcer
from proxy.backend import Backend, Draining
from proxy.beside import Beside
from proxy.cache import Cache
from proxy.config.settings import Settings
from proxy.conntrack_sweeper import Sweeper
from proxy.conntrack_table import open_table
from proxy.descent import Descent
from proxy.desired import DesiredState
from proxy.desired_node import NodeSettings
from proxy.errors import ConfigError, KernelError, ProxyError, Unsupported
from proxy.events_recorder import Recorder
from proxy.journal import Round
from proxy.ladder import Refusal
from proxy.listeners import Listeners
from proxy.meter import Meter
from proxy.model import NodeInfo
from proxy.parts import Parts
from proxy.reconciler import Reconciler
from proxy.rehearsal import Rehearsal
from proxy.schedule import Schedule
from proxy.sources.events import Event, Problems, Source
from proxy.verifier import Verifier

SERVE_AT_LATEST_S: Final = 2.0

OOM_SCORE: Final = Path("/proc/self/oom_score_adj")

log = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Run until told to stop and return the exit code."""
    threads.switch_often()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))
    return 0


def init(settings: Settings) -> int:
    """Do what needs more rights than the proxy itself, then return, so that it can run with fewer."""
    with asyncio.Runner() as runner:
        runner.run(_init(settings))
    return 0


def plan(settings: Settings, limit_s: float) -> Rehearsal:
    """Return what `run` would do to the kernel now. Objects are waited for at most `limit_s`."""
    if settings.manifests is not None and not Path(settings.manifests).exists():
        raise ConfigError(f"--manifests: {settings.manifests}: no such file or directory")
    with asyncio.Runner() as runner:
        return runner.run(_plan(settings, limit_s))


async def _plan(settings: Settings, limit_s: float) -> Rehearsal:
    backend, passed_over = await choose_backend(settings, None)
    with contextlib.closing(backend):
        cache, desired = Cache(NodeInfo(name=settings.node_name)), desired_by(settings)
        missing = await feeding.read_all(source_of(settings), cache, limit_s)
        addresses = host_addresses.read_now(without=backends.OWN_DEVICE)
        desired.update_node(cache.node, addresses, cache.service_cidrs)
        for name, service in cache.services.items():
            desired.update(name, service, cache.endpoints(name), cache.node)
        found = await rehearsal.rehearse(backend, desired)
    return structs.replace(
        found,
        node=settings.node_name,
        passed_over=passed_over,
        warnings=(*missing, *rejections.warnings(cache)),
    )


async def _init(settings: Settings) -> None:
    backend, _ = await choose_backend(settings, Listeners())
    backend.close()
    if backend.name not in backends.WITHOUT_TRACKING:
        sysctls.require(settings.conntrack)


def cleanup(settings: Settings, mode: str = "") -> list[str]:
    """Remove what one backend, or any, has put into the kernel; return a line for each. Raises ConfigError for no mode."""
    if mode and mode not in backends.FACTORIES:
        raise ConfigError(f"--mode: {mode!a} is none of {', '.join(backends.FACTORIES)}")
    with asyncio.Runner() as runner:
        return runner.run(_cleanup(settings, [mode] if mode else list(backends.FACTORIES)))


async def _cleanup(settings: Settings, modes: Iterable[str]) -> list[str]:
    lines = []
    for name in modes:
        try:
            with contextlib.closing(backends.create(name, settings)) as backend:
                count = await backend.cleanup()
        except ProxyError as error:
            if handover.says_nothing_can_be_left(error):
                continue
            if isinstance(error, KernelError) and error.errno == errno.EPERM:
                if "NET_ADMIN" in error.message:
                    raise
                why = f"needs the capability NET_ADMIN ({error.message})"
                raise KernelError(error.request, error.errno, why) from error
            raise
        if count:
            lines.append(f"{name}: removed {count} objects")
    return lines or ["nothing of ours was found"]


def protect_from_oom(settings: Settings, file: Path = OOM_SCORE) -> None:
    """Tell the kernel how readily to kill this process when memory is short: by default not before most others."""
    try:
        file.write_text(f"{settings.oom_score_adj}\n")
    except OSError as error:  # lowering it takes CAP_SYS_RESOURCE
        log.info(
            "oomScoreAdj %d could not be set, going on without: %s",
            settings.oom_score_adj,
            error.strerror,
        )


async def _run(settings: Settings) -> None:
    protect_from_oom(settings)
    recorder = Recorder(settings.node_name, is_on=uses_api_server(settings))
    source = source_of(settings, recorder)
    path = Path(settings.state_dir) / listeners.FILE
    passed = await threads.to_thread(Listeners.inherited_from, path)
    backend, passed_over = await choose_backend(settings, passed)
    with contextlib.ExitStack() as made:
        made.callback(backend.close)
        if backend.name not in backends.WITHOUT_TRACKING:
            sysctls.attempt(settings.conntrack)
        reconciler = build(settings, backend, passed_over)
        try:
            await serve(reconciler, settings, source, recorder, passed, made)
        except* ProxyError as group:
            raise _first(group) from None


def _first(group: BaseExceptionGroup[ProxyError]) -> ProxyError:
    """Return one of the errors that ended the process: the others are its consequences."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def choose_backend(
    settings: Settings, passed: Listeners | None
) -> tuple[Backend[Any, Any], tuple[Refusal, ...]]:
    """Return the first backend that can do everything needed here, and why not a better one.

    `passed` are the listening sockets to go on with; None for a backend that is only to be asked: nothing is set for it, and
    nobody listens beside it. Raises Unsupported, naming what is missing.
    """
    create = functools.partial(make_backend, settings=settings, passed=passed)
    backend, refusals = await descent.choose(modes(settings), create, is_to_run=passed is not None)
    if backend is None:
        raise Unsupported(ladder.nowhere_words(settings.mode, settings.fallback, refusals))
    return backend, refusals


def modes(settings: Settings) -> tuple[str, ...]:
    """Return the modes that may be tried, best first."""
    return ladder.rungs(settings.mode, settings.fallback, backends.AUTOMATIC)


def make_backend(mode: str, settings: Settings, passed: Listeners | None) -> Backend[Any, Any]:
    """Make the backend of a mode that is tried, with one for localhost beside it where it needs one and may listen.

    Raises Unsupported.
    """
    if mode == "ipvs" and settings.ipvs.problem:
        raise Unsupported("its settings", settings.ipvs.problem)
    backend = backends.create(mode, settings, passed)
    families = localhost.families(settings.node_port_addresses)
    if passed is None or mode not in backends.WITHOUT_LOCALHOST:
        return backend
    if not (settings.localhost_node_ports and families):
        return backend
    listening = backends.create("userspace", settings, passed)
    return Beside(backend, listening, localhost.Localhost(families))


def uses_api_server(settings: Settings) -> bool:
    """Whether objects come from an API server, as they do unless something else was said."""
    return settings.manifests is None and settings.watch_events is None


def source_of(settings: Settings, recorder: Recorder | None = None) -> Source:
    """Return where objects come from. An API server is sent what the recorder has."""
    if settings.manifests is not None:
        from proxy.sources.manifests_watch import ManifestSource  # noqa: PLC0415 - only the source in use

        return ManifestSource(Path(settings.manifests), settings.node_name)
    if settings.watch_events is not None:
        from proxy.sources.stream import StreamSource  # noqa: PLC0415

        return StreamSource(settings.watch_events, settings.node_name)
    from proxy.sources.apiserver import ApiServerSource  # noqa: PLC0415

    return ApiServerSource(settings, recorder=recorder)


async def serve(
    reconciler: Reconciler,
    settings: Settings,
    source: Source,
    recorder: Recorder,
    passed: Listeners,
    made: contextlib.ExitStack,
) -> None:
    """Run everything until SIGTERM or SIGINT; a second one cuts what is left. `made` is told what is to be closed at the end."""
    loop = asyncio.get_running_loop()
    stop, at_once = asyncio.Event(), asyncio.Event()

    def told_to_stop() -> None:
        (at_once if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop)
    with contextlib.closing(open_table()) as flows:
        sweeper = Sweeper(reconciler, flows, listening=backends.WITHOUT_TRACKING)
        announcer = Announcer(recorder, settings.node_name)
        announcer.started(reconciler.backend.name)
        announcer.fell_back(reconciler.backend.name, reconciler.passed_over)
        parts = Parts(
            settings,
            source,
            reconciler,
            Verifier(reconciler),
            sweeper,
            Meter(),
            recorder,
            announcer,
            passed,
        )
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(life, name=name) for name, life in _lives(parts, made)]
            await stop.wait()
            log.info("stopping; what is in the kernel stays")
            for task in running:
                task.cancel()
    await let_end(reconciler.backend, settings.userspace.drain_timeout_s, at_once)


async def let_end(backend: Backend[Any, Any], deadline_s: float, at_once: asyncio.Event) -> None:
    """Wait for connections that depend on this process, until told to end at once."""
    if not isinstance(backend, Draining):
        return
    draining = asyncio.create_task(backend.drain(deadline_s))
    hurried = asyncio.create_task(at_once.wait())
    await asyncio.wait([draining, hurried], return_when=asyncio.FIRST_COMPLETED)
    if draining.done():
        hurried.cancel()
        if left := draining.result():
            log.warning("%d connections have not ended within %g s and are cut", left, deadline_s)
    else:
        log.warning("told to stop again: connections that have not ended are cut")
        draining.cancel()
        await asyncio.wait([draining])


def _lives(
    parts: Parts, made: contextlib.ExitStack
) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
    """Yield what runs side by side for as long as the daemon lives, wired to each other."""
    reconciler, sweeper = parts.reconciler, parts.sweeper
    path = Path(parts.settings.state_dir) / listeners.FILE

    def deliver(events: Sequence[Event], received_s: float) -> None:
        for event in events:
            if isinstance(event, Problems):
                parts.announcer.heard(event, reconciler.cache.problems.get(event.object, ()))
                log_problems(event, reconciler.cache)
        reconciler.cache.apply(events, received_s, time.monotonic())
        reconciler.wake()

    descending = Descent(
        reconciler,
        parts.announcer,
        modes(parts.settings),
        functools.partial(make_backend, settings=parts.settings, passed=parts.listeners),
        leave=functools.partial(backends.create, settings=parts.settings),
        others=backends.others,
        keep=lambda backend: made.callback(backend.close),
        listeners=parts.listeners,
        limit_s=parts.settings.fallback_after_s,
    )
    hearers: list[Callable[[Round], None]] = [
        parts.meter.heard,
        sweeper.on_round,
        descending.heard,
    ]

    def hear_round(ended: Round) -> None:
        for hear in hearers:
            hear(ended)

    def hear_addresses(addresses: frozenset[str]) -> None:
        reconciler.hear_host_addresses(addresses)
        sweeper.on_addresses(addresses)

    reconciler.on_round = hear_round
    yield "source", feeding.feed(parts.source, deliver, reconciler.cache)
    yield "host addresses", host_addresses.watch(hear_addresses, without=backends.OWN_DEVICE)
    yield "reconciler", reconciler.run()
    yield "ladder", descending.run()
    yield "verifier", parts.verifier.run()
    yield "conntrack", sweeper.run()
    yield "heap", heap.rest_until(reconciler.is_synced)
    yield "loop lag", parts.meter.watch_loop()
    yield "announcer", parts.announcer.run(reconciler)
    yield "http", _serve_http(parts, hearers)
    yield "listeners", listeners.run(parts.listeners, path, reconciler.is_synced)


async def _serve_http(parts: Parts, hearers: list[Callable[[Round], None]]) -> None:
    # The HTTP library takes a while to load, a tenth of a second without a pause; services come first.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SERVE_AT_LATEST_S):
            await parts.reconciler.is_synced.wait()
    await threads.to_thread(importlib.import_module, "proxy.server.servers")
    from proxy.server import servers  # noqa: PLC0415 - loaded by now

    await servers.run(parts, hearers)


def log_problems(event: Problems, cache: Cache) -> None:
    """Say what is wrong with an object, once for as long as it stays the same."""
    known = cache.problems.get(event.object, ())
    for rejected in event.rejected:
        if rejected not in known:
            log.warning("%s", rejections.words(event.object, rejected))


def build(
    settings: Settings, backend: Backend[Any, Any], passed_over: tuple[Refusal, ...] = ()
) -> Reconciler:
    """Wire cache, desired state and backend together."""
    schedule = Schedule(
        now_s=time.monotonic(),
        min_interval_s=settings.min_sync_period_s,
        verify_period_s=settings.verify_period_s,
        poll_period_s=settings.generation_poll_period_s,
    )
    cache = Cache(NodeInfo(name=settings.node_name), started_s=time.time())
    reconciler = Reconciler(cache, desired_by(settings), backend, schedule)
    reconciler.passed_over = passed_over
    return reconciler


def desired_by(settings: Settings) -> DesiredState:
    """Return the desired state of a node of which nothing is known yet but how it is configured."""
    return DesiredState(
        NodeSettings(
            node_port_addresses=settings.node_port_addresses,
            bind_address=settings.bind_address,
            uses_pod_cidrs=settings.detect_local_mode == "NodeCIDR",
            serves_external_ips=settings.is_enabled("AllowServiceExternalIPs"),
        )
    )
