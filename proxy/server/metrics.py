"""/metrics and what else kube-proxy serves beside it: /metrics/slis, /healthz, /proxyMode and /configz. Shell.

What this program does not have of it (/flagz, /statusz) is refused with a sentence that says where to look instead.
"""

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Generator
from typing import Final

import msgspec
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy.config import duration
from proxy.config.kubeproxy import KubeProxyConfiguration
from proxy.server import pieces

_NOSNIFF: Final = {"X-Content-Type-Options": "nosniff"}
_GROUP: Final = "kubeproxy.config.k8s.io"
_ABSENT: Final = {
    "/flagz": "flags are not served: /configz has the configuration that follows from them\n",
    "/statusz": "there is no status page: /metrics has what is measured\n",
}
_FAST: Final = 1
"""How hard gzip tries: what is sent goes a short way, and is asked for every few seconds."""

Handler = Callable[[web.Request], Awaitable[web.Response]]


def add_routes(
    app: web.Application,
    everything: CollectorRegistry,
    indicators: CollectorRegistry,
    mode: Callable[[], str],
    config: Callable[[], bytes],
) -> None:
    """Serve the metrics, the service level indicators, the mode's name, and the configuration in use (JSON)."""

    async def get_mode(_request: web.Request) -> web.Response:
        return web.Response(text=mode(), headers=_NOSNIFF)

    async def get_config(_request: web.Request) -> web.Response:
        return web.Response(body=config(), content_type="application/json", headers=_NOSNIFF)

    pages = {
        "/metrics": _exposition(everything),
        "/metrics/slis": _exposition(indicators),
        "/healthz": _text("ok"),
        "/proxyMode": get_mode,
        "/configz": get_config,
        **{path: _text(sentence, status=404) for path, sentence in _ABSENT.items()},
    }
    for path, handler in pages.items():
        app.router.add_get(path, handler, allow_head=False)


def configz(config: KubeProxyConfiguration) -> bytes:
    """Return what /configz says of a configuration: the one in use, with every default, as kube-proxy writes it."""
    return msgspec.json.encode({_GROUP: config}, enc_hook=_encode)


def _exposition(registry: CollectorRegistry) -> Handler:
    async def get(request: web.Request) -> web.Response:
        try:
            encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        except (TypeError, ValueError):  # a version that is none
            encode, content_type = choose_encoder("")
        headers = {hdrs.CONTENT_TYPE: content_type, hdrs.VARY: hdrs.ACCEPT_ENCODING, **_NOSNIFF}
        is_zipped = _accepts_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, ""))
        if is_zipped:
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        # Collected here, where nothing changes within a metric; written elsewhere, so that nothing waits for it.
        found = _Found(await pieces.in_pieces(_collected(registry)))

        def write() -> bytes:
            body = encode(found)
            return gzip.compress(body, _FAST) if is_zipped else body

        return web.Response(body=await asyncio.to_thread(write), headers=headers)

    return get


def _collected(registry: CollectorRegistry) -> Generator[None, None, list[Metric]]:
    found = []
    for metric in registry.collect():
        found.append(metric)
        yield
    return found


class _Found(Collector):
    """What was collected."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _text(text: str, status: int = 200) -> Handler:
    async def get(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers=_NOSNIFF)

    return get


def _accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header names gzip, and does not refuse it with a weight of 0 (RFC 9110, 12.5.3)."""
    for item in header.lower().split(","):
        coding, _, weight = item.partition(";")
        if coding.strip() in ("gzip", "*"):
            value = weight.strip().removeprefix("q=")
            return not value or value.strip("0.") != ""
    return False


def _encode(value: duration.Duration) -> str:
    return duration.render(value)
