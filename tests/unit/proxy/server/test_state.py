"""How the proxy is doing, as a document and in text."""

from msgspec import structs

from proxy.backend import Figure
from proxy.backlog import Quarantined
from proxy.cache import Cache
from proxy.desired import Frontend
from proxy.health import Degraded
from proxy.model import NodeInfo, Rejected
from proxy.server.state import SHOWN, Facts, KernelWork, StateDocument, render_text, state_document
from proxy.sources.events import KINDS, Problems, Synced, Upsert, WatchReport
from tests.desired_strategies import make_desired
from tests.model_builders import make_key, make_node

FACTS = Facts(
    mode="nftables",
    version="1.2",
    is_synced=True,
    last_error="",
    degraded=(),
    quarantine={},
    kernel=KernelWork(operations=7, transactions=2),
    changes=5,
    reports=(),
)
REPORT = WatchReport(
    kind="Service",
    phase="waiting",
    since_s=90.0,
    heard_s=0.0,
    resource_version="17",
    objects=3,
    lists=1,
    watches=2,
    failures=4,
    retry_s=112.0,
    error="connection refused",
    errors={"connect": 4},
)


def cache_of(*problems: Rejected) -> Cache:
    cache = Cache(NodeInfo(name="n1"))
    cache.apply([*map(Synced, KINDS), Upsert(make_node())], 0.0)
    cache.apply([Problems(f"File {n}", (one,)) for n, one in enumerate(problems)], 0.0)
    return cache


def document(facts: Facts = FACTS, cache: Cache | None = None) -> StateDocument:
    return state_document(cache or cache_of(), [], facts, 100.0)


def test_a_healthy_proxy_in_text() -> None:
    assert render_text(document()) == (
        "sliceproxy 1.2  nftables  on node n1, zone z1\n"
        "  synced       yes\n"
        "  services     0, with 0 ports on this node\n"
        "  changes      5 programmed since the start\n"
        "  kernel       7 objects written in 2 transactions\n"
    )


def test_what_only_this_data_plane_counts_is_told() -> None:
    figures = (
        Figure(name="waiting_doors", text="", values={"": 2}),
        Figure(name="closed_doors_total", text="", values={"idle": 3, "late": 0}, label="reason"),
    )

    told = document(FACTS._replace(mode="doors", figures=figures))

    assert told.figures == figures
    assert (
        "  doors        waiting doors: 2\n  doors        closed doors: 3 idle, 0 late\n"
    ) in render_text(told)


def test_what_is_waited_for_is_named() -> None:
    waiting = state_document(Cache(NodeInfo(name="n1")), [], FACTS._replace(is_synced=False), 0.0)

    assert waiting.waiting_for == ("EndpointSlice", "Node", "Service")
    assert "no, waiting for EndpointSlice, Node, Service\n" in render_text(waiting)
    assert "zone unknown" in render_text(waiting)
    assert "no, not yet programmed" in render_text(document(FACTS._replace(is_synced=False)))


def test_the_kernels_refusals_and_degradations_are_told() -> None:
    quarantine = {make_key(): Quarantined(reason="no memory", failures=3, retry_s=102.04)}
    told = document(
        FACTS._replace(
            quarantine=quarantine, degraded=[Degraded(code="node", words="something is wrong")]
        )
    )

    (refused,) = told.quarantined
    assert (refused.service_port, refused.failures) == ("default/web", 3)
    assert refused.retry_in_seconds == 2.0
    text = render_text(told)
    assert "  DEGRADED     something is wrong\n" in text
    assert "default/web (TCP, IPv4): no memory\n" in text


def test_a_contested_address_is_told() -> None:
    port = structs.replace(
        make_desired("default/web"), lost=(Frontend("ExternalIP", "192.0.2.1", 80),)
    )
    told = state_document(cache_of(), [port, make_desired("default/api")], FACTS, 0.0)

    (contested,) = told.contested
    assert contested.owned_by_others == ("ExternalIP 192.0.2.1:80",)
    assert told.service_ports == 2
    assert "ExternalIP 192.0.2.1:80 is owned by an older service\n" in render_text(told)


def test_long_lists_are_cut_and_say_so() -> None:
    rejected = [Rejected(kind="Service", name=f"n/{n}", field="", reason="x") for n in range(2000)]
    told = document(cache=cache_of(*rejected))

    assert (len(told.rejected), told.rejected_total) == (SHOWN, 2000)
    text = render_text(told)
    assert text.count("rejected") == 11
    assert "… and 1990 more\n" in text


def test_it_is_told_how_it_stands_with_the_api_server() -> None:
    told = document(FACTS._replace(reports=[REPORT]))

    (watch,) = told.watches
    assert (watch.since_seconds, watch.heard_seconds_ago) == (10.0, None)
    assert (watch.retry_in_seconds, watch.errors) == (12.0, {"connect": 4})
    assert (
        "  Service      waiting for 10 s, 3 objects; connection refused; again in 12 s\n"
        in render_text(told)
    )


def test_text_from_outside_cannot_steer_a_terminal() -> None:
    evil = Rejected(kind="Service", name="n/\x1b[2J", field="", reason="\r\n")

    text = render_text(document(cache=cache_of(evil)))

    assert "\x1b" not in text
    assert "\r" not in text
