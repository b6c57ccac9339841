"""/healthz, /livez and /readyz, for load balancers, probes and people. Shell.

What they answer is decided in `proxy.health`; the first two answer as kube-proxy's do, byte for byte.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import hdrs, web

from proxy import health
from proxy.health import Clock, Condition
from proxy.reconciler import Reconciler
from proxy.sources.events import WatchReport

_HEADERS: Final = {
    hdrs.CONTENT_TYPE: "application/json",
    "X-Content-Type-Options": "nosniff",
}
Answer = Callable[[Condition, Clock, float], tuple[bool, bytes]]


def add_routes(
    app: web.Application,
    reconciler: Reconciler,
    report: Callable[[], Sequence[WatchReport]],
    timeout_s: float,
    count: Callable[[str, int], None],
) -> None:
    """Serve the three pages. `count` is told of each answer of the first two: which page, and which status.

    A change that waits for `timeout_s` makes the proxy unhealthy; kube-proxy has twice its syncPeriod there.
    """

    def serve(path: str, answer: Answer) -> None:
        async def get(_request: web.Request) -> web.Response:
            clock = Clock(monotonic_s=time.monotonic(), unix_ns=time.time_ns())
            is_good, body = answer(reconciler.condition(clock.monotonic_s), clock, timeout_s)
            status = 200 if is_good else 503
            count(path, status)
            return web.Response(status=status, body=body, headers=_HEADERS)

        app.router.add_route(hdrs.METH_ANY, f"/{path}", get)

    async def get_readyz(_request: web.Request) -> web.Response:
        now_s = time.monotonic()
        condition = reconciler.condition(now_s)
        found = health.degraded(condition, report(), now_s, timeout_s)
        is_ready, text = health.readyz(condition, found)
        headers = {"X-Content-Type-Options": "nosniff"}
        return web.Response(status=200 if is_ready else 503, text=text, headers=headers)

    serve("healthz", health.healthz)
    serve("livez", health.livez)
    app.router.add_route(hdrs.METH_ANY, "/readyz", get_readyz)
