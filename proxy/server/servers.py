"""All that listens: health, metrics and debug pages, health check node ports. Shell; the only module that knows all pages."""

import asyncio
import ipaddress
from collections.abc import Callable
from functools import partial

from aiohttp import web

from proxy import metrics
from proxy.config.addresses import HostPort
from proxy.journal import Round
from proxy.parts import Parts
from proxy.server import debug, guard, health, serving
from proxy.server import metrics as metrics_pages
from proxy.server.connections import Connections
from proxy.server.health_check_node_ports import HealthCheckNodePorts

Hear = Callable[[Round], None]


async def run(parts: Parts, hearers: list[Hear]) -> None:
    """Serve until cancelled what the settings ask for. Raises ProxyError where an address is taken and may not be.

    `hearers` are told of each round of the reconciler; who has to know of them here joins in.
    """
    settings = parts.settings
    checks = HealthCheckNodePorts(
        parts.reconciler,
        parts.is_healthy,
        parts.announcer.busy,
        connections=Connections(parts.listeners),
    )
    hearers.append(checks.heard)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(checks.run())

        def start(app: web.Application, address: HostPort, failed: str) -> None:
            life = serving.serve_forever(
                app,
                *address,
                is_hard_fail=settings.bind_address_hard_fail,
                listeners=parts.listeners,
                tell=partial(parts.announcer.warn, failed),
            )
            tasks.create_task(life)

        if settings.healthz_bind is not None:
            app = web.Application()
            report = parts.source.report
            health.add_routes(app, parts.reconciler, report, parts.timeout_s, parts.meter.answered)
            start(app, settings.healthz_bind, "FailedToStartProxierHealthcheck")
        if settings.metrics_bind is not None:
            host, _ = settings.metrics_bind
            start(_metrics(parts, host), settings.metrics_bind, "FailedToStartMetricServer")


def _metrics(parts: Parts, host: str) -> web.Application:
    """Make the application with the metrics and, where nobody else can ask or the operator allows it, the debug pages."""
    settings, reconciler = parts.settings, parts.reconciler
    app = guard.application(is_local_only=is_loopback(host))
    everything = metrics.everything(
        reconciler,
        parts.verifier,
        parts.source,
        parts.meter,
        timeout_s=parts.timeout_s,
        sweeper=parts.sweeper,
        recorder=parts.recorder,
    )
    metrics_pages.add_routes(
        app,
        everything,
        metrics.indicators(reconciler, parts.timeout_s),
        lambda: reconciler.backend.name,
        lambda: metrics_pages.configz(settings.configuration),
    )
    is_for_all = settings.debug_allow_non_loopback
    debug.add_routes(app, reconciler, settings, parts.source.report, is_for_all=is_for_all)
    return app


def is_loopback(host: str) -> bool:
    """Whether only this host can reach an address."""
    return ipaddress.ip_address(host).is_loopback
