"""The health pages: status, headers, counting, and whatever method a probe uses."""

import json
import re

import pytest
from aiohttp import web

from proxy.health import CHECKS
from proxy.model import NodeInfo
from proxy.server import health
from proxy.sources.events import Upsert, WatchReport
from tests.model_builders import make_node, make_service
from tests.unit.proxy.metrics.measured import TIMEOUT_S, Measured
from tests.unit.proxy.server.asking import Answer, ask

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,8}[1-9])?Z")


@pytest.fixture
def measured() -> Measured:
    made = Measured([Upsert(make_service())])
    made.work()
    return made


def asked(measured: Measured, path: str, method: str = "GET") -> Answer:
    app = web.Application()
    health.add_routes(
        app, measured.reconciler, measured.report, TIMEOUT_S, measured.meter.answered
    )
    return ask(app, path, method=method)


@pytest.mark.parametrize(
    ("page", "keys"),
    [
        ("healthz", ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]),
        ("livez", ["lastUpdated", "currentTime", "healthy", "status"]),
    ],
)
def test_a_healthy_proxy_answers_as_kube_proxy_does(
    measured: Measured, page: str, keys: list[str]
) -> None:
    answer = asked(measured, f"/{page}")

    document = json.loads(answer.text)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert list(document) == keys
    assert answer.text == json.dumps(document, separators=(",", ":"))
    assert document["lastUpdated"] == document["currentTime"]
    assert TIME.fullmatch(document["currentTime"])
    assert list(document["status"]) == ["IPv4", "IPv6"]
    assert TIME.fullmatch(document["status"]["IPv4"]["lastUpdated"])


def test_a_node_that_leaves_makes_one_page_bad_and_not_the_other(measured: Measured) -> None:
    measured.reconciler.cache.apply([Upsert(make_node(leaving="it is deleted"))], 0.0)

    assert [asked(measured, path).status for path in ("/healthz", "/livez", "/readyz")] == [
        503,
        200,
        200,
    ]


def test_a_change_that_waits_too_long_makes_both_pages_bad(measured: Measured) -> None:
    waits_since_s = measured.now_s - 2 * TIMEOUT_S
    measured.reconciler.cache.apply(
        [Upsert(make_service("default/web", created=""))], waits_since_s
    )

    assert [asked(measured, path).status for path in ("/healthz", "/livez", "/readyz")] == [
        503,
        503,
        200,
    ]
    assert "[-]backlog failed: changes of IPv4" in asked(measured, "/readyz").text


def test_answers_are_counted_by_status(measured: Measured) -> None:
    asked(measured, "/healthz")
    asked(measured, "/livez")
    measured.reconciler.cache.apply([Upsert(make_node(leaving="it is deleted"))], 0.0)
    asked(measured, "/healthz")
    asked(measured, "/readyz")

    assert measured.meter.answers == {
        ("healthz", 200): 1,
        ("healthz", 503): 1,
        ("livez", 200): 1,
    }


@pytest.mark.parametrize("page", ["healthz", "livez", "readyz"])
@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS"])
def test_any_method_is_answered(measured: Measured, page: str, method: str) -> None:
    answer = asked(measured, f"/{page}", method)

    assert answer.status == 200
    assert bool(answer.text) == (method != "HEAD")


def test_readyz_lists_every_check_and_what_the_source_says(measured: Measured) -> None:
    measured.reports = (
        WatchReport(
            kind="Node",
            phase="waiting",
            since_s=0.0,
            heard_s=0.0,
            resource_version="",
            objects=0,
            lists=0,
            watches=0,
            failures=3,
            retry_s=0.0,
            error="403 Forbidden",
            errors={},
        ),
    )

    answer = asked(measured, "/readyz")

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "[-]watch failed: Node: 403 Forbidden\n" in answer.text
    assert re.findall(r"^\[.\]([a-z-]+)", answer.text, re.MULTILINE) == list(CHECKS)


def test_before_the_first_sync_the_proxy_is_alive_and_not_ready() -> None:
    measured = Measured([Upsert(make_service())])

    assert [asked(measured, path).status for path in ("/healthz", "/livez", "/readyz")] == [
        200,
        200,
        503,
    ]


def test_a_node_that_was_never_read_is_not_eligible(measured: Measured) -> None:
    measured.reconciler.cache.node = NodeInfo(name="n1")
    answer = asked(measured, "/healthz")

    assert (answer.status, json.loads(answer.text)["nodeEligible"]) == (503, False)
