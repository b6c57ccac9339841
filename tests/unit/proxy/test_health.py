"""Health: the age of work that is not done, what probes are told of it, and everything that is not as it should be."""

import json
from collections.abc import Mapping

import pytest
from msgspec import structs

from proxy.health import (
    CHECKS,
    Clock,
    Condition,
    Degraded,
    FamilyProgress,
    Progress,
    degraded,
    healthz,
    is_keeping_up,
    livez,
    readyz,
)
from proxy.model import FAMILIES, Family, NodeInfo
from proxy.sources.events import WatchReport
from tests.model_builders import make_node

TIMEOUT_S = 60.0
NOW = Clock(monotonic_s=1010.0, unix_ns=1767225610_000_000_000)  # 2026-01-01T00:00:10Z
IDLE = FamilyProgress(started_s=0.0, updated_s=1000.0)
LATE = FamilyProgress(started_s=0.0, updated_s=900.0, queued_s=950.0)
BOTH: Mapping[Family, FamilyProgress] = {"IPv4": IDLE, "IPv6": IDLE}


def condition(
    families: Mapping[Family, FamilyProgress] = BOTH, node: NodeInfo | None = None
) -> Condition:
    return Condition(
        is_synced=True, unlisted=frozenset(), node=node or make_node(), families=families
    )


def report(error: str = "") -> WatchReport:
    return WatchReport(
        kind="Service",
        phase="waiting",
        since_s=0.0,
        heard_s=0.0,
        resource_version="",
        objects=0,
        lists=0,
        watches=0,
        failures=0,
        retry_s=0.0,
        error=error,
        errors={},
    )


def test_healthz_of_a_healthy_proxy_is_what_kube_proxy_answers() -> None:
    assert healthz(condition(), NOW, TIMEOUT_S) == (
        True,
        b'{"lastUpdated":"2026-01-01T00:00:10Z","currentTime":"2026-01-01T00:00:10Z",'
        b'"nodeEligible":true,"healthy":true,"status":'
        b'{"IPv4":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true},'
        b'"IPv6":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true}}}',
    )


def test_livez_says_nothing_of_the_node() -> None:
    assert livez(condition(node=make_node(leaving="it is deleted")), NOW, TIMEOUT_S) == (
        True,
        b'{"lastUpdated":"2026-01-01T00:00:10Z","currentTime":"2026-01-01T00:00:10Z",'
        b'"healthy":true,"status":'
        b'{"IPv4":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true},'
        b'"IPv6":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true}}}',
    )


def test_one_family_that_is_late_makes_both_pages_bad() -> None:
    families: Mapping[Family, FamilyProgress] = {"IPv4": IDLE, "IPv6": LATE}

    for page, eligible in ((healthz, b'"nodeEligible":true,'), (livez, b"")):
        assert page(condition(families), NOW, TIMEOUT_S) == (
            False,
            b'{"lastUpdated":"2026-01-01T00:00:00Z","currentTime":"2026-01-01T00:00:10Z",'
            + eligible
            + b'"healthy":false,"status":'
            b'{"IPv4":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true},'
            b'"IPv6":{"lastUpdated":"2025-12-31T23:58:20Z","healthy":false}}}',
        )


@pytest.mark.parametrize("node", [make_node(leaving="it is deleted"), NodeInfo(name="n1")])
def test_an_ineligible_node_is_unhealthy_though_its_proxy_is_not(node: NodeInfo) -> None:
    is_good, body = healthz(condition(node=node), NOW, TIMEOUT_S)

    document = json.loads(body)
    assert not is_good
    assert (document["nodeEligible"], document["healthy"]) == (False, True)
    assert document["lastUpdated"] == "2026-01-01T00:00:00Z"


def test_before_the_loop_runs_no_family_is_reported() -> None:
    assert healthz(condition({}), NOW, TIMEOUT_S) == (
        True,
        b'{"lastUpdated":"2026-01-01T00:00:10Z","currentTime":"2026-01-01T00:00:10Z",'
        b'"nodeEligible":true,"healthy":true}',
    )
    is_good, body = healthz(condition({}, NodeInfo(name="n1")), NOW, TIMEOUT_S)
    assert (is_good, json.loads(body)["lastUpdated"]) == (False, "0001-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("queued_s", "is_good"), [(None, True), (1009.0, True), (950.1, True), (950.0, False)]
)
def test_a_change_may_wait_for_less_than_the_time_out(
    queued_s: float | None, *, is_good: bool
) -> None:
    waiting = FamilyProgress(started_s=0.0, updated_s=0.0, queued_s=queued_s)

    assert livez(condition({"IPv4": waiting}), NOW, TIMEOUT_S)[0] == is_good


@pytest.mark.parametrize(
    ("unix_ns", "text"),
    [
        (1767225610_000_000_000, "2026-01-01T00:00:10Z"),
        (1767225610_123_456_789, "2026-01-01T00:00:10.123456789Z"),
        (1767225610_120_000_000, "2026-01-01T00:00:10.12Z"),
        (1767225610_000_000_001, "2026-01-01T00:00:10.000000001Z"),
        (0, "1970-01-01T00:00:00Z"),
    ],
)
def test_times_are_written_as_go_writes_them(unix_ns: int, text: str) -> None:
    assert Clock(monotonic_s=5.0, unix_ns=unix_ns).rfc3339() == text


def test_an_earlier_time_is_told_by_the_same_clock() -> None:
    assert NOW.rfc3339(1009.5) == "2026-01-01T00:00:09.5Z"


@pytest.fixture
def progress() -> Progress:
    made = Progress()
    made.started(10.0)
    return made


def test_families_appear_when_the_loop_runs() -> None:
    progress = Progress()
    assert progress.families({"IPv4": 5.0}) == {}

    progress.started(10.0)

    started = FamilyProgress(started_s=10.0, updated_s=10.0)
    assert progress.families({}) == dict.fromkeys(FAMILIES, started)


def test_nothing_waits_while_lists_are_incomplete_and_everything_from_then_on(
    progress: Progress,
) -> None:
    assert {each.queued_s for each in progress.families({"IPv4": 5.0}).values()} == {None}

    progress.opened(20.0)

    assert {each.queued_s for each in progress.families({"IPv4": 5.0}).values()} == {20.0}


def test_what_is_taken_waits_until_a_round_ends_well(progress: Progress) -> None:
    progress.opened(20.0)
    progress.succeeded(FAMILIES, 21.0)
    progress.took({"IPv4": 30.0})
    progress.took({"IPv4": 40.0})

    families = progress.families({"IPv4": 50.0, "IPv6": 51.0})
    assert (families["IPv4"].queued_s, families["IPv6"].queued_s) == (30.0, 51.0)

    progress.succeeded((), 60.0)

    families = progress.families({"IPv4": 50.0})
    assert (families["IPv4"].updated_s, families["IPv4"].queued_s) == (60.0, 50.0)
    assert (families["IPv6"].updated_s, families["IPv6"].queued_s) == (21.0, None)


def test_a_round_concerns_what_it_took_and_what_it_did(progress: Progress) -> None:
    assert progress.touched(["IPv6"]) == ("IPv6",)
    progress.took({"IPv4": 30.0})
    assert progress.touched([]) == ("IPv4",)
    assert set(progress.touched(["IPv6"])) == set(FAMILIES)


def test_a_proxy_that_is_well_has_no_degradation() -> None:
    assert degraded(condition(), [report()], NOW.monotonic_s, TIMEOUT_S) == []


@pytest.mark.parametrize(
    ("bad", "reports", "found"),
    [
        (
            structs.replace(
                condition(node=NodeInfo(name="n1")),
                is_synced=False,
                unlisted=frozenset({"Node", "EndpointSlice"}),
            ),
            [],
            [
                ("lists", "waiting for the first list of EndpointSlice, Node"),
                ("first-sync", "not everything has been programmed yet"),
            ],
        ),
        (
            structs.replace(condition(), is_synced=False),
            [],
            [("first-sync", "not everything has been programmed yet")],
        ),
        (
            structs.replace(condition(node=NodeInfo(name="n1")), unlisted=frozenset({"Node"})),
            [],
            [("node", "the own Node is not known: neither its zone nor its addresses")],
        ),
        (
            structs.replace(condition(), uses_pod_cidrs=True),
            [],
            [
                (
                    "node",
                    "detectLocalMode is NodeCIDR and the Node has no podCIDR: nothing counts as a local pod",
                )
            ],
        ),
        (
            structs.replace(
                condition(node=make_node(pod_cidrs=("10.244.1.0/24",))), uses_pod_cidrs=True
            ),
            [],
            [],
        ),
        (
            structs.replace(condition(), fallback="mode userspace instead of nftables: why"),
            [],
            [("mode", "mode userspace instead of nftables: why")],
        ),
        (
            structs.replace(condition(), last_error="no memory"),
            [],
            [("reconcile", "no memory")],
        ),
        (
            condition({"IPv4": LATE, "IPv6": IDLE}),
            [],
            [("backlog", "changes of IPv4 have waited for 60 s")],
        ),
        (
            structs.replace(condition(), refused=1),
            [],
            [("quarantine", "1 service port is refused by the kernel")],
        ),
        (
            structs.replace(condition(), refused=2),
            [],
            [("quarantine", "2 service ports are refused by the kernel")],
        ),
        (
            structs.replace(condition(), leftovers="busy"),
            [],
            [("leftovers", "could not be removed: busy")],
        ),
        (
            structs.replace(condition(), is_contended=True),
            [],
            [("contention", "somebody keeps changing our objects")],
        ),
        (
            condition(),
            [report(), report("connection refused")],
            [("watch", "Service: connection refused")],
        ),
    ],
)
def test_everything_that_is_not_as_it_should_be_is_named(
    bad: Condition, reports: list[WatchReport], found: list[tuple[str, str]]
) -> None:
    named = degraded(bad, reports, NOW.monotonic_s, TIMEOUT_S)

    assert [(each.code, each.words) for each in named] == found


def test_readyz_has_a_line_for_each_check() -> None:
    is_ready, text = readyz(condition(), [])

    assert is_ready
    assert text == "".join(f"[+]{check} ok\n" for check in CHECKS) + "readyz check passed\n"


def test_a_degraded_proxy_is_ready_and_says_what_is_wrong() -> None:
    found = [
        Degraded(code="watch", words="Service: 403"),
        Degraded(code="watch", words="Node: 403"),
        Degraded(code="reconcile", words="no memory"),
    ]

    is_ready, text = readyz(condition(), found)

    assert is_ready
    assert "\n[-]reconcile failed: no memory\n" in text
    assert "[-]watch failed: Service: 403\n[-]watch failed: Node: 403\n" in text
    assert "[+]watch" not in text
    assert text.endswith("readyz check passed\n")


def test_before_the_first_sync_a_proxy_is_not_ready() -> None:
    is_ready, text = readyz(structs.replace(condition(), is_synced=False), [])

    assert not is_ready
    assert text.endswith("readyz check failed\n")


@pytest.mark.parametrize(("family", "is_good"), [(IDLE, True), (LATE, False)])
def test_a_proxy_keeps_up_while_no_family_is_late(family: FamilyProgress, is_good: bool) -> None:
    now = condition({"IPv4": IDLE, "IPv6": family})

    assert is_keeping_up(now, NOW.monotonic_s, TIMEOUT_S) is is_good
