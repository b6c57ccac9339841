"""The pages beside /metrics, and how /metrics is encoded."""

import gzip
import json

import pytest
from aiohttp import web

from proxy import metrics
from proxy.config import defaults
from proxy.config.kubeproxy import KubeProxyConfiguration
from proxy.server import guard
from proxy.server.metrics import add_routes, configz
from tests.unit.proxy.metrics.measured import TIMEOUT_S, Measured
from tests.unit.proxy.server.asking import Answer, ask

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text"


def pages() -> web.Application:
    measured = Measured()
    app = guard.application(is_local_only=True)
    indicators = metrics.indicators(measured.reconciler, TIMEOUT_S)
    add_routes(app, measured.registry(), indicators, lambda: "nftables", lambda: b'{"a":1}')
    return app


def asked(path: str, *, accept: str = "*/*", encoding: str = "identity") -> Answer:
    return ask(pages(), path, headers={"Accept": accept, "Accept-Encoding": encoding})


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/healthz", 200, "ok"),
        ("/proxyMode", 200, "nftables"),
        ("/flagz", 404, "flags are not served: /configz has the configuration that follows from them\n"),
        ("/statusz", 404, "there is no status page: /metrics has what is measured\n"),
    ],
)  # fmt: skip
def test_short_answers_are_plain_text(path: str, status: int, text: str) -> None:
    answer = asked(path)

    assert (answer.status, answer.text) == (status, text)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_configuration_in_use_is_served_as_it_is_given() -> None:
    answer = asked("/configz")

    assert (answer.status, answer.text) == (200, '{"a":1}')
    assert answer.headers["Content-Type"].startswith("application/json")


def test_the_configuration_is_written_as_kube_proxy_writes_it() -> None:
    config = defaults.fill(KubeProxyConfiguration())

    document = json.loads(configz(config))["kubeproxy.config.k8s.io"]

    assert document["bindAddress"] == "0.0.0.0"
    assert document["configSyncPeriod"] == "15m0s"
    assert document["conntrack"]["tcpCloseWaitTimeout"] == "1h0m0s"
    assert document["iptables"]["syncPeriod"] == "30s"


@pytest.mark.parametrize(
    ("path", "name"),
    [("/metrics", "sliceproxy_build_info"), ("/metrics/slis", "kubernetes_healthcheck")],
)
@pytest.mark.parametrize(
    ("accept", "content_type", "end"),
    [
        ("*/*", TEXT, ""),
        ("text/plain;version=0.0.4", TEXT, ""),
        ("text/plain;version=none", TEXT, ""),
        ("application/openmetrics-text;version=1.x", TEXT, ""),
        (f"{OPENMETRICS};version=1.0.0,text/plain;q=0.5", OPENMETRICS, "# EOF\n"),
    ],
)
def test_metrics_come_in_the_format_that_is_asked_for(
    path: str, name: str, accept: str, content_type: str, end: str
) -> None:
    answer = asked(path, accept=accept)

    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(content_type)
    assert answer.text.endswith(end)
    assert name in answer.text
    assert ("# EOF" in answer.text) == bool(end)


@pytest.mark.parametrize(
    ("encoding", "is_zipped"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.0, br", False),
        ("br", False),
    ],
)
def test_metrics_are_zipped_where_the_client_takes_it(encoding: str, *, is_zipped: bool) -> None:
    answer = asked("/metrics", encoding=encoding)

    assert answer.headers["Vary"] == "Accept-Encoding"
    assert (answer.headers.get("Content-Encoding") == "gzip") == is_zipped
    body = gzip.decompress(answer.body) if is_zipped else answer.body
    assert b"sliceproxy_build_info" in body
