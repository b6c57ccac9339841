"""Our own metrics: what is known, what was done, what is wrong, and no label that grows with the cluster."""

import pytest

from proxy import __version__
from proxy.backend import Drift, Figure
from proxy.events_recorder import node_reference
from proxy.health import CHECKS
from proxy.journal import STAGES
from proxy.ladder import Refusal
from proxy.model import Rejected
from proxy.sources.events import Problems, Upsert, WatchReport
from tests.model_builders import (
    make_endpoint,
    make_key,
    make_service,
    make_service_port,
    make_slice,
)
from tests.unit.proxy.metrics.measured import Measured

WEB = make_service()
SINCE_S, HEARD_S = 700.0, 400.0


def names(measured: Measured) -> set[str]:
    """The names of series without those labels' values that are numbers of a program or host."""
    return {name for name in measured.series("sliceproxy_") if "_bucket" not in name}


def watched(measured: Measured, *, heard: bool = True, error: str = "") -> WatchReport:
    return WatchReport(
        kind="EndpointSlice",
        phase="watching",
        since_s=measured.now_s - SINCE_S,
        heard_s=measured.now_s - HEARD_S if heard else 0.0,
        resource_version="12",
        objects=9,
        lists=2,
        watches=3,
        failures=4,
        retry_s=0.0,
        error=error,
        errors={"gone": 5},
    )


def test_a_larger_cluster_has_no_more_series() -> None:
    small, large = Measured(), Measured()
    events = [
        event
        for number in range(50)
        for event in (
            Upsert(
                make_service(
                    f"default/s{number}", make_service_port(cluster_ip=f"10.96.1.{number}")
                )
            ),
            Upsert(make_slice(f"s-{number}", make_endpoint(), service=f"s{number}")),
        )
    ]
    large.reconciler.cache.apply(events, large.now_s)
    large.work()
    small.work()

    assert names(large) == names(small)
    assert large.series("sliceproxy_services") == {"sliceproxy_services": 50.0}


def test_which_program_this_is() -> None:
    found = Measured().series("sliceproxy_", mode="null")

    assert found[f'sliceproxy_build_info{{version="{__version__}"}}'] == 1.0
    assert found['sliceproxy_mode_info{mode="null"}'] == 1.0


def test_whether_a_better_mode_was_passed_over() -> None:
    measured = Measured()
    usual = measured.series("sliceproxy_passed_over") | measured.series("sliceproxy_fallback")
    assert usual == {
        "sliceproxy_fallback": 0.0,
        **{
            f'sliceproxy_passed_over_mode{{mode="{mode}"}}': 0.0
            for mode in ("nftables", "ipvs", "iptables", "userspace")
        },
    }

    measured.reconciler.passed_over = (Refusal(mode="ipvs", primitive="IPVS"),)
    measured.reconciler.falls = 2

    found = measured.series("sliceproxy_")
    assert found["sliceproxy_fallback"] == 1.0
    assert found['sliceproxy_passed_over_mode{mode="ipvs"}'] == 1.0
    assert found['sliceproxy_passed_over_mode{mode="nftables"}'] == 0.0
    assert found["sliceproxy_mode_changes_total"] == 2.0
    assert found['sliceproxy_degraded{code="mode"}'] == 1.0


def test_objects_are_counted() -> None:
    measured = Measured(
        [
            Upsert(WEB),
            Upsert(make_service("default/files", skipped="headless")),
            Upsert(make_slice("s-1", make_endpoint("10.1.0.1:80"), make_endpoint("10.1.0.2:80"))),
            Upsert(make_slice("s-2")),
            Upsert(make_slice("s-3", make_endpoint(), service="api")),
        ]
    )
    measured.work()

    found = measured.series("sliceproxy_")
    wanted = {
        "services": 2.0,
        "endpoint_slices": 3.0,
        "endpoint_slices_empty": 1.0,
        "endpoint_slices_per_service_max": 2.0,
        "endpoints": 3.0,
        "service_ports": 1.0,
    }
    assert {name: found[f"sliceproxy_{name}"] for name in wanted} == wanted


def test_no_slice_is_the_most_there_is_without_any() -> None:
    assert Measured().series("sliceproxy_endpoint_slices_per_service_max") == {
        "sliceproxy_endpoint_slices_per_service_max": 0.0
    }


def test_rejected_objects_are_counted_by_kind_and_class_and_taken_back() -> None:
    bad = Rejected(kind="Service", name="default/web", field="spec.ports[0].port", reason="0")
    measured = Measured(
        [Problems("Service default/web", (bad, bad)), Problems("Service default/api", (bad,))]
    )

    name = 'sliceproxy_rejected_objects{kind="Service",reason="port"}'
    assert measured.series("sliceproxy_rejected") == {name: 2.0}
    measured.reconciler.cache.apply([Problems("Service default/web", ())], 0.0)
    assert measured.series("sliceproxy_rejected") == {name: 1.0}


def test_each_stage_of_changes_is_measured() -> None:
    measured = Measured([Upsert(WEB)])
    measured.work()

    found = measured.series("sliceproxy_change")
    name = "sliceproxy_change_stage_duration_seconds_count"
    assert {f'{name}{{stage="{stage}"}}': 1.0 for stage in STAGES} == {
        series: value for series, value in found.items() if series.startswith(name)
    }
    assert found["sliceproxy_change_duration_seconds_count"] == 1.0
    assert found["sliceproxy_change_arrival_duration_seconds_count"] == 0.0
    assert found["sliceproxy_changes_total"] == 1.0


def test_rounds_and_what_they_wrote_are_counted() -> None:
    measured = Measured([Upsert(WEB)])
    measured.work()
    measured.meter.rounds[False] += 2

    found = measured.series("sliceproxy_")
    assert found['sliceproxy_rounds_total{result="ok"}'] == 1.0
    assert found['sliceproxy_rounds_total{result="failed"}'] == 2.0
    assert found["sliceproxy_kernel_operations_total"] == measured.reconciler.operations > 0
    assert found["sliceproxy_kernel_transactions_total"] == measured.reconciler.transactions > 0


def test_what_is_refused_and_contested_is_counted() -> None:
    older = make_service("default/old", created="2025-01-01T00:00:00Z")
    measured = Measured([Upsert(WEB), Upsert(older)])
    measured.work()
    measured.reconciler.backlog.set_aside(make_key("default/old"), "no", retry_s=0.0)

    found = measured.series("sliceproxy_")
    assert found["sliceproxy_contested_service_ports"] == 1.0
    assert found["sliceproxy_quarantined_service_ports"] == 1.0
    assert found['sliceproxy_degraded{code="quarantine"}'] == 1.0


def test_comparisons_and_repairs_are_counted() -> None:
    measured = Measured()
    measured.verifier.verifications = 3
    measured.verifier._repair([Drift(key=None, what="a chain"), Drift(key=None, what="a set")])

    found = measured.series("sliceproxy_")
    assert found["sliceproxy_verifications_total"] == 3.0
    assert found["sliceproxy_drift_repairs_total"] == 1.0
    assert found["sliceproxy_drifted_objects_total"] == 2.0


def test_every_check_has_a_series_whether_or_not_it_finds_something() -> None:
    measured = Measured()
    before = measured.series("sliceproxy_degraded")
    measured.work()
    after = measured.series("sliceproxy_degraded")

    assert set(before) == {f'sliceproxy_degraded{{code="{check}"}}' for check in CHECKS}
    assert {name for name, value in before.items() if value} == {
        'sliceproxy_degraded{code="first-sync"}'
    }
    assert set(after.values()) == {0.0}
    assert (set(before), measured.series("sliceproxy_synced")) == (
        set(after),
        {"sliceproxy_synced": 1.0},
    )


def test_contention_is_a_gauge_of_its_own() -> None:
    measured = Measured()
    for _ in range(9):
        measured.reconciler.schedule.verified(measured.now_s, repaired=True)

    assert measured.series("sliceproxy_contended") == {"sliceproxy_contended": 1.0}


def test_a_change_that_waits_too_long_is_a_degradation() -> None:
    measured = Measured()
    measured.now_s -= 1000.0
    measured.reconciler.progress.started(measured.now_s)
    measured.reconciler.progress.opened(measured.now_s)

    assert measured.series("sliceproxy_degraded")['sliceproxy_degraded{code="backlog"}'] == 1.0


def test_without_an_api_server_there_are_no_watches() -> None:
    assert Measured().series("sliceproxy_watch") == {}


def test_what_only_a_data_plane_counts_bears_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured()
    figures = (
        Figure(name="waiting", text="Who waits.", values={"": 2}),
        Figure(name="gone_total", text="Who went.", values={"idle": 3, "cut": 0}, label="reason"),
    )
    monkeypatch.setattr(measured.reconciler.backend, "figures", lambda: figures)

    assert measured.series("sliceproxy_ipvs", mode="ipvs") == {
        "sliceproxy_ipvs_waiting": 2.0,
        'sliceproxy_ipvs_gone_total{reason="idle"}': 3.0,
        'sliceproxy_ipvs_gone_total{reason="cut"}': 0.0,
    }


def test_how_it_stands_with_the_api_server() -> None:
    measured = Measured()
    measured.reports = (watched(measured, error="the connection was refused"),)

    found = measured.series("sliceproxy_")
    kind = 'kind="EndpointSlice"'
    assert found[f'sliceproxy_watch_phase{{{kind},phase="watching"}}'] == 1.0
    assert found[f'sliceproxy_watch_phase{{{kind},phase="waiting"}}'] == 0.0
    assert found[f'sliceproxy_watch_errors_total{{{kind},reason="gone"}}'] == 5.0
    assert found[f'sliceproxy_watch_errors_total{{{kind},reason="silent"}}'] == 0.0
    assert found[f"sliceproxy_watch_phase_age_seconds{{{kind}}}"] == pytest.approx(SINCE_S, abs=60)
    assert found[f"sliceproxy_watch_silence_seconds{{{kind}}}"] == pytest.approx(HEARD_S, abs=60)
    assert found[f"sliceproxy_watch_failures{{{kind}}}"] == 4.0
    assert found[f"sliceproxy_watch_objects{{{kind}}}"] == 9.0
    assert found[f"sliceproxy_watch_lists_total{{{kind}}}"] == 2.0
    assert found[f"sliceproxy_watch_starts_total{{{kind}}}"] == 3.0
    assert found['sliceproxy_degraded{code="watch"}'] == 1.0


def test_a_server_that_was_never_heard_has_no_silence() -> None:
    measured = Measured()
    measured.reports = (watched(measured, heard=False),)

    assert measured.series("sliceproxy_watch_silence") == {}


def test_events_are_counted_by_what_became_of_them() -> None:
    measured = Measured()
    measured.recorder.warn(node_reference("n1"), "Contended", "x")
    message = measured.recorder.take()
    assert message is not None
    measured.recorder.sent(message)

    assert measured.series("sliceproxy_events") == {
        'sliceproxy_events_total{result="sent"}': 1.0,
        'sliceproxy_events_total{result="failed"}': 0.0,
        'sliceproxy_events_total{result="dropped"}': 0.0,
    }
