"""`/debug/state` on the metrics address: what the daemon knows and how far it is. Shell.

Loopback only unless configured. Requests with a foreign Host header are refused, so that a page in somebody's
browser cannot read it by rebinding a name to this address; so are all methods but GET.
"""

import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from proxy.reconciler import Reconciler

_LOCAL_NAMES: Final = frozenset({"localhost", "ip6-localhost"})
BIND_RETRY_S: Final = 5.0

log = logging.getLogger(__name__)


def state(reconciler: Reconciler, mode: str) -> dict[str, Any]:
    """Return the state document."""
    cache, now_s = reconciler.cache, time.monotonic()
    return {
        "mode": mode,
        "node": cache.node,
        "synced": reconciler.is_synced.is_set(),
        "waitingFor": sorted(cache.unlisted),
        "revision": cache.revision,
        "services": len(cache.services),
        "servicePorts": len(reconciler.desired.ports),
        "degraded": degraded(reconciler, now_s),
        "lastError": reconciler.last_error,
        "quarantined": [
            {
                "servicePort": str(key.name),
                "protocol": key.name.protocol,
                "family": key.family,
                "reason": q.reason,
                "failures": q.failures,
                "retryInSeconds": round(max(0.0, q.retry_s - now_s), 1),
            }
            for key, q in reconciler.quarantine.items()
        ],
        "contested": [
            {"servicePort": str(key.name), "family": key.family, "ownedByOthers": port.lost}
            for key, port in reconciler.desired.ports.items()
            if port.lost
        ],
        "rejected": [problem for problems in cache.problems.values() for problem in problems],
        "kernel": {
            "operations": reconciler.operations,
            "transactions": reconciler.transactions,
        },
        "changes": reconciler.journal.total,
    }


def degraded(reconciler: Reconciler, now_s: float) -> list[str]:
    """Name everything that is not as it should be."""
    found: list[str] = []
    if reconciler.is_synced.is_set() and not reconciler.cache.node.is_known:
        found.append("the own Node is not known: neither its zone nor its addresses")
    elif reconciler.cache.unlisted:
        found.append(f"waiting for {', '.join(sorted(reconciler.cache.unlisted))}")
    elif not reconciler.is_synced.is_set():
        found.append("not yet programmed")
    if reconciler.last_error:
        found.append(reconciler.last_error)
    if reconciler.quarantine:
        found.append(f"{len(reconciler.quarantine)} service ports are refused by the kernel")
    if reconciler.schedule.is_contended(now_s):
        found.append("contended: somebody keeps changing our objects")
    return found


def application(reconciler: Reconciler, mode: str) -> web.Application:
    """Build the HTTP application."""

    async def get_state(_request: web.Request) -> web.Response:
        body = msgspec.json.format(msgspec.json.encode(state(reconciler, mode)), indent=2)
        return web.Response(body=body, content_type="application/json")

    app = web.Application(middlewares=[_guard])
    app.router.add_get("/debug/state", get_state, allow_head=False)
    return app


@web.middleware
async def _guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    if not is_local_host(request.headers.get("Host", "")):
        raise web.HTTPForbidden(text="this endpoint answers only to its own address\n")
    response = await handler(request)
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def is_local_host(header: str) -> bool:
    """Whether a Host header names an address, or this host by its fixed names; other names could be anybody's."""
    host = header.rsplit(":", 1)[0] if header.count(":") == 1 or "]:" in header else header
    if host in _LOCAL_NAMES:
        return True
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


async def serve(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Start serving. Raises OSError when the address cannot be bound."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner
